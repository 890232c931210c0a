"""Two clones of a toy project and one folder as their remote: real DVC, and not one stage run twice."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.graph import Graph
from flows.pipeline import sharing
from flows.services.dashboards import free_port
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError, PolmError
from tests.support import toy

STAGES = ["source", "left", "right", "tail@x", "tail@y"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> toy.Toy:
    """A clone that has computed everything, and pushed it to `remote/` beside it."""
    home = tmp_path_factory.mktemp("first")
    (home / "clone").mkdir()
    made = toy.make(home / "clone")
    config = made.root / ".dvc/config"
    config.write_text(f"{config.read_text()}    remote = shared\n['remote \"shared\"']\n    url = {home / 'remote'}\n")
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=made.root, env=made.environment(), check=True)
    made.ran()
    with pytest.MonkeyPatch.context() as patch:
        inside(made, patch)
        sharing.after(STAGES, push=True)
    return made


@pytest.fixture
def second(first: toy.Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> toy.Toy:
    """Another clone of the same commit, with neither cache nor results; the test works in it."""
    root = tmp_path / "second"
    shutil.copytree(first.root, root, symlinks=True, ignore=shutil.ignore_patterns("artifacts", "cache", ".polm"))
    clone = toy.Toy(root)
    (root / ".polm").mkdir()
    inside(clone, monkeypatch)
    return clone


def inside(clone: toy.Toy, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(clone.root)
    patch.setenv("DVC_SITE_CACHE_DIR", str(clone.root / ".polm/dvc"))


def restored(forced: set[str] | None = None) -> set[str]:
    """What `polm run` would not have to run any more."""
    graph = Graph()
    sharing.restore(graph, list(graph.stages), graph.settled(list(graph.stages), forced or set()), forced or set())
    return Graph().settled(STAGES, set())


def configure(clone: toy.Toy, text: str) -> None:
    (clone.root / ".dvc/config").write_text(f"[core]\n    analytics = false\n{text}")


def test_a_second_clone_runs_nothing_by_one_command(first: toy.Toy, second: toy.Toy) -> None:
    code, said = second.polm("run")
    assert code == 0, said
    assert re.search(r"restored 5 stages in \d.*: 7 files, 1.23 kB from", said), "as many as were pushed"
    assert f"from DVC remote 'shared' ({first.root.parent / 'remote'})" in said
    assert "restored: source, left, right, tail@x, tail@y\n" in said
    assert said.endswith("nothing changed: all 5 stages are up to date\n")
    assert second.ran() == []
    assert (second.root / "dvc.lock").read_bytes() == (first.root / "dvc.lock").read_bytes()
    manifest = Path("artifacts/left/manifest.json")
    assert json.loads((second.root / manifest).read_text()) == json.loads((first.root / manifest).read_text())
    code, said = second.polm("run")
    assert code == 0 and said == "nothing changed: all 5 stages are up to date\n", "and asks nobody the second time"


def test_a_lock_that_was_not_committed_is_found_in_the_run_cache(first: toy.Toy, second: toy.Toy) -> None:
    (second.root / "dvc.lock").unlink()
    assert restored() == set(STAGES)
    assert second.ran() == []
    assert (second.root / "dvc.lock").read_text() == (first.root / "dvc.lock").read_text()


def test_what_differs_is_left_to_run_and_the_rest_is_not(second: toy.Toy, capsys: pytest.CaptureFixture[str]) -> None:
    second.set("left", value=7)
    assert restored() == {"source", "right"}
    assert not (second.root / "artifacts/left").exists(), "the output of other settings is not even fetched"
    assert "restored 2 stages in " in (said := capsys.readouterr().out) and "; 3 stages are left" in said


def test_what_is_forced_is_not_fetched(second: toy.Toy) -> None:
    assert restored({"left"}) == {"source", "right"}


def test_settings_of_long_ago_are_found_though_the_lock_has_others(first: toy.Toy, second: toy.Toy) -> None:
    second.set("right", value=9)
    command = [sys.executable, "-m", "dvc", "repro", "-q", "right"]
    subprocess.run(command, cwd=second.root, env=second.environment(), check=True)
    second.set("right", value=1)
    shutil.rmtree(second.root / ".dvc/cache")
    assert restored() == set(STAGES)
    assert second.ran() == ["source", "right"], "once, by hand"


def test_a_hole_in_the_remote_costs_the_stages_behind_it_only(second: toy.Toy, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    shutil.copytree(Graph().dvc_stage("left").repo.config["remote"]["shared"]["url"], remote)
    configure(second, f"    remote = shared\n['remote \"shared\"']\n    url = {remote}\n")
    listing = Graph().dvc_stage("tail@x").outs[0].hash_info.value
    (remote / "files/md5" / listing[:2] / listing[2:]).unlink()
    assert restored() == {"source", "left", "right"}, "the two tails are the same"


def copied_remote(clone: toy.Toy, place: Path) -> Path:
    """A copy of the remote, to be spoilt, which the clone asks from now on."""
    shutil.copytree(Graph().dvc_stage("left").repo.config["remote"]["shared"]["url"], place)
    configure(clone, f"    remote = shared\n['remote \"shared\"']\n    url = {place}\n")
    return place


@pytest.mark.parametrize("what", ["a file", "a listing"])
def test_a_damaged_object_is_named_and_not_taken(
    second: toy.Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    remote = copied_remote(second, tmp_path / "remote")
    out = Graph().dvc_stage("left").outs[0].hash_info.value
    listing = remote / "files/md5" / out[:2] / out[2:]
    entries = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())}
    name = entries["manifest.json"] if what == "a file" else out
    spoilt = remote / "files/md5" / name[:2] / name[2:]
    spoilt.chmod(0o644)
    spoilt.write_text(spoilt.read_text().replace("value.txt", "other.txt"))
    assert "left" not in restored()
    assert f"object {name} is damaged there" in caplog.text
    assert not (second.root / ".dvc/cache/files/md5" / name[:2] / name[2:]).exists(), "DVC would take it from there"


def test_an_entry_that_names_the_output_of_another_stage_is_not_taken(
    second: toy.Toy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    remote = copied_remote(second, tmp_path / "remote")
    lock = read_yaml(second.root / "dvc.lock")["stages"]
    (second.root / "dvc.lock").unlink()
    source, left = lock["source"]["outs"][0], lock["left"]["outs"][0]
    entries = [path for path in remote.glob("runs/*/*/*") if f"path: {left['path']}\n" in path.read_text()]
    [entry] = [path for path in entries if left["md5"] in path.read_text().partition("outs:")[2]]
    entry.chmod(0o644)
    entry.write_text(entry.read_text().replace(left["md5"], source["md5"]))
    assert restored() == {"source", "right"}
    assert (
        "left: the result that is known for it is not taken, so it runs: its manifest is of the stage 's" in caplog.text
    )
    command = [sys.executable, "-m", "dvc", "repro", "-q", "-s", "left"]
    subprocess.run(command, cwd=second.root, env=second.environment(), check=True)
    assert second.ran().count("left") == 1, "DVC does not take it either"


def test_what_is_pushed_again_is_nothing(
    first: toy.Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside(first, monkeypatch)
    sharing.after(STAGES, push=True)
    assert capsys.readouterr().out.startswith("pushed 0 files, 0 B, and 0 entries of the run-cache to DVC remote 's")


def test_a_push_that_fails_says_that_the_results_are_kept(
    first: toy.Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(first.root, copy, symlinks=True)
    inside(toy.Toy(copy), monkeypatch)
    (tmp_path / "remote/files").mkdir(parents=True)
    (tmp_path / "remote/files/md5").touch()
    configure(toy.Toy(copy), f"    remote = full\n['remote \"full\"']\n    url = {tmp_path / 'remote'}\n")
    with pytest.raises(PolmError, match=r"DVC remote 'full' .*the results are here; `polm run --push` sends them"):
        sharing.after(STAGES, push=True)


def test_an_empty_remote_is_named(second: toy.Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure(second, f"    remote = new\n['remote \"new\"']\n    url = {tmp_path / 'new'}\n")
    assert restored() == set()
    assert f"DVC remote 'new' ({tmp_path / 'new'}): nothing is there yet; `polm run --push`" in capsys.readouterr().out


def test_no_remote_at_all(second: toy.Toy) -> None:
    configure(second, "")
    assert restored() == set()
    with pytest.raises(ConfigError, match="no DVC remote to push to; `dvc remote add -d NAME URL`"):
        sharing.before(push=True)


def test_remotes_of_which_none_is_the_default(second: toy.Toy) -> None:
    configure(second, "['remote \"a\"']\n    url = /a\n")
    with pytest.raises(ConfigError, match="DVC remotes a, and none is the default: `dvc remote default NAME`"):
        restored()


def test_a_server_that_does_not_answer(second: toy.Toy) -> None:
    port = free_port()
    url = f"url = s3://bucket/dvc\n    endpointurl = http://127.0.0.1:{port}\n"
    configure(second, f"    remote = far\n['remote \"far\"']\n    {url}")
    with pytest.raises(PolmError, match=f"127.0.0.1:{port} does not answer .connection refused.; .* --pull never"):
        restored()
    code, said = second.polm("run")
    assert code == 2 and said.startswith("error: DVC remote 'far' (s3://bucket/dvc): "), said
