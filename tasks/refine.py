"""Self-refinement: the model drafts, checks and revises, and learns from the revisions that turned wrong into right.

One raw row: {"prompt": [{"role": "user", "content": "Add 358 and 967."}], "answer": "1325", "digits": 3}

Each round samples drafts on the training prompts, has the same model critique each and revise what it finds fault
with, and grades both. A revision that reaches the bar where its draft did not is learnt as the answer to the question,
so that the next draft is as good, and with `learn_turns` the critique and the revision are learnt where they stand;
right drafts that the critique let stand are mixed in, or else it would learn that everything is wrong. That is RISE
(Qu et al., arXiv:2407.18219) with one turn of revision, and rejection sampling in the place of weights by reward; what
it leaves out is RL over both turns (SCoRe, Kumar et al., arXiv:2409.12917). A small model has to learn the turns first:
`critique` is `tasks/sft.py` on written ones.

Before the first round and after the last one the model is measured on held-out prompts: refinement against best-of-n
at the same number of generated tokens (`tasks/self_training/best_of_n.py`, written to `refine.json`).
"""

import json
import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models.folder import load_tokenizer
from tasks.rewards.composite import Rewards
from tasks.sampling.sample import Answer, SamplingSettings, sample
from tasks.self_training import rounds
from tasks.self_training.best_of_n import Comparison, compared, draw_drafts
from tasks.self_training.revision import Ask, Attempt, Messages, Turns, revised, said, to_check, to_revise
from tasks.self_training.rounds import RoundsConfig, Rows
from tasks.stage import artifact, audit_record
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import audit as row_audit
from tasks.training import rows as training_rows

log = logging.getLogger("polm")
trainer_class = rounds.trainer_class
TURNS = 3
"""Answers of the model in one conversation: draft, critique, revision."""


class Config(RoundsConfig):
    """`params/<recipe>/refine.yaml`."""

    turns: Turns
    """What is said between drafts, critiques and revisions; the words that `critique` has learnt."""
    revising_temperature: float = Field(ge=0)
    """Of critiques and revisions in the rounds; 0 takes the likeliest token. One of each for each distinct draft."""
    keep_per_prompt: int = Field(ge=1)
    """Most revisions to one prompt that are learnt, the first ones drawn."""
    keep_right: float = Field(ge=0)
    """Right drafts that the critique let stand to learn besides, for each revision learnt."""
    learn_turns: bool
    """Learn the critique and the revision too where they stand, and not only the revision as the first answer."""
    comparison: Comparison
    """Refinement against best-of-n."""


def main(config: Config, run: Run, *, model: Path, data: Path, judge: Path | None = None) -> None:
    """Compare, run the rounds, compare again; write the last model, its curves, `rounds.json` and `refine.json`.

    `judge` is for the grader `model_judge` only.
    """
    rewards = Rewards(config.graders, run.params_file, judge)
    with run.timed("import"):
        arguments = rounds.arguments(config, run)
    tokenizer = load_tokenizer(model)
    prompts, record = rounds.prompts(config, run, tokenizer, model, data, TURNS, lambda row: _whole(config, row))
    held_out, held_record = _held_out(config, run, tokenizer, model, data)
    rounds.check_replay(config, run, data)

    def keep(policy: Any, asked: Rows, number: int) -> tuple[Rows, dict[str, Any]]:
        return collect(config, rewards, policy, tokenizer, asked, number, run)

    def measure(folder: Path, when: str) -> dict[str, Any]:
        return compare(config, rewards, rounds.load_policy(folder, arguments), tokenizer, held_out, run, when)

    before = run.checkpoints / "before.json"
    if not before.exists():
        before.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_json(before, measure(model, "before"))
    audit = {"prompts": record, "validation": held_record}
    rounds.run_rounds(config, run, keep, model=model, tokenizer=tokenizer, data=data, asked=prompts, audit=audit)
    found = {"before": artifact.read_json(before), "after": measure(run.out, "after")}
    artifact.write_json(run.out / "refine.json", found)
    for when, result in found.items():
        log.info("%s: refinement %.3f, best-of-n %.3f at %d tokens: %s", when, result["refined"]["value"],
                 result["vote"]["value"], result["refinement"]["tokens"], result["winner"])  # fmt: skip


