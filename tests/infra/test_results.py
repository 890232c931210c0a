"""`make results`: the tables of docs/results.md against the artifacts of a small run."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from infra.results import compression, markdown, methods, page
from infra.results.artifacts import Artifacts
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError, ConfigError
from tests.conftest import REPO
from tests.support import results_tree

PAGE = REPO / "docs" / "results.md"
PARAMS = REPO / "params" / "tiny"
Make = Callable[..., artifact.Manifest]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, make_artifact: Make) -> Path:
    return results_tree.build(tmp_path_factory.mktemp("run"), make_artifact)


@pytest.fixture
def run(tree: Path) -> Artifacts:
    return Artifacts(tree, PARAMS)


def row(text: str, first: str) -> list[str]:
    """Cells of the first row that begins with a name."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_claims_are_the_leaderboards(run: Artifacts) -> None:
    text = methods.claims(run)
    assert row(text, "`sft`")[:5] == ["sft", "`base`", "`sums.exact_match`", "0.000", "0.500"]
    assert re.fullmatch(r"\+0\.500 \[\+0\.\d{3}, \+0\.\d{3}\] ▲", row(text, "`sft`")[5])
    assert row(text, "`pruned_wanda`")[5].endswith("▼")
    assert row(text, "`student_logits`")[1] == "`student_alone`"
    assert f"Of {len(run.board['claims'])} claims: " in text


def test_the_main_line_has_half_intervals_and_verdicts(run: Artifacts) -> None:
    score = run.score("sft", "sums.helpful")
    assert score is not None
    half = (score["high"] - score["low"]) / 2
    assert row(methods.spine(run), "`sft`")[0] == f"0.500 ± {half:.3f} ▲"
    assert row(methods.spine(run), "`base`")[0] == "0.000 ± 0.000"
    assert row(methods.spine_changes(run), "`dpo`")[:2] == ["`sft`", "0.000 [0.000, 0.000] ="]


def test_lower_is_better_where_the_task_says_so(run: Artifacts) -> None:
    assert row(methods.spine(run), "`sft`")[3].endswith("▼")


def test_all_scores_leave_out_models_that_were_not_evaluated(run: Artifacts) -> None:
    text = methods.scores(run)
    assert row(text, "`grpo`") == ["`sft`", *["0.800"] * 6]
    assert "`reward`" not in text


def test_adapters_stand_beside_a_training_of_all_weights(run: Artifacts) -> None:
    text = methods.adapters(run)
    assert row(text, "`lora`") == ["163,840", "662,520", "240", "0.450", "0.450", "0.450"]
    assert row(text, "`instruct`")[:3] == ["895,872", "–", "160"]
    assert "`sft`" not in text


def test_reward_model_and_judge(run: Artifacts) -> None:
    text = methods.judges(run)
    assert "| `reward` | held-out pairs right | 0.763 [0.700, 0.821] |" in text
    assert "| `rlaif` | agreement with gold on the 320 that gold tells apart | 0.869 [0.834, 0.903] |" in text


def test_rewards_rounds_and_refinement(run: Artifacts) -> None:
    rewards = ["0.130 → 0.376", "`right`", "0.130 → 0.376", "9.3", "0.048", "no"]
    assert row(methods.rewards(run), "`grpo`") == rewards
    assert row(methods.rounds(run), "`rft`") == ["1", "500", "2,000", "12.3 %", "142", "0", "142"]
    assert row(methods.refinement(run), "`refine`")[-2:] == ["−0.040 [−0.080, −0.010]", "best-of-n"]
    assert row(methods.critiques(run), "`refine`") == ["before", "85 of 197", "22 of 103", "12", "16"]


def test_merges_name_the_candidate_that_was_chosen(run: Artifacts) -> None:
    cells = row(compression.merging(run), "`merged_ties`")
    assert cells[:4] == ["2", "density 0.9", "0.900", "0.900"]
    assert cells[6] == "`dpo` 0.500, `instruct` 0.600"
    assert cells[7].endswith("▲ over `instruct`")
    assert compression.held(run).splitlines()[2:] == ["| `merged_adapters` | 32 | `dpo` 0.986, `lora` 1.000 |"]


def test_smaller_models(run: Artifacts) -> None:
    pruned = row(compression.pruning(run), "`pruned_wanda`")
    assert pruned[:5] == ["0.2437", "0.3724", "0.2461", "0.474 → 0.474 → 0.474", "0.500 → 0.200"]
    assert row(compression.sparsity(run), "`pruned_wanda`")[2:] == ["50.0 %", "47.5 %"]
    assert row(compression.quantization(run), "`quant_gptq`")[:4] == ["0.00151", "0.988", "0.72", "3.59"]
    assert row(compression.forms(run), "`dpo`")[:4] == ["int4", "1.23", "0.00123", "0.991"]
    assert row(compression.forms(run), "`dpo`")[6].startswith("−0.050 [")
    assert row(compression.forms(run), "`dpo`")[4] == "`sums`"


def test_students_are_compared_with_the_one_before(run: Artifacts) -> None:
    assert row(compression.students(run), "`student_answers`")[:4] == [
        "0.524",
        "0.750 (0.800)",
        "0.750 (0.800)",
        "93.8 %",
    ]
    assert row(compression.student_steps(run), "`student_logits`") == [
        "`student_answers`",
        "0.000 [0.000, 0.000] =",
        "0.000 [0.000, 0.000] =",
    ]
    assert row(compression.student_steps(run), "`student_on_policy`")[1].startswith("+0.250 [")


