"""The shared services, started as `infra/services.sh` does, in a project of their own."""

import socket
import subprocess
import sys

from tests.support import toy


def free_ports() -> int:
    """First of seven ports that nobody listens on, of which those 10,000 higher are free too."""
    for first in range(21000, 25000, 10):
        try:
            for port in range(first, first + 7):
                for number in (port, port + 10000):
                    with socket.socket() as s:
                        s.bind(("127.0.0.1", number))
        except OSError:
            continue
        return first
    raise AssertionError("no seven free ports in a row")


def command(project: toy.Toy, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `infra/services.sh` in a project."""
    return subprocess.run(
        [sys.executable, "-m", "infra.services", *words],
        cwd=project.root, env=project.environment(), capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip
