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
from tasks.self_training.lessons import Graded, lessons
from tasks.self_training.revision import Ask, Attempt, Messages, Turns, revised, to_check, to_revise
from tasks.self_training.rounds import RoundsConfig, Rows
from tasks.stage import artifact, audit_record
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import audit as row_audit
from tasks.training import fates as row_fates
from tasks.training import rows as training_rows

log = logging.getLogger("polm")
trainer_class = rounds.trainer_class
row_rule = row_fates.prompts
TURNS = 3
"""Answers of the model in one conversation: draft, critique, revision."""


class Config(RoundsConfig):
    """`params/<recipe>/refine.yaml`."""

    turns: Turns
    """What is said between drafts, critiques and revisions; the words that `critique` has learnt."""
    revising_temperature: float = Field(ge=0)
    """Temperature of critiques and revisions in the rounds, one of each for each distinct draft; 0 takes the likeliest
    token."""
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
    prompts, record = rounds.training_prompts(
        config, run, tokenizer, model, data, TURNS, lambda row: _whole(config, row)
    )
    held_out, held_record = _held_out(config, run, tokenizer, model, data)
    rounds.check_replay(config, run, data)

    def keep(policy: Any, window: Rows, number: int) -> tuple[Rows, dict[str, Any]]:
        return collect(config, rewards, policy, tokenizer, window, number, run)

    def measure(folder: Path, when: str) -> dict[str, Any]:
        return compare(config, rewards, rounds.load_policy(folder, arguments), tokenizer, held_out, run, when)

    before = run.checkpoints / "before.json"
    if not before.exists():
        before.parent.mkdir(parents=True, exist_ok=True)
        artifact.write_json(before, measure(model, "before"))
    audit = {"prompts": record, "validation": held_record}
    rounds.run_rounds(config, run, keep, model=model, tokenizer=tokenizer, data=data, prompt_rows=prompts, audit=audit)
    results = {"before": artifact.read_json(before), "after": measure(run.out, "after")}
    artifact.write_json(run.out / "refine.json", results)
    for when, result in results.items():
        log.info(
            "%s: refinement %.3f, best-of-n %.3f at %d tokens: %s",
            when,
            result["refined"]["value"],
            result["vote"]["value"],
            result["refinement"]["tokens"],
            result["winner"],
        )


def _whole(config: Config, row: dict[str, Any]) -> dict[str, Any]:
    """Make the longest conversation that a row comes to, with nothing yet said by the model."""
    return {**row, "prompt": to_revise(to_check(row["prompt"], "", config.turns), "", config.turns)}


def _held_out(config: Config, run: Run, tokenizer: Any, model: Path, data: Path) -> tuple[Rows, audit_record.Record]:
    """Read the held-out prompts that leave room for all turns, and their record. Raises DataError as `audit.hold`."""
    rows = training_rows.read(data, config.dataset, "validation")[: config.comparison.prompts]
    record, fitting = row_audit.asked(
        config,
        run,
        "validation",
        [_whole(config, row) for row in rows],
        (config.dataset, split_file(data, config.dataset, "validation")),
        tokenizer,
        rounds.room(config, model, TURNS),
        config.chat_template_args,
    )
    return [rows[number] for number in fitting], record


def collect(
    config: Config, rewards: Rewards, policy: Any, tokenizer: Any, prompts: Rows, number: int, run: Run
) -> tuple[Rows, dict[str, Any]]:
    """Draft, critique, revise, grade, keep.

    Returns:
        Rows `{"prompt": […], "completion": […]}` to learn from, and the round's counts.

    Raises:
        DataError: not one revision turned wrong into right.
    """
    failures = sum(rewards.failures.values())
    rows, attempts = _refined_drafts(config, policy, tokenizer, prompts, number, run)
    graded = _graded(config, rewards, rows, attempts)
    if not any(each.improved for each in graded):
        wrong = sum(not each.draft_correct for each in graded)
        raise DataError(
            f"{run.params_file}: round {number + 1}: of {wrong} drafts below accept = {config.accept:g} "
            f"no revision reached it; train the critique longer, sample more drafts, or raise revising_temperature"
        )
    rows_to_learn = lessons(
        graded,
        config.turns,
        keep_per_prompt=config.keep_per_prompt,
        keep_right=config.keep_right,
        learn_turns=config.learn_turns,
    )
    return rows_to_learn, {
        "prompts": len(prompts),
        "drafts": len(graded),
        "right": sum(each.draft_correct for each in graded),
        "fault_found": sum(attempt.revision is not None for attempt in attempts),
        "improved": sum(each.improved for each in graded),
        "spoilt": sum(each.spoilt for each in graded),
        "kept": len(rows_to_learn),
        "raised": sum(rewards.failures.values()) - failures,
    }


