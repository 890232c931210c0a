"""Benchmarks frozen by the data stage: what is kept of them, what training rows lose to them, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import data
from tasks.ingestion import benchmarks as stage
from tasks.ingestion import data_sets
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.support import benchmarks
from tests.support.data_stage import numbered, recipe, write_rows

PARAMS = Path("params/mine/data.yaml")


def run(chosen: dict[str, Any], name: str = "data", **changes: Any) -> Path:
    """Run the data stage on `rows.jsonl` and benchmarks, its output becoming an artifact."""
    config = parse(PARAMS, recipe(benchmarks=chosen, **changes), data.Config)
    PARAMS.parent.mkdir(parents=True, exist_ok=True)
    PARAMS.touch()
    out = Path("artifacts") / name
    with artifact.writing(out, stage="data", params="0" * 64, inputs={}) as temp:
        data.main(config, Run(temp, PARAMS, name, Path(".checkpoints"), {}, Progress(name), main_process=True))
    return out


def test_training_rows_with_a_question_go_and_the_report_says_what_was_frozen(workspace: Path) -> None:
    """The question alone, without the words that the prompt has around it; the examples' rows may train."""
    benchmarks.gsm8k(workspace)
    asked, shown = (f"Ann has {n} {fruit} in one bag and buys {n + 2} more of them on day {n}. How many has she?"
                    for n, fruit in ((4, "dates"), (104, "dates")))  # fmt: skip
    rows = numbered(30)
    write_rows(workspace, [*rows, {"question": asked, "answer": "Ten."}, {"question": shown, "answer": "Many."}])
    out = run({"gsm8k": {"num_fewshot": 2}}, split={"validation": 0.3, "test": 0.0}, near_duplicates=_never())
    report = artifact.read_json(out / "report.json")
    assert [row["evaluation"] for row in report["contaminated"]] == ["gsm8k#gsm8k:4"]
    assert [row["text"] for row in report["contaminated"]] == [f"{asked} | Ten."]
    texts = "".join((out / "sft" / f"{split}.jsonl").read_text() for split in ("train", "validation"))
    assert shown in texts and asked not in texts
    assert report["protected"] == {"benchmark:gsm8k": 6}
    frozen = report["benchmarks"]["gsm8k"]
    task = frozen["tasks"]["gsm8k"]
    assert (task["documents"], task["of"], task["split"], task["num_fewshot"]) == (6, 6, "test", 2)
    source = frozen["sources"][task["source"]]
    assert (source["dataset"], source["config"], source["licence"], source["revision"]) == (
        "openai/gsm8k", "main", "mit", None,
    )  # fmt: skip
    assert source["splits"] == {"test": {"rows": 6, "of": 6}, "train": {"rows": 8, "of": 8}}
    assert source["files"]["main/test-00000-of-00001.parquet"] == artifact.sha256(
        workspace / "openai/gsm8k/main/test-00000-of-00001.parquet"
    )
    said = artifact.read_jsonl(out / "benchmarks/gsm8k/questions.jsonl")
    assert [row["id"] for row in said] == [f"gsm8k:{n}" for n in range(6)]
    assert said[4]["texts"] == [f"Question: {asked}\nAnswer:", asked]
    again = run(
        {"gsm8k": {"num_fewshot": 2}}, "again", split={"validation": 0.3, "test": 0.0}, near_duplicates=_never()
    )
    assert artifact.verify(again).files == artifact.verify(out).files, "the same bytes"


def _never() -> dict[str, Any]:
    return {"threshold": 1.0, "permutations": 16, "ngram": 2}


def test_a_limit_keeps_the_first_documents_and_without_examples_one_row_of_theirs(workspace: Path) -> None:
    benchmarks.gsm8k(workspace)
    write_rows(workspace, numbered(30))
    report = artifact.read_json(run({"gsm8k": {"limit": 2, "num_fewshot": 0}}) / "report.json")["benchmarks"]["gsm8k"]
    (source,) = report["sources"].values()
    assert source["splits"] == {"test": {"rows": 2, "of": 6}, "train": {"rows": 1, "of": 8}}
    assert report["tasks"]["gsm8k"]["documents"] == 2


