"""Students from several seeds: what is asked of them, and which of them is enough."""

import argparse
from pathlib import Path

import pytest
from trl import SFTConfig

from bench import students
from tasks import distill, evaluate
from tasks.stage import artifact
from tasks.stage.config import load
from tests.conftest import REPO

GPU = REPO / "bench" / "students_gpu.yaml"


def asked(tmp_path: Path, metric: str, recipe: str = "tiny") -> argparse.Namespace:
    folder = REPO / "params" / recipe
    return argparse.Namespace(
        distill=folder / "distill.yaml", evaluate=folder / "evaluate.yaml", metric=metric, seeds=[7, 8], out=tmp_path,
        device="cpu",
    )  # fmt: skip


def test_every_seed_has_its_file_and_only_the_task_is_asked_with_all_its_rows(tmp_path: Path) -> None:
    settings = load(students.prepare(asked(tmp_path, "reasoning.correct", "smollm2")), evaluate.Config)
    (choice,) = settings.tasks
    assert choice.limit is None
    assert evaluate.load_task(tmp_path / choice.file)["task"] == "reasoning"
    for seed in (7, 8):
        assert load(tmp_path / f"seed{seed}" / "distill.yaml", distill.Config).seed == seed


def test_an_unknown_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"evaluate\.yaml: no task 'sumz'"):
        students.prepare(asked(tmp_path, "sumz.exact_match"))


def test_a_stage_that_fails_says_why_and_one_that_is_done_is_not_run(tmp_path: Path) -> None:
    out = tmp_path / "models" / "x"
    words: list[str | Path] = ["evaluate", tmp_path / "nowhere.yaml", "--model", tmp_path, "--data", tmp_path]
    with pytest.raises(SystemExit, match=r"tasks\.evaluate .* status 2\nerror: .*nowhere\.yaml"):
        students.stage(words, out, 1)
    out.mkdir()
    students.stage(words, out, 1)


def test_the_scores_are_those_of_the_metric(tmp_path: Path) -> None:
    rows = [{"id": name, "scores": {"right": right, "other": 0.5}} for name, right in (("a", 1.0), ("b", 0.0))]
    artifact.write_jsonl(tmp_path / "samples" / "sums.jsonl", rows)
    assert students.scores(tmp_path, "sums.right") == {"a": 1.0, "b": 0.0}


@pytest.mark.parametrize(
    ("right", "enough"),
    [
        ((70, 70), True),  # 93 % of the teacher, better than alone with both seeds
        ((70, 20), False),  # one seed fails: 60 %
        ((66, 66), False),  # 88 %
    ],
)
def test_all_seeds_together_decide(right: tuple[int, int], enough: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def of(count: int) -> students.Scores:
        return {str(i): float(i < count) for i in range(100)}

    found = {"alone": {1: of(30), 2: of(30)}, "taught": {1: of(right[0]), 2: of(right[1])}}
    assert students.table(found, of(75), share=0.9) is enough
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "teacher 0.750 of 100 questions"
    assert [line.split()[:3] for line in printed[3:]][-1] == ["taught", "all", f"{sum(right) / 200:.3f}"]


def test_a_student_no_better_than_the_one_alone_is_not_enough() -> None:
    same = {1: {str(i): float(i < 75) for i in range(100)}}
    assert not students.table({"alone": same, "taught": same}, same[1], share=0.9)


def test_the_settings_for_a_gpu_are_the_stages() -> None:
    config = load(GPU, distill.Config)
    assert list(config.methods) == list(load(REPO / "params" / "smollm2" / "distill.yaml", distill.Config).methods)
    for section in config.verbatim(SFTConfig):
        assert section.values.keys() <= set(vars(SFTConfig(output_dir="x", bf16=False, use_cpu=True)))