def _refined_drafts(
    config: Config, policy: Any, tokenizer: Any, prompts: Rows, number: int, run: Run
) -> tuple[Rows, list[Attempt]]:
    """Draw drafts to the prompts, and have each distinct one checked and revised; the row of each goes with it."""
    seed = config.seed + 1000 * number

    def report(done: int, total: int) -> None:
        run.progress.update(done, total, f"round {number + 1}: drafting")

    conversations = [row["prompt"] for row in prompts]
    drafts = sample(policy, tokenizer, conversations, config.sampling, config.chat_template_args, seed, report)
    pairs = [(row, draft) for row, answers in zip(prompts, drafts, strict=True) for draft in _distinct(answers)]
    rows = [row for row, _ in pairs]
    one = config.sampling.model_copy(update={"samples_per_prompt": 1, "temperature": config.revising_temperature})
    ask = _asker(config, policy, tokenizer, run, one, seed + 500, f"round {number + 1}: revising")
    return rows, revised(ask, [row["prompt"] for row in rows], [draft for _, draft in pairs], config.turns)


def _graded(config: Config, rewards: Rewards, rows: Rows, attempts: list[Attempt]) -> list[Graded]:
    drafts_correct = _right(config, rewards, rows, [attempt.draft.text for attempt in attempts])
    finals_correct = _right(config, rewards, rows, [attempt.final for attempt in attempts])
    return [Graded(*each) for each in zip(attempts, drafts_correct, finals_correct, strict=True)]


def compare(
    config: Config, rewards: Rewards, policy: Any, tokenizer: Any, rows: Rows, run: Run, when: str
) -> dict[str, Any]:
    """Compare the refinement of the greedy draft with best-of-n on `rows`, as `best_of_n.compared` says."""
    settings = config.comparison
    label = f"comparing, {when}"
    prompts = [row["prompt"] for row in rows]
    one = config.sampling.model_copy(update={"samples_per_prompt": 1, "temperature": 0.0})
    more = one.model_copy(update={"temperature": settings.temperature, "top_p": settings.top_p})
    greedy = _asker(config, policy, tokenizer, run, one, config.seed, label)
    attempts = revised(greedy, prompts, greedy(prompts), config.turns)

    def draw(number: int) -> list[Answer]:
        return _asker(config, policy, tokenizer, run, more, config.seed + number, label)(prompts)

    drafts = draw_drafts([a.draft for a in attempts], draw, sum(a.tokens for a in attempts))
    return compared(attempts, drafts, lambda texts: _right(config, rewards, rows, texts), settings, config.seed)


def _asker(config: Config, policy: Any, tokenizer: Any, run: Run, one: SamplingSettings, seed: int, label: str) -> Ask:
    """Ask for one answer to each conversation; each call draws from the seed behind that of the call before."""
    seeds = count(seed)

    def report(done: int, total: int) -> None:
        run.progress.update(done, total, label)

    def ask(conversations: Sequence[Messages]) -> list[Answer]:
        answers = sample(policy, tokenizer, conversations, one, config.chat_template_args, next(seeds), report)
        return [replies[0] for replies in answers]

    return ask


def _right(config: Config, rewards: Rewards, rows: Rows, texts: Sequence[str]) -> list[bool]:
    """Grade each text: whether it reaches the bar on its row."""
    views = [{"question": row["prompt"][-1]["content"], **row} for row in rows]
    return [total >= config.accept for total in rewards.totals(texts, views)]


def _distinct(drafts: list[Answer]) -> list[Answer]:
    first: dict[str, Answer] = {}
    for draft in drafts:
        first.setdefault(draft.text, draft)
    return list(first.values())


if __name__ == "__main__":
    stage(main, Config)
