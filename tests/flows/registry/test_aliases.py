"""Moves of aliases from several places at once, on one MLflow server: one wins, the others hear to whom they lost."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows.registry.aliases import Aliases
from flows.services import dashboards
from tasks.stage.errors import GateError
from tests.conftest import REPO
from tests.support.forking import Forking

MOVERS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[str]:
    """Address of an MLflow server with an empty registry."""
    folder, before = tmp_path_factory.mktemp("server"), Path.cwd()
    (folder / ".polm").mkdir()
    shutil.copyfile(mlflow_template, folder / ".polm/mlflow.db")
    os.chdir(folder)
    server = dashboards.mlflow_server("test", dashboards.free_port())
    os.chdir(before)
    try:
        server.wait()
        yield server.url
    finally:
        server.end()


@pytest.fixture
def model(server: str, request: pytest.FixtureRequest) -> str:
    """A registered model with a version for each mover, and one more."""
    api, name = MlflowClient(server), request.node.name.replace("[", "-").rstrip("]")
    experiment = api.create_experiment(name)
    api.create_registered_model(name)
    for _ in range(MOVERS + 1):
        run = api.create_run(experiment).info.run_id
        api.create_model_version(name, f"runs:/{run}/model", run_id=run)
    return name


def everything(version: str) -> dict[str, str]:
    return {"candidate": version, "champion": version, "previous": "5"}


def race(server: str, name: str, barrier: threading.Barrier) -> dict[str, str]:
    """Let every mover try to make its own version the champion; returns version to its error, empty when it won."""
    told: dict[str, str] = {}

    def move(version: str) -> None:
        aliases = Aliases(MlflowClient(server), name)
        barrier.wait()
        state = aliases.state()
        barrier.wait()
        try:
            aliases.move(state, everything(version), f"chose v{version}", "try again")
            told[version] = ""
        except GateError as e:
            told[version] = str(e)

    movers = [threading.Thread(target=move, args=(str(n + 1),)) for n in range(MOVERS)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    return told


def test_one_of_four_wins_and_the_others_hear_to_whom_they_lost(server: str, model: str) -> None:
    api = MlflowClient(server)
    for number in range(1, 7):
        told = race(server, model, threading.Barrier(MOVERS))
        winners = [version for version, error in told.items() if not error]
        assert len(told) == MOVERS and len(winners) == 1, told
        assert all(f"which chose v{winners[0]} meanwhile; try again" in error for error in told.values() if error)
        assert Aliases(api, model).state().aliases == everything(winners[0])
        assert Aliases(api, model).state().number == number


def test_moves_that_overlap_anyhow_leave_the_aliases_where_the_last_one_put_them(server: str, model: str) -> None:
    for _ in range(6):
        race(server, model, threading.Barrier(1))
        api = MlflowClient(server)
        oldest = api.get_run(api.get_model_version(model, "1").run_id).data.params
        last = max((key for key in oldest if not key.endswith("made")), key=lambda key: int(key[5:]))
        assert Aliases(api, model).read() == json.loads(oldest[last])["aliases"]
        assert f"{last}.made" in oldest


def test_a_mover_that_wakes_up_late_puts_right_what_it_spoilt(
    server: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = MlflowClient(server)
    written, overtaken = threading.Event(), threading.Event()
    true, sleeper = MlflowClient.set_registered_model_alias, threading.get_ident

    def sleepy(api: Any, name: str, alias: str, version: str) -> None:
        if sleeper() == late.ident and alias == "champion":
            written.set()
            assert overtaken.wait(60)
        true(api, name, alias, version)

    def move(version: str) -> None:
        aliases = Aliases(MlflowClient(server), model)
        aliases.move(aliases.state(), everything(version), f"chose v{version}", "try again")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", sleepy)
    late = threading.Thread(target=move, args=("1",))
    late.start()
    assert written.wait(60)
    move("2")
    assert Aliases(api, model).read() == everything("2")
    overtaken.set()
    late.join()
    assert Aliases(api, model).read() == everything("2")
    assert Aliases(api, model).state().number == 2


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("log_param", "if key == 'move.1': kill()"),
        ("log_param", "true(self, run, key, value); kill()"),
        ("set_registered_model_alias", "true(self, run, key, value); kill()"),
        ("set_registered_model_alias", "true(self, run, key, value); key == 'champion' and kill()"),
    ],
    ids=["before it is written", "once it is written", "after one alias", "after two"],
)
def test_a_mover_that_is_killed_has_moved_everything_or_nothing(
    server: str, model: str, forking_command: Forking, workspace: Path, place: str, code: str
) -> None:
    driver = f"""
import os, signal, sys
from mlflow import MlflowClient
from flows.registry.aliases import Aliases
true = MlflowClient.{place}
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def killed(self, run, key, value):
    {code}
MlflowClient.{place} = killed
aliases = Aliases(MlflowClient(sys.argv[1]), sys.argv[2])
aliases.move(aliases.state(), {everything("1")!r}, "chose v1", "try again")
"""
    (workspace / "driver.py").write_text(driver)
    killed = forking_command.start(["driver", server, model], dict(os.environ))
    said, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, said
    aliases = Aliases(MlflowClient(server), model)
    left = aliases.read()
    state = aliases.state()
    if code.startswith("if"):
        assert (left, state.aliases) == ({}, {})
    else:
        assert (len(left) < 3, state.aliases) == (True, everything("1"))
    aliases.move(state, everything("2"), "chose v2", "try again")
    assert aliases.read() == everything("2")


def test_four_promotions_from_two_working_copies(
    server: str, promotable: Path, tmp_path: Path, forking_command: Forking
) -> None:
    jobs = []
    for copy in ("ours", "theirs"):
        root = tmp_path / copy
        shutil.copytree(promotable, root, symlinks=True)
        private = {"MLFLOW_TRACKING_URI": server, "DVC_SITE_CACHE_DIR": str(root / ".polm/dvc")}
        environment = os.environ | private | {"PYTHONPATH": str(REPO), "COLUMNS": "400"}
        jobs += [
            forking_command.start(["flows.cli", "promote", name], environment, folder=root) for name in ("sft", "dpo")
        ]
    ended = [(job.communicate()[0], job.returncode) for job in jobs]
    moved = {version for said, code in ended if code == 0 for version in re.findall(r"v(\d+) is the champion:", said)}
    for said, code in ended:
        kinds = ["is the champion:", "nothing to do", "stays unpromoted", "is not promoted"]
        assert (code, sum(kind in said for kind in kinds)) in ((0, 1), (2, 1)), said
        assert (code == 0) == (kinds[0] in said or kinds[1] in said), said
        assert "Traceback" not in said
    lost = [re.search(r"lost to .*(ours|theirs), process \d+, which made v(\d+)", said) for said, _ in ended]
    assert {found[2] for found in lost if found} <= moved
    aliases = Aliases(MlflowClient(server), "polm-tiny").state().aliases
    assert aliases["champion"] == aliases["candidate"] == str(max(int(version) for version in moved))
