"""The shared services as deployed: they refuse strangers, two clones share one remote, `polm doctor` sees it all."""

import os
import re
import shutil
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.doctor import shared, space
from flows.doctor.machine import Finding
from flows.registry import promotion
from flows.registry.aliases import Aliases
from flows.tracking import client
from infra.services import layout as layouts
from infra.services import processes, store
from tasks.stage.config import read_yaml
from tasks.stage.errors import GateError
from tests.support import services, toy
from tests.support.promotable import Make, make_project

pytestmark = [pytest.mark.services, pytest.mark.slow]
ALL = {"postgres", "store", "mlflow", "prefect"}


def test_all_are_well_and_refuse_strangers_and_are_not_started_twice(project: toy.Toy, layout: layouts.Layout) -> None:
    before = {name: processes.running(layout, name) for name in ALL}
    again = services.command(project, "start")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("runs already") == 4
    assert {name: processes.running(layout, name) for name in ALL} == before
    done = services.command(project, "status")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("well; refuses requests without credentials") == 4
    assert re.search(r"postgres  holds .*mlflow_auth \d+\.\d MiB.*; \d+\.\d GiB free", done.stdout), done.stdout
    assert re.search(r"store     holds \d+\.\d MiB; \d+\.\d GiB free", done.stdout), done.stdout


def test_every_other_port_is_closed_to_strangers(layout: layouts.Layout) -> None:
    status = processes.status
    assert status(f"{layout.url('master')}/dir/assign") == 404, "it hands out tokens to nobody"
    assert status(f"{layout.url('filer')}/") == 404
    assert status(f"{layout.url('volume')}/1,01637037d6") == 401
    assert status(f"{layout.url('prefect')}/api/flows/1") in (401, 403)
    assert status(f"{layout.url('mlflow')}/api/2.0/mlflow/runs/get?run_id=1") == 401
    listening = {
        c.laddr for name in (*ALL, "master", "volume") if (p := processes.running(layout, name))
        for q in (p, *p.children(recursive=True)) for c in q.net_connections("tcp") if c.status == psutil.CONN_LISTEN
    }  # fmt: skip
    assert listening and {address.ip for address in listening} == {"127.0.0.1"}


