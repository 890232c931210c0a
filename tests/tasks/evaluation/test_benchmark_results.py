"""Benchmarks asked from frozen documents: every row's score, and the mean, are those of `lm_eval` itself."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.ingestion import harness_index
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tests.conftest import REPO
from tests.support import benchmarks

Make = Callable[..., artifact.Manifest]
ASKED = {
    "gsm8k": ("gsm8k", 2, {"generation"}),
    "arc_easy": ("arc", 3, {"choice"}),
    "lambada_openai": ("lambada", None, {"likelihood"}),
    "wikitext": ("wikitext", None, {"whole texts"}),
    "mmlu_social_sciences": ("mmlu", 1, {"group"}),
}
"""Benchmark to the harness's folder, the few-shot examples, and what kind of question it is of."""
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data sets at the paths of their hub ids."""
    root = tmp_path_factory.mktemp("hub")
    for write in (benchmarks.gsm8k, benchmarks.arc_easy, benchmarks.lambada, benchmarks.wikitext, benchmarks.mmlu):
        write(root)
    return root


@pytest.fixture
def hub(published: Path, workspace: Path) -> None:
    """These data sets in the workspace."""
    for folder in published.iterdir():
        (workspace / folder.name).symlink_to(folder)


@pytest.fixture(scope="module")
def wide(chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    """A model that says something else to every question, with room for examples."""
    return benchmarks.wide(chat_model, tmp_path_factory.mktemp("wide") / "model", make_artifact)


def without_hub(workspace: Path) -> None:
    """Take the data sets away: what is asked is in the artifact, and nowhere else."""
    for link in [path for path in workspace.iterdir() if path.is_symlink()]:
        link.unlink()


def theirs(results: Any, task: str) -> list[dict[str, float]]:
    """The harness's score of each document of a task, named as ours are."""
    rows: dict[int, dict[str, float]] = {}
    for sample in results["samples"][task]:
        suffix = "" if sample["filter"] == "none" else f"[{sample['filter']}]"
        scores = {f"{metric}{suffix}": sample[metric] for metric in sample["metrics"]}
        rows.setdefault(sample["doc_id"], {}).update(scores)
    return [rows[number] for number in sorted(rows)]


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_row_and_the_mean_are_those_of_lm_eval(
    name: str, chat: bool, hub: None, wide: Path, workspace: Path, make_artifact: Make
) -> None:
    folder, shots, _ = ASKED[name]
    expected = benchmarks.by_harness(wide, name, folder, shots, None, chat)
    data = benchmarks.freeze(workspace / "artifacts/data", {name: {"num_fewshot": shots}}, make_artifact)
    without_hub(workspace)
    asked = [{"benchmark": name, "num_fewshot": shots, "apply_chat_template": chat}]
    out = benchmarks.evaluate(wide, data, asked)
    entry = artifact.read_json(out / "results.json")["tasks"][name]
    for metric, value in entry["metrics"].items():
        plain, _, suffix = metric.partition("[")
        key = f"{plain},{suffix.removesuffix(']') or 'none'}"
        assert value["value"] == pytest.approx(expected["results"][name][key], rel=1e-12), metric
        assert value["low"] <= value["value"] <= value["high"]
    leaves = sorted(expected["samples"])
    rows = artifact.read_jsonl(out / "samples" / f"{name}.jsonl")
    assert len(rows) == entry["samples"] == sum(len(theirs(expected, leaf)) for leaf in leaves)
    own = {leaf: [row for row in rows if row.get("task", name) == leaf] for leaf in leaves}
    harness = {leaf: artifact.read_jsonl(out / "lm_eval" / f"samples_{leaf}_polm.jsonl") for leaf in leaves}
    differing = set()
    for leaf in leaves:
        for row, scores in zip(own[leaf], theirs(expected, leaf), strict=True):
            assert row["scores"].keys() == (scores.keys() if name != "mmlu_social_sciences" else {"acc"})
            means = {m: s for m, s in scores.items() if not m.endswith("perplexity") and m != "bits_per_byte"}
            assert {metric: row["scores"][metric] for metric in means} == means
            differing.add(str(row["response"]) + str(sorted(row["scores"].items())))
        for ours, sample in zip(harness[leaf], expected["samples"][leaf], strict=True):
            assert [ours["doc_id"], ours["filter"]] == [sample["doc_id"], sample["filter"]]
            assert ours["prompt_hash"] == sample["prompt_hash"], "the same prompt, examples and template"
            assert ours["doc_hash"] == sample["doc_hash"]
            assert ours["resps"] == [
                [str(r) if not isinstance(r, tuple) else [str(x) for x in r] for r in resps]
                for resps in sample["resps"]
            ]
            for metric in sample["metrics"]:
                said = sample[metric]
                assert ours[metric] == (list(said) if isinstance(said, tuple) else said)
    assert len(differing) > 1, "rows that differ tell a mixed-up order"


