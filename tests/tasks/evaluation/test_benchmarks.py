"""Benchmarks that cannot be asked are refused before the model is loaded, with the key to change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluate import Config
from tasks.evaluation.benchmarks import BenchmarkChoice, prepare, prepare_all
from tasks.evaluation.task_files import TaskChoice
from tasks.ingestion import frozen_tasks
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ArtifactError, ConfigError, DataError
from tests.support import benchmarks

Make = Callable[..., artifact.Manifest]
PLACE = "params/mine/evaluate.yaml: tasks.0"


@pytest.fixture
def data(workspace: Path, make_artifact: Make) -> Path:
    """A data artifact with two problems of gsm8k and no examples."""
    benchmarks.gsm8k(workspace)
    return benchmarks.freeze(workspace / "artifacts/data", {"gsm8k": {"limit": 2, "num_fewshot": 0}}, make_artifact)


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (
            {"benchmark": "arc_easy"},
            ArtifactError,
            r"holds no benchmark 'arc_easy' \(there are: gsm8k\); name it under",
        ),
        (
            {"benchmark": "gsm8k", "limit": 3},
            ConfigError,
            r"limit is 3, and data\.yaml keeps 2 .* `benchmarks\.gsm8k\.",
        ),
        ({"benchmark": "gsm8k", "num_fewshot": 1}, ConfigError, r"num_fewshot is 1, and data\.yaml keeps .* for 0"),
    ],
)
def test_more_than_was_frozen_is_refused(
    data: Path, entry: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(BenchmarkChoice(**entry), data, PLACE, 0)


def test_what_was_frozen_is_asked_by_default(data: Path) -> None:
    asked = prepare(BenchmarkChoice(benchmark="gsm8k"), data, PLACE, 0)
    assert asked.limit == 2
    assert asked.tasks["gsm8k"].config.num_fewshot == 0
    assert len(asked.tasks["gsm8k"].eval_docs) == 2


def test_code_runs_only_where_the_data_says_so(data: Path) -> None:
    folder = data / frozen_tasks.FOLDER / "humaneval"
    folder.mkdir()
    said = artifact.read_json(data / frozen_tasks.FOLDER / "gsm8k" / frozen_tasks.DESCRIPTION)
    artifact.write_json(folder / frozen_tasks.DESCRIPTION, {**said, "benchmark": "humaneval"})
    with pytest.raises(
        ConfigError, match=r"the task humaneval runs code .* `benchmarks\.humaneval\.unsafe_code: true`"
    ):
        prepare(BenchmarkChoice(benchmark="humaneval"), data, PLACE, 0)


def test_a_name_that_is_taken_is_refused(data: Path, chat_model: Path) -> None:
    choices = [BenchmarkChoice(benchmark="gsm8k")]
    params = Path("params/mine/evaluate.yaml")
    with pytest.raises(ConfigError, match=r"tasks\.0: a task 'gsm8k' is asked already"):
        prepare_all(choices, params, data, chat_model, 0, "error", ["gsm8k"])
    with pytest.raises(ConfigError, match=r"tasks\.1: a task 'gsm8k' is asked already"):
        prepare_all(choices * 2, params, data, chat_model, 0, "error", [])


def test_a_resource_of_the_grades_that_is_missing_is_named(
    workspace: Path, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NLTK's models of sentences are a download of their own, which no machine has that never ran the task."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(workspace / "nltk_data")])
    benchmarks.ifeval(workspace, ("length_constraints:number_sentences",))
    folder = benchmarks.freeze(workspace / "artifacts/data", {"ifeval": {}}, make_artifact)
    with pytest.raises(
        DataError,
        match=r"grades of ifeval, document 0, need NLTK's `punkt_tab`.*`.* nltk\.downloader punkt_tab`",
    ):
        prepare(BenchmarkChoice(benchmark="ifeval"), folder, PLACE, 0)


def test_an_entry_is_a_file_or_a_benchmark() -> None:
    own: dict[str, Any] = {"file": "eval/sums.yaml", "limit": None, "group_by": []}
    path = Path("params/mine/evaluate.yaml")
    config = parse(path, benchmarks.settings([own, {"benchmark": "gsm8k", "limit": None, "num_fewshot": 5}]), Config)
    assert [type(choice) for choice in config.tasks] == [TaskChoice, BenchmarkChoice]
    with pytest.raises(ConfigError, match=r"tasks\.0.*: a task needs one of the keys 'file', 'benchmark'"):
        parse(path, benchmarks.settings([{"limit": None}]), Config)
    with pytest.raises(ConfigError, match=r"num_fewshots.*did you mean 'num_fewshot'"):
        parse(path, benchmarks.settings([{"benchmark": "gsm8k", "num_fewshots": 5}]), Config)


def test_a_package_that_a_task_needs_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tasks.ingestion import harness_index

    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "immutabledict", None)
    with pytest.raises(
        DataError, match=r"'ifeval' needs the Python package 'immutabledict', .*`pip install immutabledict`"
    ):
        frozen_tasks.build(harness_index.find("ifeval", PLACE), lambda task: {}, 0)
