"""The audit of a training stage: how many rows are read, used whole, cut and left out, and which.

It is made with the tokenizer before a model is loaded (`tasks/training/fates.py` has the trainers' rules), so that a
recipe whose limits do not fit its data stops at once: `max_left_out` and `max_cut` say which shares it takes. The
counts and the ids are in `audit.json`, under the split or, where a stage goes in rounds, under the round.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.models.multimodal import tokenizer_of
from tasks.multimodal.images import has_images
from tasks.stage import artifact
from tasks.stage.audit_record import FILE, Record, sentence
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import fates as row_fates
from tasks.training import pictured
from tasks.training import rows as training_rows
from tasks.training.fates import Fate, Rows, Rule

log = logging.getLogger("polm")


class Limit(NamedTuple):
    """The most tokens that a row may have."""

    tokens: int | None
    """None: no limit."""
    key: str
    """Where it comes from, for messages."""
    remedy: str
    """What a user can do to it, for messages."""


def longest_row(trainer: Mapping[str, Any], config_class: type[Any]) -> Limit:
    """Find the limit of a trainer that reads whole rows."""
    return Limit(
        row_fates.settings(trainer, config_class)["max_length"], "trainer.max_length", "raise trainer.max_length"
    )


def longest_prompt(model: Path, answer: int, key: str) -> Limit:
    """Find the most tokens of a prompt that leave room for a whole answer in the model's context.

    Args:
        model: model folder.
        answer: most tokens of an answer.
        key: the recipe's key that says so.
    """
    whole = context(model)
    limited_by = f"the model's context of {whole} less {key}"
    return Limit(None if whole is None else whole - answer, limited_by, f"lower {key.split()[-1]}")


def context(model: Path) -> int | None:
    """Read how many positions a model knows; None where its configuration names no number."""
    from transformers import AutoConfig

    positions: int | None = AutoConfig.from_pretrained(model).get_text_config().to_dict().get("max_position_embeddings")
    return positions


def audited(
    config: TrlConfig,
    run: Run,
    data: Path,
    dataset: str,
    reader: Any,
    config_class: type[Any],
    rule: Rule,
    model: Path,
) -> dict[str, Record]:
    """Audit both splits of a set that a trainer reads whole, and write `audit.json`.

    Args:
        config: the stage's configuration.
        run: the stage's run.
        data: data artifact.
        dataset: name of its set.
        reader: tokenizer with the chat template of the training, or the processor that has it.
        config_class: TRL's class, whose trainer reads the rows.
        rule: what that trainer makes of a row that is too long.
        model: folder of the model that is trained.

    Returns:
        Name of the split to its record.

    Raises:
        DataError: no such set, more of it is left out or cut than the recipe allows, or what is left of a row is longer
            than the model's context.
        ConfigError: rows with pictures, and a model without eyes, or a key of `trainer` that is for text alone.
    """
    records = {}
    for split in ("train", "validation"):
        source = (dataset, split_file(data, dataset, split))
        rows = pictured.counted(run, training_rows.read(data, dataset, split), reader, source[1], data)
        if has_images(rows):
            pictured.check_trainer(run, config.trainer, longest_row(config.trainer, config_class).tokens)
        records[split] = learnt(config, run, split, rows, source, tokenizer_of(reader), config_class, rule, model)
    write(run, records)
    return records


def learnt(
    config: TrlConfig,
    run: Run,
    part: str,
    rows: Rows,
    source: tuple[str, Path],
    tokenizer: Any,
    config_class: type[Any],
    rule: Rule,
    model: Path,
) -> Record:
    """Audit rows that a trainer reads whole: `source` is their set and where they lie. Raises as `audited`."""
    with _named(source[1]):
        fates = rule(rows, tokenizer, row_fates.settings(config.trainer, config_class))
        warnings = _unlike(rows, source[0], tokenizer)
    extra = [row.get(row_fates.IMAGE_TOKENS, 0) for row in rows]
    fates = [fate._replace(tokens=fate.tokens + tokens) for fate, tokens in zip(fates, extra, strict=True)]
    limit = longest_row(config.trainer, config_class)
    record = count(rows, fates, source[0], limit)
    hold(config, run, source[1], part, record, limit)
    for text in warnings:
        log.warning("warning: %s: %s", part, text)
    learnt_tokens = max(fate.tokens for fate in fates if fate.state != "left_out")
    learnt_tokens = learnt_tokens if limit.tokens is None else min(learnt_tokens, limit.tokens)
    if learnt_tokens > (most := context(model) or learnt_tokens):
        remedy = "leave longer rows out of the data, or take smaller or fewer pictures"
        if not any(extra):
            remedy = f"set trainer.max_length in {run.params_file} to no more than that"
        raise DataError(
            f"{source[1]}: rows of up to {learnt_tokens} tokens would be trained on, and the context of {model} is "
            f"{most}: {remedy}"
        )
    return record


def asked(
    config: TrlConfig,
    run: Run,
    part: str,
    rows: Rows,
    source: tuple[str, Path],
    tokenizer: Any,
    limit: Limit,
    chat_template_args: Mapping[str, Any],
) -> tuple[Record, list[int]]:
    """Audit prompts that are to be answered.

    Returns:
        The record, and numbers of the rows, from 0, that leave room for an answer: only these are to be asked.

    Raises:
        DataError: more of the rows leave no room than the recipe allows.
    """
    with _named(source[1]):
        fates = row_fates.prompts(rows, tokenizer, limit.tokens, chat_template_args)
        warnings = _unlike(rows, source[0], tokenizer, add_generation_prompt=True, **chat_template_args)
    record = count(rows, fates, source[0], limit)
    hold(config, run, source[1], part, record, limit)
    for text in warnings:
        log.warning("warning: %s: %s", part, text)
    return record, [number for number, fate in enumerate(fates) if fate.state == "used"]


@contextlib.contextmanager
def _named(source: Path) -> Iterator[None]:
    """Say in a DataError where the rows lie."""
    try:
        yield
    except DataError as e:
        raise DataError(f"{source}: {e}") from None


def _unlike(rows: Rows, dataset: str, tokenizer: Any, **template_args: Any) -> list[str]:
    """Warn of rows whose words are not what reaches the model: left out by the template, or read as tokens."""
    warnings = []
    if lost := row_fates.unwritten(rows, tokenizer, **template_args):
        name, role = lost[0]
        warnings.append(
            f"the model's chat template leaves out words of messages of {len(lost)} of {len(rows)} rows of {dataset} "
            f"(first: the {role}'s in row {name}); nothing is learnt of them"
        )
    if spelt := row_fates.spelt(rows, tokenizer):
        name, token = spelt[0]
        warnings.append(
            f"{len(spelt)} of {len(rows)} rows of {dataset} spell special tokens of the tokenizer (first: {token!r} in "
            f"row {name}), which are read as such and not as text; take them out of the data, which the chat template "
            f"writes where they belong"
        )
    return warnings


def count(rows: Rows, fates: Sequence[Fate], dataset: str, limit: Limit) -> Record:
    """Make the record of one part."""
    names = row_fates.names(rows)
    by_state: dict[str, list[str]] = {"used": [], "cut": [], "left_out": []}
    for name, fate in zip(names, fates, strict=True):
        by_state[fate.state].append(name)
    longest = max(range(len(names)), key=lambda i: fates[i].tokens)
    return {
        "dataset": dataset,
        "limit": limit.tokens,
        "limited_by": limit.key,
        "rows": len(names),
        **{state: len(ids) for state, ids in by_state.items()},
        "longest": {"id": names[longest], "tokens": fates[longest].tokens},
        "cut_ids": by_state["cut"],
        "left_out_ids": by_state["left_out"],
    }


def excess(config: TrlConfig, where: Path, record: Mapping[str, Any], limit: Limit) -> str | None:
    """Write the message where a larger share is lost than the recipe file `where` allows, or every row is left out."""
    if record["left_out"] == record["rows"]:
        return f"{sentence(record)}; nothing is left to learn from: {limit.remedy}, or shorten the rows"
    for state, key, most in (("left_out", "max_left_out", config.max_left_out), ("cut", "max_cut", config.max_cut)):
        if record[state] > most * record["rows"]:
            return (
                f"{sentence(record)}; {where} allows a share of {most:g} ({key}): {limit.remedy}, shorten or drop the "
                f"longest rows, or raise {key}"
            )
    return None


def hold(config: TrlConfig, run: Run, source: Path, part: str, record: Record, limit: Limit) -> None:
    """Warn of a part's losses, and refuse what the recipe does not allow.

    Args:
        config: the stage's configuration.
        run: the stage's run.
        source: where the rows come from.
        part: the split or the round, for the warning.
        record: the part's record.
        limit: the part's limit.

    Raises:
        DataError: a larger share of the rows is left out or cut than the recipe allows, or every row is left out.
    """
    if refused := excess(config, run.params_file, record, limit):
        raise DataError(f"{source}: {refused}")
    if lost := sentence(record):
        log.warning("warning: %s: %s", part, lost)


def write(run: Run, records: Mapping[str, Record]) -> None:
    """Write `audit.json`, in the main process."""
    if run.main_process:
        artifact.write_json(run.out / FILE, dict(records))
