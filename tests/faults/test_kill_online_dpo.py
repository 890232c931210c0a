"""`kill -9` of online DPO: its data are the policy's own answers, so the next run must draw and judge the very same."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.stage import artifact
from tests.support.judges import ENDPOINT, serving, shorter
from tests.support.kill import start, wait_for_step
from tests.support.online_dpo import configured

pytestmark = pytest.mark.slow

TRAINER = {"max_steps": 10, "save_steps": 4, "gradient_accumulation_steps": 2}


def test_kill_9_and_run_again_gives_the_same_weights(
    workspace: Path, no_proxy: None, chat_model: Path, judge: Path, sums_data: Path
) -> None:
    params = workspace / "online_dpo.yaml"
    inputs = ["--model", str(chat_model), "--judge", str(judge), "--data", str(sums_data)]
    out = Path("artifacts/models/online_dpo")
    with serving(shorter) as server:
        values: dict[str, Any] = configured(trainer=TRAINER, endpoint={"base_url": server.url}).model_dump()
        with params.open("w") as f:
            YAML(typ="safe").dump(values, f)

        undisturbed = start("online_dpo", params, inputs, workspace / "undisturbed")
        assert undisturbed.wait() == 0, undisturbed.communicate()[1]
        expected = artifact.verify(out)
        assert set(expected.inputs) == {"model", "judge", "data"}
        curve = artifact.read_jsonl(out / "curves.jsonl")
        sent = len(server.bodies)
        shutil.rmtree(out)
        shutil.rmtree(".polm/judge")

        victim = start("online_dpo", params, inputs, workspace / "victim")
        wait_for_step(victim, workspace / "victim", 6)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert not out.exists()
        assert len(server.bodies) > sent

        again = start("online_dpo", params, inputs, workspace / "again")
        message = again.communicate()[1]
    assert again.returncode == 0, message
    assert "resuming from" in message
    assert artifact.read_jsonl(out / "curves.jsonl") == curve
    assert artifact.verify(out) == expected
    assert len(server.bodies) <= 2 * sent + ENDPOINT["concurrency"], "what was asked is asked again only if under way"