def test_a_recipe_without_benchmarks_has_the_manifest_it_had(workspace: Path) -> None:
    config = parse(PARAMS, recipe(), data.Config)
    assert "benchmarks" not in config.model_dump(mode="json")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gsm8kk", {}, r"benchmarks\.gsm8kk: lm-evaluation-harness has no task 'gsm8kk'; did you mean 'gsm8k'\?"),
        ("humaneval", {}, r"benchmarks\.humaneval: the task humaneval runs code .* `unsafe_code: true`"),
        ("mbpp", {"limit": 2}, r"benchmarks\.mbpp: the task mbpp runs code"),
        ("mmmu_val_accounting", {}, r"shows pictures or sounds"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    name: str, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_sets, "load_splits", lambda *args: pytest.fail("something was loaded"))
    with pytest.raises(ConfigError, match=message):
        stage.find({name: stage.Benchmark(**settings)}, PARAMS)


def test_code_may_run_where_the_recipe_says_so() -> None:
    found = stage.find({"humaneval": stage.Benchmark(unsafe_code=True)}, PARAMS)
    assert [leaf.name for leaf in found["humaneval"].leaves] == ["humaneval"]


def test_a_data_set_out_of_reach_is_named_with_the_folder_to_put_in_its_place(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_rows(workspace, numbered(30))
    with pytest.raises(
        DataError, match=r"data\.yaml: benchmarks\.gsm8k: .*openai/gsm8k, configuration main, .* at openai/gsm8k"
    ):
        run({"gsm8k": {}})


def test_a_folder_without_the_split_or_without_rows_is_named(workspace: Path) -> None:
    write_rows(workspace, numbered(30))
    benchmarks.gsm8k(workspace)
    shutil.rmtree(workspace / "openai/gsm8k")
    rows = [{"question": "How many?", "answer": "#### 2"}]
    features = {"question": benchmarks.TEXT, "answer": benchmarks.TEXT}
    benchmarks.publish(workspace / "openai/gsm8k", {"main": {"train": rows}}, features)
    with pytest.raises(DataError, match="openai/gsm8k has no split 'test', which the task gsm8k reads"):
        run({"gsm8k": {}})


def test_more_examples_than_there_are_is_an_error(workspace: Path) -> None:
    write_rows(workspace, numbered(30))
    benchmarks.gsm8k(workspace)
    with pytest.raises(DataError, match=r"benchmarks\.gsm8k: num_fewshot is 9, .* has 8"):
        run({"gsm8k": {"num_fewshot": 9}})


@pytest.mark.parametrize("write", [benchmarks.arc_easy, benchmarks.lambada, benchmarks.wikitext])
def test_the_words_of_a_document_are_found_without_the_prompt_around_them(
    write: Callable[[Path], None], workspace: Path
) -> None:
    name = {"arc_easy": "arc_easy", "lambada": "lambada_openai", "wikitext": "wikitext"}[write.__name__]
    quoted = {
        "arc_easy": "Which of these would a farmer with 1 fields of pears need most of all?",
        "lambada_openai": "He had 1 baskets and in each of them he had put pears",
        "wikitext": "= Page 1 =\n\n" + " The pears are ripe in month 1 , and sweet . \n" * 10,
    }[name]
    write(workspace)
    write_rows(workspace, [*numbered(30), {"question": "Go on.", "answer": quoted}])
    out = run({name: {}}, split={"validation": 0.3, "test": 0.0}, near_duplicates=_never())
    report = artifact.read_json(out / "report.json")
    assert [row["evaluation"] for row in report["contaminated"]] == [f"{name}#{name}:1"]


def test_a_folder_whose_rows_changed_is_read_anew(workspace: Path) -> None:
    write_rows(workspace, numbered(30))
    for count in (3, 5):
        benchmarks.gsm8k(workspace, count)
        report = artifact.read_json(run({"gsm8k": {}}, f"data{count}") / "report.json")
        assert report["protected"] == {"benchmark:gsm8k": count}
