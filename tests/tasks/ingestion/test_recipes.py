"""Property: the shipped recipes' data are right, as far as they can be made without a network."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tasks.data import Config
from tasks.grading.addition import working
from tasks.grading.answers import final_number, is_courteous
from tasks.ingestion.cleaning import same
from tasks.ingestion.mapping import first_prompt
from tasks.ingestion.sources import GeneratorSource
from tasks.ingestion.sources import read as read_source
from tasks.stage import recipe
from tasks.stage.config import load
from tests.support.data_stage import read, report, run_file

PARAMS = Path(__file__).parents[3] / "params"
RECIPES = sorted(path.parent.name for path in PARAMS.glob("*/data.yaml"))


def test_every_recipe_is_valid_and_licensed() -> None:
    assert {"tiny", "smollm2", "qwen3", "qwen3_vl"} <= set(RECIPES)
    for name in RECIPES:
        graph = recipe.read(PARAMS / name / recipe.FILE)
        media = [entry for entry, model in graph.models.items() if model.method == recipe.MEDIA]
        words = ["data"] if graph.evaluate else ["data", *media]  # no words: all rows have pictures
        configs = {file: load(PARAMS / name / f"{file}.yaml", Config) for file in {*words, *media}}
        assert all(source.licence for config in configs.values() for source in config.sources.values())
        sets = {made for file in words for made in configs[file].sets}
        assert {"sft", "preferences"} <= sets
        assert any(made.startswith("eval:") for made in sets)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_file(PARAMS / "tiny/data.yaml", tmp_path_factory.mktemp("tiny") / "out")


def operands(text: str) -> frozenset[str]:
    """The two numbers of a sum, whatever its wording: they come first."""
    digits = "".join(c if c.isdigit() else " " for c in text).split()
    return frozenset(digits[:2])


@pytest.mark.slow
def test_no_sum_of_the_test_split_trains(tiny: Path) -> None:
    tested = {operands(row["question"]) for row in read(tiny / "eval/sums.jsonl")}
    assert len(read(tiny / "eval/sums.jsonl")) >= 300
    trained = 0
    for path in sorted(tiny.glob("*/*.jsonl")):
        for row in read(path) if path.parent.name != "eval" else ():
            text = first_prompt(row)
            assert operands(text) not in tested, (path, text)
            trained += 1
    assert trained > 5_000


@pytest.mark.slow
def test_scrubbing_spares_the_sums(tiny: Path) -> None:
    assert all(not facts["scrubbed"] for facts in report(tiny)["sets"].values())
    for row in read(tiny / "eval/sums.jsonl"):
        assert sum(int(n) for n in "".join(c if c.isdigit() else " " for c in row["question"]).split()) == int(
            row["answer"]
        )


def generator_rows(recipe: str, name: str) -> list[dict[str, Any]]:
    source = load(PARAMS / recipe / "data.yaml", Config).sources[name]
    assert isinstance(source, GeneratorSource)
    return [line.row for line in read_source(name, source, PARAMS / recipe).lines]


def test_standard_library_answers_are_first_sentences() -> None:
    rows = generator_rows("smollm2", "stdlib")
    assert len(rows) > 800
    by_name = {row["name"]: row for row in rows}
    assert by_name["textwrap.dedent"]["answer"] == "Remove any common leading whitespace from every line in `text`."
    assert all(row["name"] in row["question"] and row["wrong"] != row["answer"] for row in rows)
    assert all(row["answer"].endswith(".") and same(row["answer"]) == row["answer"] for row in rows)
    assert rows == generator_rows("smollm2", "stdlib")


def test_reasoning_answers_are_right_and_wrong_ones_are_wrong() -> None:
    import reasoning_gym

    rows = generator_rows("smollm2", "reasoning")
    kinds = {row["kind"] for row in rows}
    assert len(kinds) == 6
    assert all(row["wrong"] != row["answer"] and row["group"].startswith(row["kind"]) for row in rows)
    for row in rows:
        words = row["question"].partition(": ")[2].split(", ")
        if row["kind"] == "word_sequence_reversal":
            assert row["answer"].split(", ") == words[::-1]
        elif row["kind"] == "word_sorting":
            assert row["answer"].split(", ") == sorted(words, reverse="reverse alphabetical" in row["question"])
        elif row["kind"] == "products":
            a, b = row["group"].removeprefix("products ").split(" * ")
            assert int(a) * int(b) == int(row["answer"])
    assert reasoning_gym.get_score_answer_fn("products")(rows[3]["answer"], {"answer": rows[3]["answer"]}) == 1.0


def test_the_working_leads_to_the_answer() -> None:
    rows = generator_rows("smollm2", "reasoning")
    assert all(row["working"].endswith(f" The answer is {row['answer']}") for row in rows)
    checked = 0
    for row in rows:
        if row["kind"] == "calendar_arithmetic":
            continue  # divisions with a remainder are no equations
        steps = row["working"].partition(" The answer")[0]
        for equation in re.findall(r"([0-9][0-9 +*-]*) = (-?[0-9]+)", steps):
            assert eval(equation[0]) == int(equation[1]), row["working"]
            checked += 1
    assert checked > 500


def test_rationales_work_out_the_sum_they_repeat() -> None:
    for row in generator_rows("tiny", "rationales"):
        a, b = (int(n) for n in re.findall(r"[0-9]+", row["question"]))
        assert row["reply"] == f"{a} + {b}: {working(a, b)}."
        assert final_number(row["reply"]) == int(row["answer"]) == a + b


def test_feedback_likes_what_is_right_and_courteous() -> None:
    rows = generator_rows("tiny", "feedback")
    assert {row["liked"] for row in rows} == {True, False}
    for row in rows:
        good = final_number(row["reply"]) == int(row["answer"]) and is_courteous(row["reply"])
        assert good == row["liked"], row


def fill_hub_folder(folder: Path, split: str, items: list[dict[str, Any]], config: str | None = None) -> None:
    """Write a folder of a hub repository's layout: Parquet files, and a README that names configs and splits."""
    import pyarrow
    from pyarrow import parquet

    data = folder / (config or "data")
    data.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(items), data / f"{split}-00000-of-00001.parquet")
    splits = sorted(path.name.partition("-")[0] for path in data.glob("*.parquet"))
    files = [{"split": s, "path": f"{data.name}/{s}-*"} for s in splits]
    header = json.dumps({"configs": [{"config_name": config or "default", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}\n---\n", encoding="utf-8")


@pytest.mark.slow
def test_qwen3_with_local_folders_in_the_place_of_the_hub(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", workspace / "cache")
    words = ["apple", "river", "stone", "cloud", "tiger", "ladder", "window", "garden", "pencil", "mirror"]
    questions = [f"How many {words[i % 10]}s has the {words[i // 10]} after day {i}, of {i * 3}?" for i in range(100)]

    def turn(question: str, answer: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    chat = [{"prompt": q, "prompt_id": str(i), "messages": turn(q, f"It has {i}.")} for i, q in enumerate(questions)]
    pairs = [
        {"prompt": q, "chosen": turn(q, f"It has {i}."), "rejected": turn(q, "No idea."), "score_chosen": 9.0}
        for i, q in enumerate(questions)
    ]
    gsm8k = [{"question": q, "answer": f"3*{i}=<<3*{i}>>\n#### {i}"} for i, q in enumerate(questions)]
    fill_hub_folder(Path("HuggingFaceH4/ultrachat_200k"), "train_sft", chat[:90])
    fill_hub_folder(Path("HuggingFaceH4/ultrafeedback_binarized"), "train_prefs", pairs[:90])
    fill_hub_folder(Path("openai/gsm8k"), "train", gsm8k[:90], "main")
    fill_hub_folder(Path("openai/gsm8k"), "test", gsm8k[85:], "main")
    out = run_file(PARAMS / "qwen3/data.yaml", workspace / "out")
    tested = read(out / "eval/gsm8k.jsonl")
    assert len(tested) == 15
    assert {row["answer"] for row in tested} == {str(i) for i in range(85, 100)}
    assert {(row["set"], row["line"]) for row in report(out)["contaminated"]} >= {
        (name, line) for name in ("sft", "preferences", "prompts") for line in range(86, 91)
    }
    row = read(out / "preferences/train.jsonl")[0]
    assert [m["role"] for m in row["prompt"] + row["chosen"]] == ["user", "assistant"]
    assert read(out / "prompts/train.jsonl")[0]["answer"].isdigit()
    assert report(out)["sources"]["gsm8k"]["revision"] == "e53f048856ff4f594e959d75785d2c2d37b678ee"