def test_no_secret_is_told(project: toy.Toy, layout: layouts.Layout) -> None:
    secrets = list(layout.secrets.values())
    assert len(set(secrets)) == len(secrets) and min(map(len, secrets)) == 40
    logs = "".join(path.read_text(errors="replace") for path in layout.home.glob("logs/*.log"))
    commands = "".join(" ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
    for secret in secrets:
        assert secret not in logs and secret not in commands
    for name in ("env", "layout.json", "mlflow_auth.ini", "store/s3.json", "store/security.toml", "store/part.key"):
        assert stat.S_IMODE((layout.home / name).stat().st_mode) == 0o600, name
    if os.geteuid() == 0:
        database = processes.running(layout, "postgres")
        assert database is not None and database.username() == "postgres"


def test_the_file_of_variables_is_what_a_shell_sources(layout: layouts.Layout) -> None:
    script = f"source {layout.home}/env && env -0"
    done = subprocess.run(["bash", "-c", script], env={"PATH": os.environ["PATH"]}, capture_output=True, check=True)
    there = dict(item.split("=", 1) for item in done.stdout.decode().split("\0") if item)
    assert layouts.variables(layout).items() <= there.items()


def test_a_second_clone_runs_nothing(layout: layouts.Layout, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = toy.make(tmp_path / "a")
    shutil.copytree(first.root, tmp_path / "b", symlinks=True)
    second = toy.Toy(tmp_path / "b")
    code, said = first.polm("run", "--push")
    assert code == 0, said
    assert "and 5 entries of the run-cache to DVC remote 'services' (s3://dvc/polm)" in said
    assert len(first.ran()) == 5
    code, said = second.polm("run")
    assert code == 0, said
    assert "restored: source, left, right, tail@x, tail@y\nnothing changed: all 5 stages are up to date\n" in said
    assert second.ran() == []
    # In the order in which stages ended: the first clone runs two at a time.
    assert read_yaml(first.root / "dvc.lock") == read_yaml(second.root / "dvc.lock")


def test_the_doctor_finds_all_well(layout: layouts.Layout) -> None:
    findings = {f.check: f for f in shared.examine()}
    unknown = {"MLflow space", "Prefect space", "DVC remote space"}
    assert {name: f.level for name, f in findings.items() if f.level != "ok"} == dict.fromkeys(unknown, "note")
    assert findings["MLflow artifacts"].found == "stores, reads and deletes files"
    for name in ("MLflow", "Prefect", "DVC remote"):
        assert "refuses requests without credentials" in findings[f"{name} access"].found
        assert f"{name} rights" in findings and f"{name} clock" in findings
    assert findings["MLflow version"].found and findings["Prefect version"].found


def test_the_doctor_asks_a_database_for_its_size_and_who_may_for_its_disk(layout: layouts.Layout) -> None:
    def ask(user: str, password: str) -> dict[str, Finding]:
        return {f.check: f for f in space.database("MLflow", layout.database("postgresql", user, password, "mlflow"))}

    owner, administrator = ask("mlflow", "mlflow_database"), ask("polm", "postgres")
    assert owner["MLflow access"].found == "refuses a wrong password"
    assert {owner[f"MLflow {what}"].level for what in ("version", "clock", "rights")} == {"ok"}
    assert owner["MLflow space"].level == "note" and "MiB in use; its disk is not told" in owner["MLflow space"].found
    assert any("GiB free at" in f.found for f in administrator.values()), administrator
    (finding,) = [f for f in ask("mlflow", "prefect_database").values() if f.level == "fail"]
    assert "password authentication failed" in finding.found
    assert not any(layout.secrets[name] in str(finding) for name in layout.secrets)


def test_the_doctor_finds_a_store_that_mlflow_cannot_use(layout: layouts.Layout) -> None:
    for part in ("store", "volume"):
        processes.end(layout, part)
    try:
        failed = [f for f in shared.mlflow() if f.level == "fail"]
    finally:
        store.start(layout)
        processes.wait(layout, "store", lambda: store.healthy(layout))
    assert [f.check for f in failed] == ["MLflow artifacts"], failed
    assert failed[0].found.startswith("a file cannot be stored: ")


@pytest.mark.parametrize(
    ("variable", "check", "said"),
    [
        ("MLFLOW_TRACKING_PASSWORD", "MLflow rights", "refuses these credentials (401)"),
        ("PREFECT_API_AUTH_STRING", "Prefect rights", "refuses this key (401)"),
        ("AWS_SECRET_ACCESS_KEY", "DVC remote", "refuses the credentials of the environment"),
    ],
)
def test_the_doctor_finds_wrong_credentials(
    layout: layouts.Layout, monkeypatch: pytest.MonkeyPatch, variable: str, check: str, said: str
) -> None:
    monkeypatch.setenv(variable, "polm:wrong")
    failed = {f.check: f for f in shared.examine() if f.level == "fail"}
    assert list(failed) == [check], failed
    assert said in failed[check].found and "wrong" not in failed[check].found


def test_of_four_who_move_the_aliases_at_once_one_wins(layout: layouts.Layout) -> None:
    from mlflow import MlflowClient

    api, name = MlflowClient(), "race"
    experiment = api.create_experiment(name)
    api.create_registered_model(name)
    for _ in range(5):
        run = api.create_run(experiment).info.run_id
        api.create_model_version(name, f"runs:/{run}/model", run_id=run)
    before, barrier, told = Aliases(api, name).state(), threading.Barrier(4), dict[str, str]()

    def move(version: str) -> None:
        barrier.wait()
        try:
            Aliases(MlflowClient(), name).move(before, {"champion": version}, f"made v{version} the champion", "again")
            told[version] = ""
        except GateError as e:
            told[version] = str(e)

    movers = [threading.Thread(target=move, args=(str(n),)) for n in range(1, 5)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    winners = [version for version, error in told.items() if not error]
    assert len(winners) == 1, told
    assert Aliases(api, name).read() == {"champion": winners[0]}
    assert all(f"made v{winners[0]} the champion meanwhile" in error for error in told.values() if error), told


def test_a_promotion_and_a_rollback_are_as_on_the_store_of_ones_own(
    layout: layouts.Layout, tmp_path: Path, make_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clone").mkdir()
    make_project(tmp_path / "clone", make_artifact)
    monkeypatch.chdir(tmp_path / "clone")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "clone/.polm/dvc"))
    for name in ("sft", "dpo"):
        promotion.promote(name)
    promotion.rollback()
    (model,) = client.client().search_registered_models("name = 'polm-tiny'")
    assert {alias: str(version) for alias, version in model.aliases.items()} == {
        "candidate": "2",
        "champion": "1",
        "previous": "2",
    }
    stored = store.client(layout, "mlflow").list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(item["Key"].endswith("MLmodel") for item in stored), "its files are in the bucket"
    with pytest.raises(Exception, match="Access"):
        store.client(layout, "mlflow").list_objects_v2(Bucket="dvc")


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    project = toy.make(tmp_path)
    first = services.free_ports()
    with socket.socket() as s:
        s.bind(("127.0.0.1", first))
        s.listen()
        done = services.command(project, "start", "--first-port", str(first))
    services.command(project, "destroy", "--yes")
    assert done.returncode == 2
    assert f"postgres: port {first} is taken by another program" in done.stderr


def test_what_is_stopped_is_said_and_what_was_stored_stays(project: toy.Toy, layout: layouts.Layout) -> None:
    done = services.command(project, "stop")
    assert done.returncode == 0, done.stderr
    left: list[Any] = [name for name in (*ALL, "master", "volume") if processes.running(layout, name)]
    assert left == []
    done = services.command(project, "status")
    assert done.returncode == 1 and done.stdout.count("stopped") == 4
    assert (layout.home / "store/volume").is_dir() and services.command(project, "destroy").returncode == 2
