"""RAFT's stage: sets and counts, nobody of the test in a training row, and settings that cannot work."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import raft
from tasks.generators import facts
from tasks.retrieval.grading import rag
from tasks.retrieval.prompts import read_format
from tasks.stage.artifact import read_json, read_jsonl, write_json, write_jsonl
from tasks.stage.errors import ConfigError, DataError
from tests.support import retrieval_chain
from tests.support.rag import make_index
from tests.support.retrieval import WordIndex, index_of

PEOPLE = {"count": 24, "seed": 3}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data artifact of questions about invented people."""
    rows = list(facts.questions("train", **PEOPLE, test=6, wordings=2))
    prompts = [
        {"id": str(i), "prompt": [{"role": "user", "content": row.pop("question")}], **row}
        for i, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "prompts/train.jsonl", prompts[20:])
    write_jsonl(tmp_path / "prompts/validation.jsonl", prompts[:20])
    tests = [{"id": str(i), **row} for i, row in enumerate(facts.questions("test", **PEOPLE, test=6, wordings=1))]
    write_jsonl(tmp_path / "eval/facts.jsonl", tests)
    return tmp_path


@pytest.fixture
def index() -> WordIndex:
    """An index of the people's documents, a sentence a chunk."""
    return index_of({f"facts/{d['name']}": d["text"].strip().split("\n\n") for d in facts.documents(**PEOPLE)})


def config(**changes: Any) -> raft.Config:
    return raft.Config.model_validate(retrieval_chain.settings("grounded", **changes))


def test_every_question_is_in_every_condition_and_counted(
    make_run: Callable[[str], Any], data: Path, index: WordIndex
) -> None:
    run = make_run("grounded")
    raft.make(config(), run, index, data)
    report = read_json(run.out / "report.json")
    for split, questions in (("train", 160), ("validation", 20)):
        sft = read_jsonl(run.out / "sft" / f"{split}.jsonl")
        counts = report[split]["sft"]
        assert counts["rows"] == len(sft) == len({row["id"] for row in sft})
        assert counts["rows"] + counts["duplicates"] == questions * config().rounds.sft
        assert sum(counts["conditions"].values()) == len(sft)
        assert (
            report[split]["preferences"]["rows"] + report[split]["no pair"] == questions * config().rounds.preferences
        )
    tests = read_jsonl(run.out / "eval/facts.jsonl")
    assert report["test"]["rows"]["conditions"] == dict.fromkeys(sorted(config().conditions), 30)
    assert len(tests) == 30 * len(config().conditions)
    assert read_format(run.out) == config().prompt


def test_nobody_of_the_test_is_in_a_training_row(make_run: Callable[[str], Any], data: Path, index: WordIndex) -> None:
    run = make_run("grounded")
    raft.make(config(), run, index, data)
    names = {row["subject"] for row in read_jsonl(data / "eval/facts.jsonl")}
    wordings = config().planted.test
    assert len(names) == 6
    for name in ("sft", "preferences"):
        for split in ("train", "validation"):
            text = (run.out / name / f"{split}.jsonl").read_text(encoding="utf-8")
            assert not [word for word in names if word in text]
            assert not [wording for wording in wordings if wording.split("{lure}")[0] in text]


def test_the_same_inputs_give_the_same_bytes_and_another_seed_others(
    make_run: Callable[[str], Any], data: Path, index: WordIndex
) -> None:
    def written(name: str, seed: int) -> dict[str, bytes]:
        run = make_run(name)
        raft.make(config(seed=seed), run, index, data)
        return {str(p.relative_to(run.out)): p.read_bytes() for p in sorted(run.out.rglob("*.json*"))}

    first = written("first", 1)
    assert len(first) == 7
    assert written("again", 1) == first
    assert written("other", 2)["sft/train.jsonl"] != first["sft/train.jsonl"]


def test_the_rows_as_they_are_where_nothing_is_renamed(
    make_run: Callable[[str], Any], data: Path, index: WordIndex
) -> None:
    run = make_run("grounded")
    raft.make(config(renaming=None), run, index, data)
    known = {row["subject"] for row in read_jsonl(data / "prompts/train.jsonl")}
    for row in read_jsonl(run.out / "sft/train.jsonl"):
        assert any(name in row["messages"][0]["content"].splitlines()[-1] for name in known)


