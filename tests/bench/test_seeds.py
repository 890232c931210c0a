"""Seeds: what a copy is given, what runs in it, and what is compared over all of them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trl import SFTConfig

from bench import seeds
from tasks import distill, report
from tasks.stage import artifact
from tasks.stage.config import load, read_yaml
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support import report_tree, toy

GPU = REPO / "bench" / "students_gpu.yaml"
TINY = REPO / "params" / "tiny"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working tree with the recipes alone, which the copies are made of."""
    shutil.copytree(REPO / "params", tmp_path / "tree" / "params", symlinks=True)
    monkeypatch.setattr(seeds, "REPO", tmp_path / "tree")
    return tmp_path / "tree"


def seed_of(work: Path, name: str) -> Any:
    return read_yaml(work / "params" / "tiny" / f"{name}.yaml")["seed"]


def prepare(work: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {"reseed": [], "params": {}, "data": False}
    seeds.prepare(work, "tiny", 77, **settings | changes)
    return work


def test_every_stage_that_trains_gets_the_seed(tree: Path, tmp_path: Path) -> None:
    work = prepare(tmp_path / "work")
    assert {seed_of(work, name) for name in ("base", "sft", "dpo", "distill")} == {77}
    for name in seeds.SEEDLESS:
        assert (work / f"params/tiny/{name}.yaml").read_text() == (TINY / f"{name}.yaml").read_text(), name


def test_only_the_stages_that_are_named_get_the_seed(tree: Path, tmp_path: Path) -> None:
    work = prepare(tmp_path / "work", reseed=["distill"])
    assert seed_of(work, "distill") == 77
    assert seed_of(work, "sft") == seed_of(REPO, "sft")


def test_new_data_come_from_other_seeds_of_the_generators(tree: Path, tmp_path: Path) -> None:
    text = (prepare(tmp_path / "work", data=True) / "params/tiny/data.yaml").read_text()
    assert text.count("seed: 77") >= 3
    assert len(text.splitlines()) == len((TINY / "data.yaml").read_text().splitlines())


def test_a_recipe_file_can_be_replaced(tree: Path, tmp_path: Path) -> None:
    work = prepare(tmp_path / "work", reseed=["distill"], params={"distill": GPU})
    config = load(work / "params/tiny/distill.yaml", distill.Config)
    assert config.seed == 77 and config.trainer["max_steps"] == load(GPU, distill.Config).trainer["max_steps"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reseed": ["destill"]}, r"params/tiny: no file destill\.yaml"),
        ({"params": {"destill": GPU}}, r"params/tiny: no file destill\.yaml"),
    ],
)
def test_an_unknown_recipe_file_is_named(tree: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(tmp_path / "work", **changes)


@pytest.mark.slow
def test_what_the_seed_does_not_change_comes_out_of_the_cache(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = toy.make(workspace)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=workspace, env=project.environment(), check=True)
    monkeypatch.setattr(seeds, "REPO", project.root)
    work = tmp_path_factory.mktemp("seeds") / "5"
    project.ran()  # the copy begins without
    seeds.prepare(work, "toy", 5, reseed=["left"], params={}, data=False)
    seeds.share_cache(work)
    seeds.train(work, "toy", ["tail@*"], 2)
    names = (work / "ran.txt").read_text().split()
    assert names[0] == "left" and sorted(names) == ["left", "x", "y"], "source was restored, right was not asked for"

    with pytest.raises(SystemExit, match=r"`polm run` ended with exit code 2"):
        seeds.train(work, "toy", ["evaluate@*"], 2)


@pytest.fixture
def work(tmp_path: Path, make_artifact: report_tree.Make) -> Path:
    """A copy in which models were evaluated."""
    shutil.copytree(TINY, tmp_path / "params" / "tiny")
    report_tree.build(tmp_path, make_artifact)
    return tmp_path


def test_a_claim_is_over_the_parent_or_the_control(work: Path) -> None:
    by_parent = {row.model: row for row in seeds.rows(seeds.built(work, "tiny", None), 1, None)}
    assert {model: row.parent for model, row in by_parent.items()} == {"sft": "base", "dpo": "sft"}
    assert by_parent["dpo"].metric == "sums.helpful" and by_parent["dpo"].difference["verdict"] == "better"

    (row,) = seeds.rows(seeds.built(work, "tiny", "sft"), 1, "sft")
    assert (row.model, row.parent) == ("dpo", "sft"), "the control is compared with nothing"
    by_base = {row.model: row for row in seeds.rows(seeds.built(work, "tiny", "base"), 1, "base")}
    assert by_base["dpo"].parent == "base" and by_base["dpo"].before < by_parent["dpo"].before


def test_groups_and_controls_are_printed(work: Path, make_artifact: report_tree.Make) -> None:
    sft = artifact.read_manifest(work / "artifacts" / "models" / "sft").digest
    report_tree.add_sight(work / "artifacts", make_artifact, sft)
    report_tree.add_hearing(work / "artifacts", make_artifact, sft)
    leaderboard = seeds.built(work, "tiny", None)
    lines = seeds.groups(leaderboard, 3)
    (which,) = [line for line in lines if "vlm " in line and "kind=seen" in line]
    score = leaderboard["models"]["vlm"]["tasks"]["digits"]["groups"]["kind"]["seen"]["exact_match"]["value"]
    assert which.startswith("seed 3") and f" {score:.3f}  " in which and "noise 0." in which
    (rate,) = [line for line in lines if "speech " in line and "word error rate all" in line]
    assert (
        f"{leaderboard['models']['speech']['tasks']['transcripts']['word_error_rate']['own']['all']['value']:.3f} ["
        in rate
    )


def test_the_scores_are_those_of_the_metric(tmp_path: Path) -> None:
    rows = [{"id": name, "scores": {"right": right, "other": 0.5}} for name, right in (("a", 1.0), ("b", 0.0))]
    artifact.write_jsonl(tmp_path / "samples" / "sums.jsonl", rows)
    assert seeds.scores(tmp_path, "sums.right") == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("right", "higher_is_better", "verdict"),
    [
        ((70, 70), True, "better"),
        ((70, 20), True, "better"),  # one seed is worse, both together are better
        ((70, 70), False, "worse"),
        ((30, 30), True, "no difference"),
        ((20, 38), True, "no difference"),
    ],
)
def test_all_seeds_together_decide(
    tmp_path: Path, right: tuple[int, int], higher_is_better: bool, verdict: str
) -> None:
    works = [tmp_path / "1", tmp_path / "2"]
    for work, count in zip(works, right, strict=True):
        for model, hits in (("alone", 30), ("taught", count)):
            folder = work / "artifacts" / "metrics" / model
            rows = [{"id": str(i), "scores": {"right": float(i < hits)}} for i in range(100)]
            artifact.write_jsonl(folder / "samples" / "sums.jsonl", rows)
            artifact.write_json(
                folder / "results.json", {"tasks": {"sums": {"higher_is_better": {"right": higher_is_better}}}}
            )
    one = seeds.Row("1", "taught", "alone", "sums.right", 0.3, right[0] / 100, {})
    row = seeds.together(one, works, load(TINY / "report.yaml", report.Config))
    assert row.seed == "all"
    assert [row.before, row.after] == pytest.approx([0.3, sum(right) / 200])
    assert row.difference["verdict"] == verdict
    assert f"0.300 → {sum(right) / 200:.3f}" in str(row)
    assert seeds.share(row, works, "alone") == f"taught     has {sum(right) / 60:.1%} of alone's sums.right"


def test_the_settings_for_a_gpu_are_the_stages() -> None:
    config = load(GPU, distill.Config)
    assert list(config.methods) == list(load(REPO / "params" / "smollm2" / "distill.yaml", distill.Config).methods)
    for section in config.verbatim(SFTConfig):
        assert section.values.keys() <= set(vars(SFTConfig(output_dir="x", bf16=False, use_cpu=True)))
