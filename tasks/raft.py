"""RAFT: questions with passages in their prompts, to train a reader on and to test it (Zhang et al., arXiv:2403.10131).

The index is asked each question of the data artifact; what it finds becomes distractors. Training rows show the gold
passage among distractors, distractors alone (then the reply abstains, which is this project's answer to what the paper
leaves open), and now and then a passage with an instruction planted in it. One row of `sft/train.jsonl`:

    {"id": "…", "messages": [
        {"role": "user", "content": "Bedot lives in Lovar. [1]\\nBedot has a pet: Zumi. [2]\\nWhere does Bedot live?"},
        {"role": "assistant", "content": "Bedot lives in Lovar. [1] Lovar"}], "condition": "retrieved", …}

`eval/facts.jsonl` holds every test question once in each condition: with no passage (`closed`), with what the index
finds (`retrieved`), with the right passage alone (`gold`), with others (`wrong`), with what it finds but the right one
(`removed`), with an instruction in a wording that no training row has (`planted`), with a false copy beside the right
passage (`poisoned`); and questions of the training with a passage that contradicts what was learnt (`contradicting`).
What it leaves out: the paper's chain of thought; the quotation and its number stand in its place.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.ingestion.sources import GeneratorSource, find_generator
from tasks.retrieval.finder import Facts, Finder, Searches
from tasks.retrieval.passages import LURE, Distractors, Question
from tasks.retrieval.prompts import PROMPT, PromptFormat
from tasks.retrieval.raft_rows import Asked, Rename, Renumbering, Shares, Unfaithful
from tasks.retrieval.raft_tests import Condition
from tasks.retrieval.raft_tests import row as test_row
from tasks.stage import artifact
from tasks.stage.config import StageConfig, Strict
from tasks.stage.data_folder import split_file
from tasks.stage.errors import DataError
from tasks.stage.lifecycle import Run, stage
from tasks.training import rows

SETS = ("sft", "preferences")
"""Sets of the artifact, as a trainer's `dataset:` names them."""


class Planted(Strict):
    """Instructions that are planted in passages; each has `{lure}`, the answer that it wants."""

    train: list[str] = Field(min_length=1)
    """Wordings of the training rows."""
    test: list[str] = Field(min_length=1)
    """Wordings of the test rows, none of which may be one of the training's."""

    @field_validator("train", "test")
    @classmethod
    def _have_a_lure(cls, wordings: list[str]) -> list[str]:
        """Refuse a wording that asks for nothing."""
        for wording in wordings:
            if LURE not in wording:
                raise ValueError(f"'{wording}' has no {LURE}, the answer that it wants")
        return wordings

    @model_validator(mode="after")
    def _share_none(self) -> Self:
        """Refuse a wording of the test that was trained."""
        both = sorted(set(self.train) & set(self.test))
        if both:
            raise ValueError(f"planted.test has '{both[0]}', a wording of planted.train; reword one")
        return self


class Turns(Strict):
    """Further questions in a training row, which the passages are read once for."""

    most: int = Field(ge=1)
    """Most questions, the first among them."""
    untold: float = Field(ge=0, le=1)
    """Share of the rows, 0 to 1, with a further question that the passages do not answer, where there is room."""


class Renaming(Strict):
    """Rows that are written anew about somebody else, so that reading can be learnt and facts cannot."""

    generator: str
    """Function `file.function` that does it, e.g. `facts.renamed`."""
    share: float = Field(ge=0, le=1)
    """Share of the training rows and pairs, 0 to 1."""


class Rounds(Strict):
    """Rows that are made of each question."""

    sft: int = Field(ge=1)
    """Rows to learn from, of each training question."""
    preferences: int = Field(ge=1)
    """Pairs, of each training question."""


class Config(StageConfig):
    """`params/<recipe>/<artifact>.yaml` of this stage."""

    prompts: str
    """Set of questions to learn from in the data artifact, e.g. `prompts`."""
    task: str
    """Questions of the test, `eval/<task>.jsonl` of the data artifact; the rows written have the same name."""
    prompt: PromptFormat
    """How passages and question become a prompt, and what is answered."""
    hits: int = Field(ge=1)
    """Passages that the index is asked for, for each question; distractors are drawn among them."""
    by: Literal["lexical", "dense", "fused"]
    """Which part of the index is asked."""
    distractors: Distractors
    """Which passages without the answer stand in a prompt."""
    shares: Shares
    """Kinds of training rows."""
    unfaithful: Unfaithful
    """Kinds of rejected replies."""
    turns: Turns
    """Questions about the same passages in a training row; the passages stand before the first."""
    planted: Planted
    """Instructions in passages."""
    renaming: Renaming | None
    """Training rows about invented others; null leaves every row as the documents have it."""
    renumbering: Renumbering | None
    """Training rows whose passages are not numbered from 1; null numbers those of every row from 1."""
    rounds: Rounds
    """Rows of each question."""
    questions: int | None = Field(ge=1)
    """Most test questions, from the first; null takes all of them."""
    conditions: list[Condition] = Field(min_length=1)
    """In which conditions each test question is asked."""

    @model_validator(mode="after")
    def _poison_fits(self) -> Self:
        """Refuse a prompt without room for the truth beside its false copy."""
        if "poisoned" in self.conditions and self.prompt.passages < 2:
            raise ValueError("conditions has poisoned, which shows two passages; set prompt.passages to at least 2")
        return self

    @model_validator(mode="after")
    def _relevance_is_known(self) -> Self:
        """Refuse a screen of hits whose relevance no index gives."""
        if self.prompt.least_relevance is not None and self.by != "fused":
            raise ValueError(f"prompt.least_relevance is of fused hits, and by is {self.by}; set by to fused")
        return self


