"""Which judge is asked: the model in a judge's folder, or an OpenAI-compatible endpoint in its place.

Either way by the constitution in that folder, so that the folder decides the result and is an input of the stage that
asks: verified, and in the manifest of what the stage writes.
"""

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from tasks.judges.endpoint import Endpoint, EndpointJudge
from tasks.judges.local import LocalJudge
from tasks.judges.protocol import CONSTITUTION, Constitution, Judge, read_constitution
from tasks.stage.config import Strict


class JudgeSettings(Strict):
    """How a judge is asked: a section of a recipe file."""

    endpoint: Endpoint | None
    """Judge instead of the model in the judge's folder; null for that model."""
    device: str
    """Where a local judge runs: `cpu`, `cuda`, `cuda:1`."""
    dtype: str
    """Data type of its weights, a torch name."""
    batch_size: int = Field(ge=1)
    """Prompts that it reads at once."""
    chat_template_args: dict[str, Any]
    """Passed to its chat template, e.g. `enable_thinking: false`."""


class OpenJudge(NamedTuple):
    """A judge that can be asked, and what it judges by."""

    judge: Judge
    constitution: Constitution

    def try_out(self) -> None:
        """Ask one question, so that a refused key or an unknown model is found before anything is trained.

        Raises:
            ConfigError: the server refuses the key or the request.
            DataError: it cannot be reached.
        """
        self.judge([self.constitution.prompt("What is 1 + 1?", "2", "3")])


def open_judge(folder: Path, settings: JudgeSettings, params: Path, section: str) -> OpenJudge:
    """Load the local judge, or prepare the endpoint; nothing is asked yet.

    Args:
        folder: what the judge stage wrote.
        settings: which judge, and how.
        params: the recipe file, for messages.
        section: where in it `endpoint` stands, for messages.

    Raises:
        ConfigError: no constitution in the folder, or the environment does not hold the endpoint's key.
        ModelError: the folder holds no model that can judge.
    """
    constitution = read_constitution(folder / CONSTITUTION)
    if settings.endpoint is not None:
        return OpenJudge(EndpointJudge(settings.endpoint, constitution.labels, params, section), constitution)
    local = LocalJudge(
        folder,
        constitution.labels,
        batch_size=settings.batch_size,
        device=settings.device,
        dtype=settings.dtype,
        chat_template_args=settings.chat_template_args,
    )
    return OpenJudge(local, constitution)
