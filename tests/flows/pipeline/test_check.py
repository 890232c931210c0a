"""`polm check`: faults and warnings with their number and the seconds, exit code 2, and what passed is remembered."""

import os
import shutil
from pathlib import Path

import pytest

from flows.pipeline import check, recipe_check
from tests.conftest import REPO
from tests.support.small_recipe import SMALL, change, make


def anew() -> None:
    """Check in a new process, as each command does."""
    recipe_check.start_check.cache_clear()
    recipe_check._message.cache_clear()


@pytest.mark.slow
def test_faults_end_with_exit_code_2_and_a_pass_is_remembered(
    workspace: Path, chat_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(chat_model)
    shutil.copytree(REPO / "tasks", "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    change(SMALL / "recipe.yaml", "evaluate", ["base", "sft", "dpo"])
    change(SMALL / "dpo.yaml", "dataset", "preferencs")
    change(SMALL / "sft.yaml", "threads", 0)
    anew()
    with pytest.raises(SystemExit) as ended:
        check.main("small")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "params/small/dpo.yaml: dataset is 'preferencs'" in said
    assert "params/small/sft.yaml: threads is 0" in said
    assert "params/small: 2 faults, 1 warning in " in said
    change(SMALL / "dpo.yaml", "dataset", "preferences")
    change(SMALL / "sft.yaml", "threads", 1)
    anew()
    check.main("small")
    first = capsys.readouterr().err
    assert "warning: params/small/recipe.yaml: grpo.grpo is trained and never evaluated" in first
    assert "params/small: nothing wrong, 1 warning in " in first
    assert Path(".polm/checked/small").is_file()
    anew()
    spent = sum(os.times()[2:4])
    check.main("small")
    assert capsys.readouterr().err.splitlines()[:-1] == first.splitlines()[:-1], "warnings are repeated"
    assert sum(os.times()[2:4]) - spent < 5, "seconds of CPU: nothing is checked anew"