def test_ifeval_is_asked_too(workspace: Path, wide: Path, make_artifact: Make) -> None:
    """The second and fourth metric of ifeval are means over instructions and not over rows."""
    benchmarks.ifeval(workspace)
    expected = benchmarks.by_harness(wide, "ifeval", "ifeval", None, None, True)
    data = benchmarks.freeze(workspace / "artifacts/data", {"ifeval": {}}, make_artifact)
    out = benchmarks.evaluate(wide, data, [{"benchmark": "ifeval"}])
    metrics = artifact.read_json(out / "results.json")["tasks"]["ifeval"]["metrics"]
    assert len(metrics) == 4
    for metric, value in metrics.items():
        assert value["value"] == pytest.approx(expected["results"]["ifeval"][f"{metric},none"])
    rows = artifact.read_jsonl(out / "samples" / "ifeval.jsonl")
    for row, sample in zip(rows, expected["samples"]["ifeval"], strict=True):
        assert row["response"] == sample["resps"][0][0]
        assert row["scores"]["prompt_level_strict_acc"] == float(sample["prompt_level_strict_acc"])


def test_an_onnx_form_gets_the_scores_of_the_model(hub: None, wide: Path, workspace: Path, make_artifact: Make) -> None:
    from tasks.export import builder

    form = workspace / "artifacts/onnx/wide/fp32"
    builder.build(wide, form, precision="fp32", options=builder.prepare_options(wide, "fp32", "fp32", {}))
    make_artifact(form.parent, stage="export_onnx")
    names = ("gsm8k", "arc_easy", "lambada_openai", "wikitext")
    data = benchmarks.freeze(workspace / "artifacts/data", {name: {"num_fewshot": 1} for name in names}, make_artifact)
    asked = [{"benchmark": name} for name in names]
    torch_rows, onnx_rows = (
        {
            name: artifact.read_jsonl(benchmarks.evaluate(model, data, asked, label) / "samples" / f"{name}.jsonl")
            for name in names
        }
        for model, label in ((wide, "wide"), (form, "wide-fp32"))
    )
    for name in names:
        for one, other in zip(torch_rows[name], onnx_rows[name], strict=True):
            assert {key: one[key] for key in ("id", "question", "response")} == {
                key: other[key] for key in ("id", "question", "response")
            }
            assert one["scores"] == pytest.approx(other["scores"], rel=1e-3)


def test_the_artifact_is_the_same_twice_and_names_no_place(
    hub: None, wide: Path, workspace: Path, make_artifact: Make
) -> None:
    chosen = {"gsm8k": {"num_fewshot": 1}, "wikitext": {}}
    data = benchmarks.freeze(workspace / "artifacts/data", chosen, make_artifact)
    asked: list[dict[str, Any]] = [{"benchmark": "wikitext"}, {"benchmark": "gsm8k", "limit": 2}]
    first, second = (benchmarks.evaluate(wide, data, asked, f"{part}/wide") for part in "ab")
    files = artifact.verify(first).files
    results = artifact.read_json(first / "results.json")
    assert list(results["tasks"]) == ["gsm8k", "wikitext"]
    assert results["tasks"]["gsm8k"]["samples"] == 2
    assert {"lm_eval/results_polm.json", "lm_eval/samples_wikitext_polm.jsonl", "tasks/gsm8k.yaml"} <= set(files)
    other = artifact.verify(second).files
    assert {name: digest for name, digest in files.items() if other[name] != digest} == {}
    for name in files:
        text = (first / name).read_text(encoding="utf-8")
        assert "site-packages" not in text and str(workspace) not in text and "0x7f" not in text, name


