"""`kill -9` of self-refinement behind its first round: the next run goes on there, and ends in the very same files."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tests.support.kill import start
from tests.support.refine import configured

pytestmark = pytest.mark.slow


def test_kill_9_and_run_again_gives_the_same_files(workspace: Path, chat_model: Path, sums_data: Path) -> None:
    params = workspace / "refine.yaml"
    with params.open("w") as f:
        YAML(typ="safe").dump(configured(threads=1).model_dump(), f)
    inputs = ["--model", str(chat_model), "--data", str(sums_data)]
    out = Path("artifacts/models/refine")

    undisturbed = start("refine", params, inputs, workspace / "undisturbed")
    message = undisturbed.communicate()[1]
    assert undisturbed.returncode == 0, message
    expected = artifact.verify(out)
    shutil.rmtree(out)

    victim = start("refine", params, inputs, workspace / "victim")
    deadline = time.monotonic() + 240
    while not list(Path(".checkpoints").rglob("round-0/trained.json")):
        assert time.monotonic() < deadline
        assert victim.poll() is None, "the first round is not the end"
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not out.exists()

    again = start("refine", params, inputs, workspace / "again")
    message = again.communicate()[1]
    assert again.returncode == 0, message
    labels = {json.loads(line)["label"] for line in (workspace / "again").read_text().splitlines()}
    assert "comparing, after" in labels
    assert not labels & {"comparing, before", "round 1: drafting"}, "what was whole is not done again"
    assert artifact.verify(out) == expected
    assert not [p for p in Path(".checkpoints").rglob("*") if p.is_file()]
