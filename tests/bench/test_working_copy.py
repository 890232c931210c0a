"""Commands that a script of `bench/` runs in a copy of the working tree."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import REPO

SLOW_TO_END = """
import pathlib, time

def main():
    print("begun", flush=True)
    pathlib.Path("begun").touch()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1)  # more than the quarter of a second that `subprocess.run` leaves a child
        pathlib.Path("tidied").touch()
        print("tidied", flush=True)
        raise SystemExit(130)
"""


def test_an_interrupted_command_gets_the_time_to_end_what_it_started(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows/cli.py").write_text(SLOW_TO_END)
    script = (
        "import sys; from pathlib import Path; from bench import working_copy; working_copy.run(Path(sys.argv[1]), [])"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPO, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline and bench.poll() is None
            time.sleep(0.05)
        bench.send_signal(signal.SIGINT)
        _, said = bench.communicate(timeout=60)
    finally:
        bench.kill()
    assert bench.returncode != 0
    assert (tmp_path / "tidied").exists()
    assert "begun\ntidied" in said and "KeyboardInterrupt" in said
