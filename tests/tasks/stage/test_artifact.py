"""Artifacts are whole or absent, and a changed byte is noticed."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.stage import artifact
from tasks.stage.errors import ArtifactError


def write(out: Path, text: str = "one") -> artifact.Manifest:
    with artifact.writing(out, stage="test", params="p", inputs={"data": "d"}) as temp:
        (temp / "sub").mkdir()
        (temp / "sub/a.txt").write_text(text)
    return artifact.verify(out)


def test_equal_inputs_give_equal_manifests(workspace: Path) -> None:
    first, second = write(Path("artifacts/x")), write(Path("artifacts/y"))
    assert first == second
    assert first.digest == second.digest
    assert first.files == {"sub/a.txt": artifact.sha256(Path("artifacts/x/sub/a.txt"))}
    assert write(Path("artifacts/y"), "two").digest != first.digest


def test_an_error_leaves_the_older_artifact_and_nothing_else(workspace: Path) -> None:
    out = Path("artifacts/x")
    before = write(out)
    with pytest.raises(RuntimeError, match="half way"), artifact.writing(out, stage="t", params="p", inputs={}) as temp:
        (temp / "a.txt").write_text("new")
        raise RuntimeError("half way")
    assert artifact.verify(out) == before
    assert list((artifact.STATE / "tmp").iterdir()) == []


@pytest.mark.parametrize("harm", ["flip", "delete", "add", "manifest"])
def test_corruption_is_noticed_and_named(workspace: Path, harm: str) -> None:
    out = Path("artifacts/x")
    write(out)
    target = out / "sub/a.txt"
    if harm == "flip":
        target.write_text("onf")
    elif harm == "delete":
        target.unlink()
    elif harm == "add":
        (out / "sub/b.txt").write_text("")
    else:
        (out / "manifest.json").write_text('{"stage": "te')
    with pytest.raises(ArtifactError, match=f"{'b.txt' if harm == 'add' else ''}.*delete artifacts/x and run"):
        artifact.verify(out)


def test_a_missing_artifact_says_what_to_do(workspace: Path) -> None:
    with pytest.raises(ArtifactError, match=r"artifacts/x: no manifest.json; .* \(run `polm run`\)"):
        artifact.verify_input("model", Path("artifacts/x"))


def test_a_folder_of_artifacts_is_an_input(workspace: Path) -> None:
    a, b = write(Path("artifacts/models/a")), write(Path("artifacts/models/b"), "two")
    assert artifact.verify_input("models", Path("artifacts/models")) == {"models/a": a, "models/b": b}


def test_two_writers_exclude_each_other_until_one_dies(workspace: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from tasks.stage import artifact as a\n"
        "with a.lock(Path('artifacts/x')):\n    print('held', flush=True); sys.stdin.read()\n"
    )
    repo = str(Path(__file__).parents[3])
    holder = subprocess.Popen(
        [sys.executable, "-c", code, repo], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ArtifactError, match="another process is writing it"), artifact.lock(Path("artifacts/x")):
        pass
    holder.kill()
    holder.wait()
    with artifact.lock(Path("artifacts/x")):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_loses_nothing(workspace: Path) -> None:
    small = workspace / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        os.chdir(small)
        before = write(Path("x"))
        with (
            pytest.raises(ArtifactError, match="the disk is full; free some space and run again, nothing was lost"),
            artifact.writing(Path("x"), stage="t", params="p", inputs={}) as temp,
        ):
            (temp / "big").write_bytes(b"0" * 1_000_000)
        assert artifact.verify(Path("x")) == before
        assert write(Path("x"), "again") != before
    finally:
        os.chdir(workspace)
        subprocess.run(["umount", str(small)], check=True)


def test_rows_that_a_stage_wrote_are_read_with_the_line_of_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    artifact.write_jsonl(path, [{"a": "ä"}, {"a": 2}])
    assert artifact.read_jsonl(path) == [{"a": "ä"}, {"a": 2}]
    path.write_text(path.read_text() + '{"a": ')
    with pytest.raises(ArtifactError, match=r"rows.jsonl:3: not JSON"):
        artifact.read_jsonl(path)


def test_manifest_holds_no_clock_and_no_machine(workspace: Path) -> None:
    write(Path("artifacts/x"))
    manifest = json.loads(Path("artifacts/x/manifest.json").read_text())
    assert set(manifest) == {"stage", "params", "inputs", "files"}


def test_a_reader_never_finds_half_a_json_file(tmp_path: Path) -> None:
    path, done = tmp_path / "state.json", threading.Event()
    artifact.write_json(path, list(range(20_000)))

    def rewrite() -> None:
        while not done.is_set():
            artifact.write_json(path, list(range(20_000)))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        sizes = {len(artifact.read_json(path)) for _ in range(100)}
    finally:
        done.set()
        writer.join()
    assert sizes == {20_000}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_a_chain_lists_each_artifact_before_what_it_was_made_from(
    workspace: Path, make_artifact: Callable[..., artifact.Manifest]
) -> None:
    digests: dict[str, str] = {}
    for name, inputs in [
        ("rows", ()),
        ("data", ("rows",)),
        ("other", ("data",)),
        ("base", ("data",)),
        ("sft", ("base", "data")),
        ("onnx", ("data", "sft")),
    ]:
        folder = artifact.ROOT / name
        folder.mkdir(parents=True)
        digests[name] = make_artifact(folder, stage=name, **{key: digests[key] for key in inputs}).digest
    manifests = artifact.manifests()
    assert {path.name: manifest.digest for path, manifest in manifests.items()} == digests

    chain = artifact.chain(digests["onnx"], manifests.values())
    assert [manifest.stage for manifest in chain] == ["onnx", "sft", "base", "data", "rows"]
    del manifests[artifact.ROOT / "base"]
    chain = artifact.chain(digests["onnx"], manifests.values())
    assert [manifest.stage for manifest in chain] == ["onnx", "sft", "data", "rows"], "data is reached another way"
    del manifests[artifact.ROOT / "sft"]
    del manifests[artifact.ROOT / "data"]
    assert [manifest.stage for manifest in artifact.chain(digests["onnx"], manifests.values())] == ["onnx"]
