"""The fingerprint: which edit changes which stages."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import fingerprint
from tests.conftest import REPO

Edit = Callable[[str, str, str], set[str]]
LEARNERS = {"sft", "dpo", "kto", "reward", "grpo", "ppo", "rejection", "refine", "distill", "prune", "adapt", "judge"}

KEPT = {name: getattr(fingerprint, name) for name in ("_tree", "_sha256")}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code, the DAG and the tiny recipe in a folder of their own, the working directory."""
    for name in ("tasks", "params/tiny"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "dvc.yaml", tmp_path)
    (tmp_path / "params/recipe.yaml").symlink_to("tiny/recipe.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@functools.cache
def looked_at(what: str, path: Path, content: bytes) -> Any:
    """What the module's function of this name makes of a file with this content: most files are those of last time."""
    return KEPT[what].__wrapped__(path)


@pytest.fixture
def edit(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Replace a text in a file, and return the stages whose fingerprint that changes."""
    for what in KEPT:
        monkeypatch.setattr(fingerprint, what, lambda path, what=what: looked_at(what, path, path.read_bytes()))

    def prints() -> dict[str, str]:
        fingerprint.imports.cache_clear()
        return {m: str(p["sha256"]) for m, p in fingerprint.fingerprints(Path("params/tiny")).items()}

    last = prints()

    def change(name: str, old: str, new: str) -> set[str]:
        path = copy / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        before = dict(last)
        last.update(prints())
        assert len(last) > 20
        return {module for module in last if last[module] != before.get(module)}

    return change


def test_a_docstring_and_a_comment_change_nothing(edit: Edit) -> None:
    assert edit("tasks/training/trainer.py", '"""', '"""Better said: ') == set()
    assert edit("tasks/training/trainer.py", "\ndef ", "\n# A remark.\n\n\ndef ") == set()


def test_the_layout_of_a_line_changes_nothing(edit: Edit) -> None:
    assert edit("tasks/dpo.py", "import", "import ") == set()


def test_code_that_all_trainers_use_changes_all_of_them(edit: Edit) -> None:
    changed = edit("tasks/training/trainer.py", "\ndef ", "\nX = 1\n\n\ndef ")
    assert changed >= LEARNERS
    assert not changed & {"data", "evaluate", "report", "export_onnx"}


def test_code_of_one_method_changes_it_alone(edit: Edit) -> None:
    assert edit("tasks/kto.py", "\ndef ", "\nX = 1\n\n\ndef ") == {"kto"}


def test_a_generator_that_the_recipe_names_changes_data(edit: Edit) -> None:
    assert "data" in edit("tasks/generators/arithmetic.py", "\ndef ", "\nX = 1\n\n\ndef ")


def test_a_generator_of_pictures_changes_data_alone(edit: Edit) -> None:
    """Named in the file of a data set of pictures, and not in data.yaml."""
    assert edit("tasks/generators/digits.py", "SCALE = 2", "SCALE = 3") == {"data"}


def test_code_of_models_that_see_changes_those_who_take_them(edit: Edit) -> None:
    assert edit("tasks/multimodal/alignment.py", "\ndef ", "\nX = 1\n\n\ndef ") == {"align", "align_speech"}
    assert edit("tasks/multimodal/controls.py", "\ndef ", "\nX = 1\n\n\ndef ") == {"evaluate", "evaluate_rag", "report"}
    assert edit("tasks/reporting/sight.py", "\ndef ", "\nX = 1\n\n\ndef ") == {"report"}


def test_a_generator_of_sounds_changes_data_alone(edit: Edit) -> None:
    """Whoever hears is trained again by its data, and not by the code that made them."""
    assert edit("tasks/generators/spoken.py", "PEAK = 0.8", "PEAK = 0.7") == {"data"}
    assert edit("tasks/generators/espeak.py", "SEED = 1", "SEED = 2") == {"data"}


def test_what_learns_to_hear_changes_no_stage_that_does_not(edit: Edit) -> None:
    assert edit("tasks/multimodal/ctc.py", "TEMPERATURE = 0.07", "TEMPERATURE = 0.08") == {"align_speech"}
    assert edit("tasks/training/spoken.py", "same += 1", "same += 2") == {"speech"}
    assert edit("tasks/multimodal/hearing.py", "AUDIO, sound\n", "AUDIO, sound\n\nX = 1\n") <= {
        "align_speech", "speech", "evaluate", "evaluate_rag", "export_onnx",
    }  # fmt: skip


def test_a_generator_that_no_recipe_names_changes_nothing(edit: Edit) -> None:
    assert "data" not in edit("tasks/generators/stdlib_docs.py", "\ndef ", "\nX = 1\n\n\ndef ")


def test_a_grader_of_the_evaluation_changes_it(edit: Edit) -> None:
    assert "evaluate" in edit("tasks/grading/answers.py", "\ndef ", "\nX = 1\n\n\ndef ")


def test_the_style_of_the_page_changes_the_report(edit: Edit) -> None:
    assert edit("tasks/reporting/page.css", "{", " {") == {"report"}


def test_settings_of_the_report_count_as_they_may_be_missing(edit: Edit) -> None:
    assert edit("params/tiny/report.yaml", "samples: 5", "samples: 6") == {"report"}
    assert edit("params/tiny/evaluate.yaml", "eval/sums.yaml", "eval/long_sums.yaml") == {"report"}


def test_plumbing_changes_nothing(edit: Edit) -> None:
    assert edit("tasks/stage/errors.py", "the disk is full", "no room on the disk") == set()


def test_code_of_a_package_itself_counts(edit: Edit) -> None:
    assert edit("tasks/merging/__init__.py", '"""\n', '"""\nSCALE = 2\n') == {"merge"}


def test_an_editors_own_files_change_nothing(edit: Edit, copy: Path) -> None:
    for name in (".page.css.swp", "page.css~"):
        path = copy / "tasks/reporting" / name
        path.write_text("old")
        assert edit(f"tasks/reporting/{name}", "old", "new") == set()


def test_a_graph_in_the_folder_of_another_recipe_is_named(copy: Path) -> None:
    shutil.copytree(copy / "params/tiny", copy / "params/mine")
    (copy / "params/recipe.yaml").unlink()
    (copy / "params/recipe.yaml").symlink_to("mine/recipe.yaml")
    command = [sys.executable, "-m", "tasks.fingerprint", "params/tiny", "--out", "artifacts/code"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == 2
    assert "recipe is 'tiny', and the file is in 'mine'" in done.stderr


def test_an_import_for_type_checkers_is_no_dependency(edit: Edit, copy: Path) -> None:
    (copy / "tasks/models/extra.py").write_text("X = 1\n")
    name = "tasks/grading/answers.py"
    first = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from tasks.models import extra\n\n\ndef "
    assert "evaluate" in edit(name, "\ndef ", f"\n{first}")
    assert edit("tasks/models/extra.py", "X = 1", "X = 2") == set()


def test_graders_and_generators_of_the_recipes_own_count(edit: Edit, copy: Path) -> None:
    (copy / "params/tiny/graders.py").write_text("def mine(doc, results):\n    return {'exact_match': 1.0}\n")
    (copy / "params/tiny/generators.py").write_text("def mine(count):\n    yield {}\n")
    assert edit("params/tiny/graders.py", "1.0", "0.5") <= {"evaluate_rag"}, "the tasks of readers alone name it yet"
    assert edit("params/tiny/eval/sums.yaml", "process_results: sums", "process_results: graders.mine") == {"evaluate"}
    assert edit("params/tiny/graders.py", "0.5", "0.0") - {"evaluate_rag"} == {"evaluate"}
    assert edit("params/tiny/data.yaml", "generator: arithmetic.feedback", "generator: generators.mine") == {"data"}
    assert edit("params/tiny/generators.py", "{}", "{'a': 1}") == {"data"}
    assert edit("params/tiny/grpo.yaml", "grader: sums", "grader: graders.mine") == {"grpo"}


def test_the_command_writes_a_file_for_each_stage(copy: Path) -> None:
    command = [sys.executable, "-m", "tasks.fingerprint", "params/tiny", "--out", "artifacts/code"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(copy)})
    stages = {p.stem for p in (copy / "artifacts/code").glob("*.json")} - {"manifest"}
    assert stages == {p.stem for p in (copy / "tasks").glob("*.py")} - {"__init__", "fingerprint"}


def test_code_that_does_not_parse_is_named(copy: Path) -> None:
    (copy / "tasks/kto.py").write_text("def main(:\n")
    command = [sys.executable, "-m", "tasks.fingerprint", "params/tiny", "--out", "artifacts/code"]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tasks/kto.py: is no Python")