def _whole(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    """The longest conversation that a row comes to, with nothing yet said by the model."""
    return {**row, "prompt": to_revise(to_check(row["prompt"], "", config.turns), "", config.turns)}


def _held_out(config: Config, run: Run, tokenizer: Any, model: Path, data: Path) -> tuple[Rows, audit_record.Record]:
    """The held-out prompts that leave room for all turns, and their record. Raises DataError as `_audit.hold`."""
    rows = training_rows.read(data, config.dataset, "validation")[: config.comparison.prompts]
    source = config.dataset, split_file(data, config.dataset, "validation")
    record, fitting = row_audit.asked(
        config, run, "validation", [_whole(config, row) for row in rows], source, tokenizer,
        rounds.room(config, model, TURNS), config.chat_template_args,
    )  # fmt: skip
    return [rows[number] for number in fitting], record


def collect(
    config: Config, rewards: Rewards, policy: Any, tokenizer: Any, asked: Rows, number: int, run: Run
) -> tuple[Rows, dict[str, Any]]:
    """Draft, critique, revise, grade, keep.

    Returns:
        Rows `{"prompt": […], "completion": […]}` to learn from, and the round's counts.

    Raises:
        DataError: not one revision turned wrong into right.
    """
    raised, seed = sum(rewards.failures.values()), config.seed + 1000 * number
    drawn = sample(
        policy, tokenizer, [row["prompt"] for row in asked], config.sampling, config.chat_template_args, seed,
        lambda done, total: run.progress.update(done, total, f"round {number + 1}: drafting"),
    )  # fmt: skip
    pairs = [(row, draft) for row, drafts in zip(asked, drawn, strict=True) for draft in _distinct(drafts)]
    one = config.sampling.model_copy(update={"samples_per_prompt": 1, "temperature": config.revising_temperature})
    ask = _asker(config, policy, tokenizer, run, one, seed + 500, f"round {number + 1}: revising")
    attempts = revised(ask, [row["prompt"] for row, _ in pairs], [draft for _, draft in pairs], config.turns)
    rows = [row for row, _ in pairs]
    before = _right(config, rewards, rows, [attempt.draft.text for attempt in attempts])
    after = _right(config, rewards, rows, [attempt.final for attempt in attempts])
    judged = list(zip(attempts, before, after, strict=True))
    improved = _per_prompt([a for a, was, now in judged if now and not was], config.keep_per_prompt)
    stood = _per_prompt([a for a, was, _ in judged if was and a.revision is None], 1)
    if not improved:
        raise DataError(
            f"{run.params_file}: round {number + 1}: of {before.count(False)} drafts below accept = {config.accept:g} "
            f"no revision reached it; train the critique longer, sample more drafts, or raise revising_temperature"
        )
    stood = stood[: round(config.keep_right * len(improved))]
    learnt = [row for attempt in [*improved, *stood] for row in _lessons(config, attempt)]
    unique = [json.loads(text) for text in dict.fromkeys(json.dumps(row, ensure_ascii=False) for row in learnt)]
    return unique, {
        "prompts": len(asked), "drafts": len(judged), "right": sum(before),
        "fault_found": sum(attempt.revision is not None for attempt in attempts),
        "improved": sum(now and not was for _, was, now in judged),
        "spoilt": sum(was and not now for _, was, now in judged),
        "kept": len(unique), "raised": sum(rewards.failures.values()) - raised,
    }  # fmt: skip


def compare(
    config: Config, rewards: Rewards, policy: Any, tokenizer: Any, rows: Rows, run: Run, when: str
) -> dict[str, Any]:
    """Refinement of the greedy draft against best-of-n, on `rows`: `_versus.compared`."""
    prompts, settings, label = [row["prompt"] for row in rows], config.comparison, f"comparing, {when}"
    one = config.sampling.model_copy(update={"samples_per_prompt": 1, "temperature": 0.0})
    more = one.model_copy(update={"temperature": settings.temperature, "top_p": settings.top_p})
    greedy = _asker(config, policy, tokenizer, run, one, config.seed, label)
    attempts = revised(greedy, prompts, greedy(prompts), config.turns)

    def draw(number: int) -> list[Answer]:
        return _asker(config, policy, tokenizer, run, more, config.seed + number, label)(prompts)

    drafts = draw_drafts([a.draft for a in attempts], draw, sum(a.tokens for a in attempts))
    return compared(attempts, drafts, lambda texts: _right(config, rewards, rows, texts), settings, config.seed)


def _asker(config: Config, policy: Any, tokenizer: Any, run: Run, one: SamplingSettings, seed: int, label: str) -> Ask:
    """One answer to each conversation; each call draws from the seed behind that of the call before."""
    seeds = count(seed)

    def ask(conversations: Sequence[Messages]) -> list[Answer]:
        drawn = sample(
            policy, tokenizer, conversations, one, config.chat_template_args, next(seeds),
            lambda done, total: run.progress.update(done, total, label),
        )  # fmt: skip
        return [answers[0] for answers in drawn]

    return ask


def _right(config: Config, rewards: Rewards, rows: Rows, texts: Sequence[str]) -> list[bool]:
    """Whether each text reaches the bar on its row."""
    views = [{"question": row["prompt"][-1]["content"], **row} for row in rows]
    return [total >= config.accept for total in rewards.totals(texts, views)]


def _distinct(drafts: list[Answer]) -> list[Answer]:
    first: dict[str, Answer] = {}
    for draft in drafts:
        first.setdefault(draft.text, draft)
    return list(first.values())


def _per_prompt(attempts: list[Attempt], most: int) -> list[Attempt]:
    """At most so many attempts at one prompt, the first ones."""
    kept: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        kept.setdefault(json.dumps(attempt.prompt), []).append(attempt)
    return [attempt for found in kept.values() for attempt in found[:most]]


def _lessons(config: Config, attempt: Attempt) -> Rows:
    """What an attempt teaches: its final answer at once, and with `learn_turns` the turns behind the draft.

    Each turn is a row of its own, as some chat templates write the last turn otherwise than those before it.
    """
    rows: Rows = [{"prompt": attempt.prompt, "completion": said(attempt.final)}]
    if config.learn_turns:
        checked = to_check(attempt.prompt, attempt.draft.text, config.turns)
        rows.append({"prompt": checked, "completion": said(attempt.critique.text)})
        if attempt.revision:
            answered = to_revise(checked, attempt.critique.text, config.turns)
            rows.append({"prompt": answered, "completion": said(attempt.revision.text)})
    return rows


if __name__ == "__main__":
    stage(main, Config)