def test_what_does_not_fit_is_an_error_or_counts_as_unanswered(
    hub: None, chat_model: Path, workspace: Path, make_artifact: Make
) -> None:
    """The model's context is 256 tokens, which a prompt with an example and its answer is over."""
    data = benchmarks.freeze(workspace / "artifacts/data", {"gsm8k": {"num_fewshot": 1}}, make_artifact)
    with pytest.raises(DataError, match=r"task gsm8k, row 0: a prompt of \d+ tokens leaves no room"):
        benchmarks.evaluate(chat_model, data, [{"benchmark": "gsm8k"}])
    out = benchmarks.evaluate(chat_model, data, [{"benchmark": "gsm8k"}], too_long="unanswered")
    entry = artifact.read_json(out / "results.json")["tasks"]["gsm8k"]
    assert entry["unanswered"] == 6
    assert {value["value"] for value in entry["metrics"].values()} == {0.0}
    assert all(row["unanswered"] for row in artifact.read_jsonl(out / "samples" / "gsm8k.jsonl"))


def test_a_limit_asks_the_first_documents_and_the_tools_of_lm_eval_read_what_is_written(
    hub: None, wide: Path, workspace: Path, make_artifact: Make
) -> None:
    """One document of each subject of a group, and two of a task, of four that were frozen."""
    import datasets
    from lm_eval.utils import make_table

    limits = {"mmlu_social_sciences": 1, "gsm8k": 2}
    chosen: dict[str, dict[str, Any]] = {"mmlu_social_sciences": {"limit": 1, "num_fewshot": 0}}
    chosen["gsm8k"] = {"limit": 4, "num_fewshot": 0}
    data = benchmarks.freeze(workspace / "artifacts/data", chosen, make_artifact)
    expected = {name: benchmarks.by_harness(wide, name, ASKED[name][0], 0, limits[name], True) for name in limits}
    without_hub(workspace)
    out = benchmarks.evaluate(wide, data, [{"benchmark": name, "limit": limits[name]} for name in limits])
    tasks = artifact.read_json(out / "results.json")["tasks"]
    assert {name: entry["samples"] for name, entry in tasks.items()} == {"gsm8k": 2, "mmlu_social_sciences": 12}
    assert set(tasks["mmlu_social_sciences"]["metrics"]) == {"acc"}, "as a claim names it"
    written = artifact.read_json(out / "lm_eval/results_polm.json")
    for column, names in (("results", limits), ("groups", ("mmlu_social_sciences",))):
        rows = cells(make_table(written, column))
        said = [row for name in names for row in cells(make_table(expected[name], column))]
        assert sorted(rows, key=str) == sorted(said, key=str)
    samples = datasets.load_dataset(
        "json", data_files=str(out / "lm_eval/samples_gsm8k_polm.jsonl"), split="train", cache_dir="cache"
    )
    assert [row["doc_id"] for row in samples if row["filter"] == "strict-match"] == [0, 1]


def cells(table: str) -> list[list[str | float]]:
    """The lines of the harness's table, without the standard errors; a number has as many digits as its column."""

    def cell(text: str) -> str | float:
        return float(text) if re.fullmatch(r"[\d.]+", text) else text

    return [[cell(text.strip()) for text in line.split("|")[1:8]] for line in table.splitlines()[2:]]


def test_the_example_of_the_documentation_is_asked_as_it_stands(
    wide: Path, workspace: Path, make_artifact: Make
) -> None:
    text = (REPO / "docs/evaluation.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(# params/mine/data\.yaml.*?)```", text, re.DOTALL)
    said = YAML(typ="safe", pure=True).load(block)
    assert set(said) == {"benchmarks", "tasks"}
    benchmarks.gsm8k(workspace)
    benchmarks.arc_easy(workspace)
    subjects = tuple(leaf.config["dataset_name"] for leaf in harness_index.find("mmlu", "docs").leaves)
    benchmarks.mmlu(workspace, subjects, rows=1)
    data = benchmarks.freeze(workspace / "artifacts/data", said["benchmarks"], make_artifact)
    tasks = artifact.read_json(benchmarks.evaluate(wide, data, said["tasks"]) / "results.json")["tasks"]
    for claim in re.findall(r"`(\w+\.\w+(?:\[[\w-]+\])?)`", text[text.index("A claim may name") :].split("\n\n")[0]):
        task, _, metric = claim.partition(".")
        assert metric in tasks[task]["metrics"], claim
    assert {name: entry["benchmark"]["num_fewshot"] for name, entry in tasks.items()} == {
        "gsm8k": 5, "arc_easy": 0, "mmlu": 5,
    }  # fmt: skip
    assert len(subjects) == 57 and set(tasks["mmlu"]["groups"]["task"]) == {f"mmlu_{subject}" for subject in subjects}
