"""What a teacher writes for its student to learn: its answers to the prompts of some sets."""

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models.folder import load_tokenizer
from tasks.sampling.sample import SamplingSettings, sample
from tasks.stage import artifact, audit_record
from tasks.stage.config import Strict
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit
from tasks.training import rows as training_rows

ANSWERED = "answers.json"
"""Mark that the answers are whole: a killed stage goes on behind it."""


class Answers(Strict):
    """The teacher's answers, as rows."""

    prompts: dict[str, int] = Field(min_length=1)
    """Set of the data artifact to the number of its prompts that are answered; without the answer."""
    sampling: SamplingSettings
    """How the teacher answers."""
    chat_template_args: dict[str, Any]
    """Passed to the chat template, e.g. `enable_thinking: false`."""


def answered(
    config: TrlConfig, settings: Answers, run: Run, teacher: Any, folder: Path, data: Path
) -> tuple[list[dict[str, Any]], dict[str, int], audit_record.Record]:
    """Rows of the teacher's answers, drawn once and kept with the checkpoints.

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
    tokenizer, seed = load_tokenizer(folder), config.seed
    prompts = [
        {"prompt": prompt}
        for name, count in settings.prompts.items()
        for prompt in _prompts(data, name, count, seed, run)
    ]
    limit = audit.longest_prompt(folder, settings.sampling.max_new_tokens, "answers.sampling.max_new_tokens")
    source = ", ".join(settings.prompts), data
    record, fitting = audit.asked(
        config, run, "prompts", prompts, source, tokenizer, limit, settings.chat_template_args
    )
    rows, mark = run.checkpoints / "answers.jsonl", run.checkpoints / ANSWERED
    if not mark.exists():
        conversations = [prompts[number]["prompt"] for number in fitting]
        drawn = sample(
            teacher, tokenizer, conversations, settings.sampling, settings.chat_template_args, seed,
            lambda done, total: run.progress.update(done, total, "the teacher answers"),
        )  # fmt: skip
        ended = [
            {"messages": [*prompt, {"role": "assistant", "content": answer.text}]}
            for prompt, answers in zip(conversations, drawn, strict=True)
            for answer in answers
            if answer.tokens < settings.sampling.max_new_tokens
        ]
        total = sum(map(len, drawn))
        if not ended:
            raise DataError(
                f"{run.params_file}: none of the teacher's {total} answers ended; raise answers.sampling.max_new_tokens"
            )
        artifact.write_jsonl(rows, ended)
        artifact.write_json(mark, {"answers": len(ended), "answers_cut_off": total - len(ended)})
    return artifact.read_jsonl(rows), artifact.read_json(mark), record


def _prompts(data: Path, name: str, count: int, seed: int, run: Run) -> list[list[dict[str, str]]]:
    found = training_rows.examples(data, name, "train")
    if len(found) < count:
        raise DataError(
            f"{run.params_file}: answers.prompts.{name} is {count}, but the set has {len(found)} rows; ask for fewer"
        )
    rows = (training_rows.parted(row) for row in found.shuffle(seed=seed).select(range(count)))
    return [row["prompt"] for row in rows]
