"""The exclusive lock of a file: one holder at a time, and none outlives its process."""

import subprocess
import sys
import threading
from pathlib import Path

from tasks.stage import locks

HOLDER = (
    "import sys; sys.path.insert(0, sys.argv[1])\n"
    "from pathlib import Path; from tasks.stage import locks\n"
    "file = Path(sys.argv[2]).open('a')\n"
    "print(locks.acquire(file), flush=True); sys.stdin.read()\n"
)


def hold(path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock of `path`."""
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parents[3]), str(path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout
    assert holder.stdout.readline() == "True\n"
    return holder


def test_a_lock_is_refused_until_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path) as holder:
        with path.open("a") as file:
            assert not locks.acquire(file)
        holder.kill()
        holder.wait()
        with path.open("a") as file:
            assert locks.acquire(file)


def test_closing_the_file_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("a") as first, path.open("a") as second:
        assert locks.acquire(first)
        assert not locks.acquire(second)
        first.close()
        assert locks.acquire(second)


def test_who_waits_gets_it_when_the_holder_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path) as holder, path.open("a") as file:
        taken = threading.Event()

        def wait() -> None:
            locks.acquire(file, wait=True)
            taken.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert not taken.wait(0.2), "the lock was taken from a process that holds it"
        holder.kill()
        assert taken.wait(30)
        thread.join()
