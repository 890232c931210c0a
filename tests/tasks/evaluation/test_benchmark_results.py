"""Benchmarks asked from frozen documents: every row's score, and the mean, are those of `lm_eval` itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.stage import artifact
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
    for link in ("openai", "allenai", "EleutherAI", "cais"):
        (workspace / link).unlink()  # what is asked is in the artifact, and nowhere else
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
            plain_scores = {metric: score for metric, score in scores.items() if isinstance(score, (int, float))}
            same = {m: s for m, s in plain_scores.items() if m in row["scores"] and m != "perplexity"}
            assert {metric: row["scores"][metric] for metric in same} == same
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