def main(config: Config, run: Run, *, index: Path, data: Path) -> None:
    """Write the sets `sft` and `preferences`, `eval/<task>.jsonl`, `prompt.json` and `report.json`."""
    with run.timed("import"):
        from tasks.retrieval.index import FILE, Index
    opened = Index.open(index)
    if config.prompt.least_relevance is not None and opened.described.relevance is None:
        raise DataError(
            f"{run.params_file}: prompt.least_relevance is set, and {index / FILE} has no relevance: its validation "
            f"questions have no answer among the first hits, or nothing else; set it to null"
        )
    make(config, run, opened, data)


def make(config: Config, run: Run, index: Searches, data: Path) -> None:
    """Make the artifact from what `index` finds.

    Raises:
        DataError: a set or the function of `renaming` is missing, or no row of a set can be made.
    """
    tests = artifact.read_jsonl(data / "eval" / f"{config.task}.jsonl")
    held_out = {row["document"] for row in tests}
    rename = _renaming(config, run, {row["subject"] for row in tests if "subject" in row})
    finder = Finder(index, config.hits, config.by, config.seed)
    report: dict[str, Any] = {}
    learnt: list[Question] = []
    for done, split in enumerate(("train", "validation")):
        run.progress.update(done, 3, split)
        asked = [row | {"question": row["prompt"][-1]["content"]} for row in rows.read(data, config.prompts, split)]
        questions, report[split] = finder.questions(asked, held_out)
        for name, made in taught(config, finder.facts(questions), questions, rename, split).items():
            report[split][name] = _write(run, split_file(run.out, name, split), made)
            if name == "preferences":
                report[split]["no pair"] = len(questions) * config.rounds.preferences - len(made)
        learnt += questions
    run.progress.update(2, 3, "test")
    questions, report["test"] = finder.questions(tests[: config.questions], set())
    report["test"]["rows"] = _write(
        run, run.out / "eval" / f"{config.task}.jsonl", tested(config, questions, learnt, report["test"])
    )
    artifact.write_json(run.out / PROMPT, config.prompt.model_dump())
    artifact.write_json(run.out / "report.json", report)


def taught(
    config: Config, facts: Facts, questions: Sequence[Question], rename: Rename | None, split: str
) -> dict[str, list[dict[str, Any]]]:
    """Make the rows of one split, `sft` and `preferences`; a pair that cannot be made is left out."""
    rng = random.Random(f"{config.seed} {split}")
    asked = Asked(
        config.prompt, config.distractors, config.planted.train, facts, config.turns.untold, config.renumbering
    )
    share = config.renaming.share if config.renaming else 0.0

    def renaming() -> Rename | None:
        return rename if rng.random() < share else None

    lessons = [
        asked.taught(question, config.shares, config.turns.most, renaming(), rng)
        for _ in range(config.rounds.sft)
        for question in questions
    ]
    pairs = [
        asked.preferred(question, config.unfaithful, renaming(), rng)
        for _ in range(config.rounds.preferences)
        for question in questions
    ]
    rng.shuffle(lessons)
    return {"sft": lessons, "preferences": [pair for pair in pairs if pair is not None]}


def tested(
    config: Config, questions: Sequence[Question], learnt: Sequence[Question], report: dict[str, Any]
) -> list[dict[str, Any]]:
    """Make the test's rows, all questions in one condition after the other; count what no document answers.

    In `contradicting`, as many questions of the training are asked, each of another fact.
    """
    rng = random.Random(f"{config.seed} test")
    answerable = [question for question in questions if question.gold]
    report["without an answer"] = len(questions) - len(answerable)
    known = list({q.row["quote"]: q for q in learnt if q.gold}.values())
    rng.shuffle(known)
    return [
        test_row(question, condition, config.prompt, config.planted.test, rng)
        for condition in config.conditions
        for question in (known[: len(answerable)] if condition == "contradicting" else answerable)
    ]


def _renaming(config: Config, run: Run, avoid: set[str]) -> Rename | None:
    """Find the function that writes texts anew; the words of `avoid` are in no text that it writes."""
    if config.renaming is None:
        return None
    source = GeneratorSource(
        generator=config.renaming.generator, options={"texts": [], "rng": None, "avoid": avoid}, licence="none"
    )
    function = find_generator(source, run.params_file.parent)

    def rename(texts: list[str], rng: random.Random) -> list[str]:
        return [str(text) for text in function(texts, rng, avoid)]

    return rename


def _write(run: Run, path: Path, made: list[dict[str, Any]]) -> dict[str, Any]:
    """Write rows with an id of their content, each once. Returns their counts. Raises DataError where none is left."""
    unique: dict[str, dict[str, Any]] = {}
    for row in made:
        digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]
        unique[digest] = {"id": digest, **row}
    if not unique:
        raise DataError(
            f"{run.params_file}: no row for {path.relative_to(run.out)}; the questions have no passage in the index, "
            f"or shares and unfaithful leave nothing to make"
        )
    artifact.write_jsonl(path, list(unique.values()))
    kinds = Counter(str(row["condition"]) for row in unique.values())
    return {"rows": len(unique), "duplicates": len(made) - len(unique), "conditions": dict(sorted(kinds.items()))}


if __name__ == "__main__":
    stage(main, Config)
