"""Ray: a cluster that is not there, and nodes that are not fit for a stage's work, are said at once."""

import platform
import socket
import sys
import time
from pathlib import Path

import pytest

from tasks.stage import ray_cluster
from tasks.stage.errors import PolmError


def test_a_cluster_that_does_not_answer_is_said_within_seconds() -> None:
    pytest.importorskip("ray", reason="pip install 'polm[ray]'")
    begin = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(PolmError, match=rf"Ray at {address}: .*refused; see `ray status`, and 'ray' in data.yaml"):
            ray_cluster.connected(address, "'ray' in data.yaml")
    assert time.monotonic() - begin < 60


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PolmError, match=r"ray is missing; `pip install 'polm\[ray\]'`"):
        ray_cluster.connected("auto")


def test_a_node_that_does_not_see_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolmError, match=rf"Ray's node {platform.node()} does not see {tmp_path}/gone"):
        ray_cluster._there(tmp_path, tmp_path / "gone", {}, abs, 1)


@pytest.mark.parametrize(
    ("package", "there"), [("numpy", r"[\d.]+"), ("no-such-package", r"\(missing\)"), ("python", "3")]
)
def test_a_node_with_another_version_is_named(tmp_path: Path, package: str, there: str) -> None:
    with pytest.raises(PolmError, match=rf"has {package} {there}.*, and this machine 0\.0\.1: install the same"):
        ray_cluster._there(tmp_path, tmp_path, {package: "0.0.1"}, abs, 1)
