"""Answers of a teacher to the prompts of some sets, as rows for its student to learn."""

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models.folder import load_tokenizer
from tasks.sampling.sample import Answer, SamplingSettings, sample
from tasks.stage import artifact, audit_record
from tasks.stage.config import Strict
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit
from tasks.training import rows as training_rows

ANSWERED = "answers.json"
"""File that marks the answers as complete: a killed stage goes on behind it."""


class Answers(Strict):
    """Rows of the teacher's answers."""

    prompts: dict[str, int] = Field(min_length=1)
    """Set of the data artifact to the number of its prompts that the teacher answers."""
    sampling: SamplingSettings
    """SamplingSettings of the teacher's answers."""
    chat_template_args: dict[str, Any]
    """Arguments passed to the chat template, e.g. `enable_thinking: false`."""


def draw(
    config: TrlConfig, settings: Answers, run: Run, teacher: Any, folder: Path, data: Path
) -> tuple[list[dict[str, Any]], dict[str, int], audit_record.Record]:
    """Return rows of the teacher's answers, drawn once and kept with the checkpoints.

    An answer that did not end within `max_new_tokens` is left out: its student would learn not to end.

    Args:
        config: of the stage.
        settings: of its method.
        run: of the stage.
        teacher: causal language model, on its device.
        folder: its model folder.
        data: data artifact.

    Returns:
        Rows of `messages`, counts for `metrics.json`, and the audit of the prompts: one that leaves no room for a whole
        answer in the teacher's context is not asked.

    Raises:
        DataError: no such set, one with fewer rows than are asked for, more prompts without room than the recipe
            allows, or not one answer ended.
    """
    tokenizer = load_tokenizer(folder)
    prompts = [
        {"prompt": prompt}
        for name, count in settings.prompts.items()
        for prompt in _prompts(data, name, count, config.seed, run)
    ]
    limit = audit.longest_prompt(folder, settings.sampling.max_new_tokens, "answers.sampling.max_new_tokens")
    source = (", ".join(settings.prompts), data)
    record, fitting = audit.asked(
        config, run, "prompts", prompts, source, tokenizer, limit, settings.chat_template_args
    )
    rows = run.checkpoints / "answers.jsonl"
    mark = run.checkpoints / ANSWERED
    if not mark.exists():
        conversations = [prompts[number]["prompt"] for number in fitting]
        answers_by_prompt = sample(
            teacher,
            tokenizer,
            conversations,
            settings.sampling,
            settings.chat_template_args,
            config.seed,
            lambda done, total: run.progress.update(done, total, "the teacher answers"),
        )
        complete = _complete(conversations, answers_by_prompt, settings.sampling.max_new_tokens)
        total = sum(map(len, answers_by_prompt))
        if not complete:
            raise DataError(
                f"{run.params_file}: none of the teacher's {total} answers ended; raise answers.sampling.max_new_tokens"
            )
        artifact.write_jsonl(rows, complete)
        artifact.write_json(mark, {"answers": len(complete), "answers_cut_off": total - len(complete)})
    return artifact.read_jsonl(rows), artifact.read_json(mark), record


def _complete(
    conversations: list[list[dict[str, str]]], answers_by_prompt: list[list[Answer]], max_new_tokens: int
) -> list[dict[str, Any]]:
    """Return a row of `messages` for each answer that ended."""
    return [
        {"messages": [*prompt, {"role": "assistant", "content": answer.text}]}
        for prompt, answers in zip(conversations, answers_by_prompt, strict=True)
        for answer in answers
        if answer.tokens < max_new_tokens
    ]


def _prompts(data: Path, name: str, count: int, seed: int, run: Run) -> list[list[dict[str, str]]]:
    """Draw `count` prompts of a set, without their answers."""
    examples = training_rows.examples(data, name, "train")
    if len(examples) < count:
        raise DataError(
            f"{run.params_file}: answers.prompts.{name} is {count}, but the set has {len(examples)} rows; ask for fewer"
        )
    chosen = examples.shuffle(seed=seed).select(range(count))
    return [training_rows.parted(row)["prompt"] for row in chosen]
