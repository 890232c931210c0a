"""The data stage: rows in, sets out, and bad input that is named or stops it."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from ruamel.yaml import YAML

from tasks.ingestion import parts, selection
from tasks.stage.errors import ConfigError, DataError, PolmError
from tests.support.data_stage import (
    EVAL,
    PAIR,
    SFT,
    file_source,
    numbered,
    read,
    recipe,
    report,
    rows,
    run,
    sets,
    write_rows,
)

ROOT = Path(__file__).parents[2]


def test_rows_become_conversations_and_every_row_is_accounted_for(workspace: Path) -> None:
    write_rows(workspace, numbered(60))
    out = run(workspace, recipe())
    train, validation = read(out / "sft/train.jsonl"), read(out / "sft/validation.jsonl")
    assert set(train[0]) == {"id", "messages", "source"}
    assert [m["role"] for m in train[0]["messages"]] == ["user", "assistant"]
    assert len({row["id"] for row in train + validation}) == len(train + validation)
    counts = report(out)["sets"]["sft"]["sources"]["mine"]
    assert counts["read"] == 60 == counts["kept"] + counts["in the test split"]
    assert counts["kept"] == len(train + validation)
    files = report(out)["sets"]["sft"]["files"]
    assert (
        files["sft/train.jsonl"]["rows"] == len(train) == sum(n for _, n in files["sft/train.jsonl"]["tokens"]["bins"])
    )
    assert report(out)["sources"]["mine"]["licence"] == "CC0-1.0"
    assert len(report(out)["sources"]["mine"]["sha256"]) == 64


def test_a_row_is_in_one_split_whatever_set_and_order(workspace: Path) -> None:
    items = [row | {"chosen": row["answer"], "rejected": "No idea."} for row in numbered(80)]
    write_rows(workspace, items)
    every = sets(sft=(SFT, False), preferences=(PAIR, False), eval_quiz=(EVAL, False))
    out = run(workspace, recipe(sets=every))
    trained = {row["messages"][0]["content"] for row in read(out / "sft/train.jsonl")}
    paired = {row["prompt"][0]["content"] for row in read(out / "preferences/train.jsonl")}
    validated = {row["messages"][0]["content"] for row in read(out / "sft/validation.jsonl")}
    tested = {row["question"] for row in read(out / "eval/quiz.jsonl")}
    assert trained == paired
    assert trained | validated | tested == {row["question"] for row in items}
    assert len(trained) + len(validated) + len(tested) == len(items)
    write_rows(workspace, items[::-1])
    again = run(workspace, recipe(sets=every), "again")
    assert (again / "sft/train.jsonl").read_bytes() == (out / "sft/train.jsonl").read_bytes()
    assert {row["question"] for row in read(again / "eval/quiz.jsonl")} == tested


def test_a_group_is_never_parted(workspace: Path) -> None:
    wordings = ("What is {}?", "Please explain {}.", "Define {}, would you?")
    items = [
        {"question": wording.format(f"term {i}"), "answer": f"It is {i}.", "subject": f"term {i}"}
        for i in range(40)
        for wording in wordings
    ]
    write_rows(workspace, items)
    group = {"group": "{subject}"}
    out = run(workspace, recipe(sets=sets(sft=(SFT | group, False), eval_quiz=(EVAL | group, False))))
    trained = {row["messages"][1]["content"] for row in read(out / "sft/train.jsonl")}
    tested = {row["answer"] for row in read(out / "eval/quiz.jsonl")}
    assert tested
    assert not trained & tested
    assert len(read(out / "eval/quiz.jsonl")) == 3 * len(tested)


def test_bad_rows_are_rejected_with_file_line_and_reason(workspace: Path) -> None:
    good = numbered(40)
    write_rows(
        workspace,
        [
            *good,
            '{"question": "cut o',
            {"question": "No answer?"},
            {"question": "Null answer?", "answer": None},
            {"question": "Blank answer?", "answer": " \n"},
            {"question": "A list?", "answer": ["no"]},
            {"question": "A number?", "answer": 7},
        ],
    )
    out = run(workspace, recipe())
    found = {reject["line"]: reject["reason"] for reject in read(out / "rejects.jsonl")}
    assert sorted(found) == [41, 42, 43, 44, 45]
    assert "not JSON" in found[41]
    assert found[42] == "no column 'answer'"
    assert found[43] == "'answer' is null"
    assert "content' is empty" in found[44]
    assert "content' is list, not text" in found[45]
    assert all(set(r) >= {"file", "line", "reason", "row"} for r in read(out / "rejects.jsonl"))
    assert all(r["file"] == "rows.jsonl" for r in read(out / "rejects.jsonl"))
    assert report(out)["rejects"] == 5


def test_too_many_bad_rows_stop_the_stage(workspace: Path) -> None:
    write_rows(workspace, [*numbered(20), {"question": "No answer?"}, '{"question": "cut o'])
    with pytest.raises(DataError, match=r"2 of 22 rows are bad, over max_bad_share 0\.05 of data\.yaml") as e:
        run(workspace, recipe(max_bad_share=0.05))
    assert "\n  rows.jsonl:21: no column 'answer'\n  rows.jsonl:22: not JSON" in str(e.value)


def test_rows_that_differ_in_white_space_only_are_one(workspace: Path) -> None:
    items = numbered(20)
    again = [{"question": f"  {row['question']}\r\n", "answer": row["answer"].replace(" ", "  ")} for row in items]
    write_rows(workspace, items + again)
    out = run(workspace, recipe())
    assert report(out)["sets"]["sft"]["sources"]["mine"]["exact duplicate"] == 20
    example = report(out)["sets"]["sft"]["dropped"]["exact duplicate"]["examples"][0]
    assert (example["file"], example["line"], example["like"]) == ("rows.jsonl", 21, "rows.jsonl:1")


def test_near_duplicates_only_where_the_set_asks_for_it(workspace: Path) -> None:
    items = numbered(30)
    items += [row | {"answer": row["answer"] + " Yes."} for row in items[:10]]
    write_rows(workspace, items)
    dropped = {}
    for asked in (True, False):
        out = run(workspace, recipe(sets=sets(sft=(SFT, asked))), f"out-{asked}")
        dropped[asked] = report(out)["sets"]["sft"]["sources"]["mine"].get("near-duplicate", 0)
    assert dropped == {True: 10, False: 0}


def test_contaminated_rows_are_dropped_and_listed(workspace: Path) -> None:
    quiz = [
        {"question": f"Which animal number {i} has {i} legs and lives in house {i}?", "answer": "cat"} for i in range(5)
    ]
    write_rows(workspace, quiz, "quiz.jsonl")
    leak = {
        "question": "A riddle",
        "answer": "Which animal number 3 has 3 legs and lives in house 3? The cat, of course.",
    }
    same = {"question": quiz[0]["question"].upper(), "answer": "dog"}
    write_rows(workspace, [*numbered(30), leak, same])
    sources = {"mine": file_source("rows.jsonl"), "quiz": file_source("quiz.jsonl")}
    quiz_set = {"near_duplicates": False, "rows": [rows("quiz", EVAL, "published")]}
    mine = {"near_duplicates": False, "rows": [rows("mine", SFT, "published")]}
    out = run(workspace, recipe(sources=sources, sets={"sft": mine, "eval:quiz": quiz_set}))
    assert len(read(out / "eval/quiz.jsonl")) == 5
    found = report(out)["contaminated"]
    assert [row["line"] for row in found] == [31, 32]
    assert all(row["evaluation"].startswith("eval:quiz#") for row in found)
    written = (out / "sft/train.jsonl").read_text() + (out / "sft/validation.jsonl").read_text()
    assert "lives in house" not in written.lower()
    assert len(written.splitlines()) == 30
    assert report(out)["protected"] == {"eval:quiz": 5}


def test_another_wording_of_a_published_evaluation_row_does_not_train(workspace: Path) -> None:
    write_rows(
        workspace, [{"question": "What is the capital of Peru?", "answer": "Lima", "about": "peru"}], "quiz.jsonl"
    )
    write_rows(workspace, [row | {"about": f"{i}"} for i, row in enumerate([*numbered(30)])])
    with (workspace / "rows.jsonl").open("a") as f:
        f.write('{"question": "Name Peru\'s first city.", "answer": "It is Lima.", "about": "Peru "}\n')
    group = {"group": "{about}"}
    sources = {"mine": file_source("rows.jsonl"), "quiz": file_source("quiz.jsonl")}
    quiz_set = {"near_duplicates": False, "rows": [rows("quiz", EVAL | group, "published")]}
    mine = {"near_duplicates": False, "rows": [rows("mine", SFT | group, "published")]}
    out = run(workspace, recipe(sources=sources, sets={"sft": mine, "eval:quiz": quiz_set}))
    assert [(row["line"], row["overlap"]) for row in report(out)["contaminated"]] == [(31, 1.0)]
    assert "Lima" not in (out / "sft/train.jsonl").read_text() + (out / "sft/validation.jsonl").read_text()


def test_scrubbing_reaches_rows_rejects_and_report(workspace: Path) -> None:
    items = [row | {"answer": row["answer"] + " Ask jane@mail.example.org."} for row in numbered(30)]
    write_rows(workspace, [*items, items[0], {"question": "jane@mail.example.org has no answer"}])
    out = run(workspace, recipe())
    for path in out.rglob("*.json*"):
        assert "jane@" not in path.read_text(encoding="utf-8"), path
    assert report(out)["sets"]["sft"]["scrubbed"] == {"email": 31}


def test_limit_counts_for_each_source(workspace: Path) -> None:
    write_rows(workspace, numbered(60))
    write_rows(workspace, [{"question": f"Other {i}?", "answer": f"{i}."} for i in range(60)], "other.jsonl")
    sources = {"mine": file_source("rows.jsonl"), "other": file_source("other.jsonl")}
    mixed = {"near_duplicates": False, "rows": [rows("mine", SFT, limit=5), rows("other", SFT, limit=7)]}
    out = run(workspace, recipe(sources=sources, sets={"sft": mixed}))
    names = [row["source"] for row in read(out / "sft/train.jsonl")]
    assert (names.count("mine"), names.count("other")) == (5, 7)
    assert names != sorted(names), "the sources are not mixed"


def test_templates(workspace: Path) -> None:
    write_rows(workspace, [{"q": f"Q{i}", "a": f"so #### {i}", "n": i, "t": "x"} for i in range(40)])
    template = {"question": "{{{q}}} ({t})", "answer": "{a:#### (.+)}", "n": "{n}", "kind": "fixed"}
    out = run(workspace, recipe(sets=sets(eval_quiz=(template, False))))
    for row in read(out / "eval/quiz.jsonl"):
        assert row["question"] == f"{{Q{row['n']}}} (x)"
        assert row["answer"] == str(row["n"])
        assert row["kind"] == "fixed"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"question": "{qestion}", "answer": "{answer}"}, "no column 'qestion'; the source has: answer, question"),
        ({"question": "{question}"}, "a row of 'eval:quiz' needs answer; add it to the map"),
        (EVAL | {"id": "{question}"}, "id is set by the stage"),
        (EVAL | {"n": "{answer:(}"}, r"the pattern '\(' is no regular expression \(missing \)"),
        (EVAL | {"n": "{answer:is}"}, "the pattern 'is' has no group; put what is to be taken in parentheses"),
    ],
)
def test_a_map_that_cannot_work(workspace: Path, template: dict[str, Any], message: str) -> None:
    write_rows(workspace, numbered(10))
    with pytest.raises(DataError, match=message) as e:
        run(workspace, recipe(sets=sets(eval_quiz=(template, False))))
    assert str(e.value).startswith("data.yaml: sets.eval:quiz.rows.0.map: ")


def test_a_set_without_rows_names_the_reasons(workspace: Path) -> None:
    write_rows(workspace, numbered(1) * 3)
    with pytest.raises(DataError, match=r"set 'sft' has no row left for sft/\w+\.jsonl \(2 exact duplicate"):
        run(workspace, recipe())


def test_a_share_of_none_says_where_the_rows_are(workspace: Path) -> None:
    write_rows(workspace, numbered(4))
    with pytest.raises(DataError, match=r"'sft' has no row left for sft/validation\.jsonl \(4 in sft/train\.jsonl\)"):
        run(workspace, recipe(split={"validation": 0.0, "test": 0.0}))


def test_unknown_source_and_misspelt_keys(workspace: Path) -> None:
    write_rows(workspace, numbered(10))
    with pytest.raises(DataError, match="sets name the source 'yours'; there are: mine"):
        run(workspace, recipe(sets={"sft": {"near_duplicates": False, "rows": [rows("yours", SFT)]}}))
    for change, message in (
        ({"sources": {"mine": {"file": "a.jsonl", "sha256": None, "license": "MIT"}}}, "did you mean 'licence'"),
        ({"sources": {"mine": {"path": "a.jsonl"}}}, "a source needs one of the keys 'hub', 'file'"),
        ({"sets": {"sftt": {"near_duplicates": False, "rows": [rows("mine", SFT)]}}}, "sftt"),
        ({"scrub": ["emial"]}, "emial"),
        ({"ray": "auto", "processes": 2}, "'ray' and 'processes' both say what maps the rows; leave one out"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(workspace, recipe(**change))


def test_the_command_writes_the_same_bytes_whatever_the_hash_seed(workspace: Path) -> None:
    items = numbered(60)
    write_rows(workspace, items + [row | {"answer": row["answer"] + " Yes."} for row in items[:10]] + ["{"])
    with Path("data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(recipe(sets=sets(sft=(SFT, True), eval_quiz=(EVAL, True))), f)
    manifests = []
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "tasks.data", "data.yaml", "--out", f"artifacts/{seed}"]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        manifests.append(Path(f"artifacts/{seed}/manifest.json").read_text(encoding="utf-8"))
    assert manifests[0] == manifests[1]
    assert "report.json" in manifests[0]


def test_bad_input_is_one_message_and_exit_code_2(workspace: Path) -> None:
    write_rows(workspace, ['{"question": "cut o'])
    with Path("data.yaml").open("w", encoding="utf-8") as f:
        YAML().dump(recipe(max_bad_share=0.0), f)
    command = [sys.executable, "-m", "tasks.data", "data.yaml", "--out", "artifacts/data"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "error: rows.jsonl: 1 of 1 rows are bad" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("artifacts/data").exists()


def test_the_example_of_the_documentation_works(workspace: Path) -> None:
    text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    row, *_ = re.findall(r"```json\n(.*?)\n", text, re.S)
    (workspace / "data").mkdir()
    rng = random.Random(0)

    def words() -> str:
        return " ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(8))

    items = [{column: f"{words()}?" for column in json.loads(row)} for _ in range(200)]
    write_rows(workspace / "data", items, "faq.jsonl")
    out = run(workspace, YAML(typ="safe").load(example))
    assert read(out / "eval/faq.jsonl")
    assert read(out / "sft/validation.jsonl")


def test_config_is_cheap_to_load() -> None:
    code = "import sys, tasks.data; print(*{'torch', 'datasets', 'datasketch', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == []


def varied(count: int) -> list[Any]:
    """Rows of every fate: good, repeated, nearly repeated, of another kind, bad, and on the test's side."""
    rng = random.Random(5)
    made: list[Any] = []
    for i in range(count):
        words = [f"w{rng.randrange(400)}" for _ in range(30)]
        made.append({"question": f"Q{i} {' '.join(words[:6])}?", "answer": " ".join(words), "score": i})
        if i % 7 == 0:
            made.append(made[-1] | {"answer": " ".join([*words[:-1], "other"])})
        if i % 11 == 0:
            made.append(rng.choice([row for row in made if isinstance(row, dict)]))
    made[40] = made[40] | {"score": "many"}
    made[90] = made[90] | {"score": [1.5]}
    made[60:60] = ['{"question": "cut', {"question": "No answer?", "score": 1}]
    return made


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_neither_parts_nor_processes_change_a_byte(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(workspace, varied(200))
    scored = SFT | {"score": "{score}"}
    every = sets(sft=(scored, True), eval_quiz=(EVAL, False))
    every["sft"]["rows"] *= 2
    settings = {"sets": every, "max_bad_share": 0.2}
    whole = files_of(run(workspace, recipe(**settings), "whole"))
    rejected = [row["reason"] for row in read(workspace / "whole/rejects.jsonl")]
    assert sum("is text, but a whole number in rows.jsonl:1;" in reason for reason in rejected) == 2
    counts = report(workspace / "whole")["sets"]["sft"]["sources"]["mine"]
    assert {"read", "rejected", "exact duplicate", "near-duplicate", "in the test split", "kept"} <= set(counts)
    assert counts.pop("read") == sum(counts.values())
    monkeypatch.setattr(parts, "STRETCH", 3_000)
    assert files_of(run(workspace, recipe(**settings), "parts")) == whole
    assert files_of(run(workspace, recipe(**settings, processes=2), "processes")) == whole


def test_no_room_for_what_is_sorted_is_said_and_no_crash(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MEMORY", "1MB")
    write_rows(workspace, numbered(300))
    with pytest.raises(PolmError, match=r"set 'sft': no room for the rows that DuckDB sorts in .*free some space"):
        run(workspace, recipe())


def test_large_sets_are_shards_of_the_same_rows(workspace: Path) -> None:
    write_rows(workspace, numbered(300))
    plain = run(workspace, recipe(), "plain")
    sharded = run(workspace, recipe(shards={"rows": 100}), "sharded")
    assert (sharded / "sft/validation.jsonl").read_bytes() == (plain / "sft/validation.jsonl").read_bytes()
    assert not (sharded / "sft/train.jsonl").exists()
    tables = [pyarrow.parquet.read_table(path) for path in sorted((sharded / "sft/train").iterdir())]
    assert [len(table) for table in tables] == [100, len(read(plain / "sft/train.jsonl")) - 100]
    assert [row for table in tables for row in table.to_pylist()] == read(plain / "sft/train.jsonl")
    facts = report(sharded)["sets"]["sft"]["files"]
    assert facts["sft/train/"] == report(plain)["sets"]["sft"]["files"]["sft/train.jsonl"]