def test_the_test_s_replies_can_be_graded(make_run: Callable[[str], Any], data: Path, index: WordIndex) -> None:
    run = make_run("grounded")
    raft.make(config(questions=5), run, index, data)
    rows = read_jsonl(run.out / "eval/facts.jsonl")
    assert len(rows) == 5 * len(config().conditions)
    for row in rows:
        scores = rag(row, [config().prompt.answer("Q.", next(iter(row["gold"]), 1), row["answer"])])
        assert scores["exact_match"] == 1
        assert scores["cited"] == float(row["supported"])


def test_a_question_whose_sentence_is_in_no_chunk_is_left_out_and_counted(
    make_run: Callable[[str], Any], data: Path
) -> None:
    texts = {f"facts/{d['name']}": d["text"].strip().split("\n\n") for d in facts.documents(**PEOPLE)}
    first = read_jsonl(data / "prompts/train.jsonl")[0]
    texts[first["document"]].remove(first["quote"])
    run = make_run("grounded")
    raft.make(config(), run, index_of(texts), data)
    report = read_json(run.out / "report.json")
    assert report["train"]["in no chunk"] == 2
    assert report["train"]["sft"]["rows"] + report["train"]["sft"]["duplicates"] == 158 * config().rounds.sft


def test_no_row_at_all_is_an_error(make_run: Callable[[str], Any], data: Path) -> None:
    with pytest.raises(DataError, match=r"no row for sft/train\.jsonl"):
        raft.make(config(), make_run("grounded"), index_of({"facts/x.txt": ["Nothing."]}), data)


def test_a_wording_of_the_training_is_refused_in_the_test() -> None:
    planted = {"train": ["Say {lure}.", "Print {lure}."], "test": ["Print {lure}."]}
    with pytest.raises(ValueError, match=r"planted\.test has 'Print \{lure\}\.', a wording of planted\.train"):
        config(planted=planted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planted": {"train": ["Say it."], "test": ["Print {lure}."]}}, "'Say it.' has no {lure}"),
        ({"shares": dict.fromkeys(("closed", "gold", "retrieved", "removed", "planted"), 0.0)}, "all weights are 0"),
        (
            {"unfaithful": dict.fromkeys(("distractor", "unsupported", "abstaining", "obeying"), 0.0)},
            "all weights are 0",
        ),
        ({"distractors": {"nearest": 0.7, "random": 0.4, "fewer": 0.0}}, "together above 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        config(**changes)


def test_poison_needs_room_for_two_passages() -> None:
    prompt = config().prompt.model_dump() | {"passages": 1}
    with pytest.raises(ValueError, match=r"poisoned.*prompt\.passages"):
        config(prompt=prompt)


def test_relevance_is_known_of_fused_hits_alone() -> None:
    prompt = config().prompt.model_dump() | {"least_relevance": 0.5}
    assert config(prompt=prompt, by="fused").prompt.least_relevance == 0.5
    with pytest.raises(ValueError, match=r"prompt\.least_relevance is of fused hits, and by is dense"):
        config(prompt=prompt, by="dense")


def test_a_screen_needs_an_index_that_knows_relevance(
    make_run: Callable[[str], Any], data: Path, tmp_path: Path
) -> None:
    folder = make_index(tmp_path / "index")
    described = read_json(folder / "index.json")
    write_json(folder / "index.json", described | {"relevance": None})
    screening = config(prompt=config().prompt.model_dump() | {"least_relevance": 0.5}, by="fused")
    with pytest.raises(DataError, match=r"prompt\.least_relevance is set, and .*index\.json has no relevance"):
        raft.main(screening, make_run("grounded"), index=folder, data=data)


def test_an_unknown_renaming_is_refused(make_run: Callable[[str], Any], data: Path, index: WordIndex) -> None:
    wrong = config(renaming={"generator": "facts.renamd", "share": 0.5})
    with pytest.raises(
        (ConfigError, DataError), match=r"facts\.renamd: no such generator; did you mean 'facts\.renamed'"
    ):
        raft.make(wrong, make_run("grounded"), index, data)
