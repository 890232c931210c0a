"""Fixtures of the stages' tests: prompts to label and a judge of length, and the artifacts that a report shows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.judges import opening
from tasks.stage import artifact
from tests.support.judges import FixedJudge, write_prompts


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data artifact of 16 prompts to train on and 16 held out."""
    folder = tmp_path_factory.mktemp("prompts")
    write_prompts(folder, 16)
    return folder


@pytest.fixture
def judge_of_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a model, a judge that finds the shorter answer better, whatever its place."""

    def reply(prompt: str) -> float:
        a, b = prompt.removesuffix(" Which is better?").split(" A: ", 1)[1].rsplit(" B: ", 1)
        return 0.5 if len(a) == len(b) else float(len(a) < len(b))

    monkeypatch.setattr(opening, "LocalJudge", lambda *args, **kwargs: FixedJudge(reply))


@pytest.fixture
def tree(workspace: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """The artifacts of a small pipeline: four models, what was measured of them, and the data."""
    from tests.support import reporting

    return reporting.build(make_artifact)