def test_the_page_has_every_table_with_the_columns_that_the_command_writes(run: Artifacts) -> None:
    shown = page.blocks(PAGE.read_text(encoding="utf-8"), "docs/results.md")
    for name, write in page.TABLES.items():
        assert shown[name].splitlines()[:2] == write(run).splitlines()[:2], f"{name}: run `make results`"


def test_the_page_shows_the_run_that_the_repository_locks() -> None:
    """Where the run that is committed lies in `artifacts/`, the page is what the command makes of it."""
    shown = subprocess.run(["git", "show", "HEAD:dvc.lock"], cwd=REPO, capture_output=True, text=True, check=False)
    stages = YAML(typ="safe").load(shown.stdout or "stages: {}")["stages"]
    reports = REPO / "artifacts" / "reports"
    locked = {out["path"]: out["md5"] for out in stages.get("report", {}).get("outs", [])}
    if locked.get("artifacts/reports") != dvc_hash(reports):
        pytest.skip("artifacts/ does not hold the run of the committed dvc.lock")
    text = PAGE.read_text(encoding="utf-8")
    assert page.fill(text, str(PAGE), Artifacts(REPO / "artifacts", PARAMS)) == text, "run `make results`"


def dvc_hash(folder: Path) -> str:
    """The hash that DVC gives to a folder."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    rows = [{"md5": hashlib.md5(files[name].read_bytes()).hexdigest(), "relpath": name} for name in sorted(files)]
    return f"{hashlib.md5(json.dumps(rows).encode()).hexdigest()}.dir"


def test_the_command_writes_the_page_and_nothing_twice(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "results.md"
    copy.write_bytes(PAGE.read_bytes())
    command = [sys.executable, "-m", "infra.results", "--artifacts", str(tree), "--page", str(copy)]
    first = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert "written anew" in first.stdout
    text = copy.read_text(encoding="utf-8")
    assert page.blocks(text, "")["held"] == compression.held(Artifacts(tree, PARAMS))
    outside = page.BLOCK.sub("", text)
    assert outside == page.BLOCK.sub("", PAGE.read_text(encoding="utf-8"))
    second = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert "nothing changed" in second.stdout
    assert copy.read_text(encoding="utf-8") == text


def test_what_the_run_left_out_is_said(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "artifacts")
    file = tmp_path / "artifacts/reports/leaderboard.json"
    board = artifact.read_json(file)
    assert "vlm" not in board["models"], "as where its data set is left out: the tables go without it"
    artifact.write_json(file, board | {"left_out": ["left out here, without espeakng_loader: spoken, hearing"]})
    copy = tmp_path / "results.md"
    copy.write_bytes(PAGE.read_bytes())
    command = [sys.executable, "-m", "infra.results", "--artifacts", str(tmp_path / "artifacts"), "--page", str(copy)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "left out here, without espeakng_loader: spoken, hearing"
    assert "| `vlm` |" not in page.blocks(copy.read_text(encoding="utf-8"), "")["scores"]


def test_a_run_that_is_not_whole_leaves_the_page_alone(tmp_path: Path) -> None:
    copy = tmp_path / "results.md"
    copy.write_bytes(PAGE.read_bytes())
    command = [sys.executable, "-m", "infra.results", "--artifacts", str(tmp_path), "--page", str(copy)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "reports/leaderboard.json: no such file; run `polm run --recipe tiny` first" in done.stderr
    assert copy.read_bytes() == PAGE.read_bytes()


def test_another_recipes_run_is_refused(tree: Path) -> None:
    with pytest.raises(ArtifactError, match="is of the recipe 'tiny'; run `polm run --recipe qwen3` first"):
        Artifacts(tree, REPO / "params" / "qwen3")


def test_models_stand_in_the_order_of_the_graph(run: Artifacts) -> None:
    names = re.findall(r"^\| `(\w+)`", methods.scores(run), re.M)
    assert names == [
        "base",
        "sft",
        "instruct",
        "lora",
        "dpo",
        "rlaif",
        "rft",
        "grpo",
        "refine",
        "merged_ties",
        "merged_adapters",
        "pruned_wanda",
        "quant_gptq",
        "student_alone",
        "student_logits",
        "student_on_policy",
        "student_answers",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- table: held -->", "<!-- table: hold -->", r"page:\d+: no table 'hold'; did you mean 'held'\?"),
        ("<!-- table: held -->", "<!-- table: spine -->", r"page:\d+: the table 'spine' stands twice"),
        ("<!-- table: held -->\n", "", "page: no place for held"),
        ("<!-- table: held -->", "<!-- table: held", r"page:\d+: '<!-- table: held' opens no table"),
    ],
)
def test_wrong_markers_are_named(old: str, new: str, message: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    with pytest.raises(ConfigError, match=message):
        page.blocks(text.replace(old, new), "page")


def test_a_table_without_an_end_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    start = text.index("<!-- end -->", text.index("<!-- table: held -->"))
    with pytest.raises(ConfigError, match=r"page:\d+: the table 'held' has no <!-- end -->"):
        page.blocks(text[:start] + text[start + len("<!-- end -->\n") :], "page")


def test_figures_keep_their_digits_and_zero_has_no_sign() -> None:
    assert [markdown.figure(x, sign=True) for x in (0.1234, -0.0004, 0, -1)] == ["+0.123", "0.000", "0.000", "−1.000"]
    assert markdown.figure(-0.5) == "−0.500"


def test_a_row_that_does_not_fit_its_head_is_a_bug() -> None:
    with pytest.raises(ValueError, match="2 cells below a head of 1"):
        markdown.table(["a"], [["b", "c"]])
