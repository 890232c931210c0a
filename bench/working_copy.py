"""A copy of the working tree in which a script of `bench/` runs the commands of `polm`, each in its own process."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
LEFT_OUT = (".venv", ".polm", ".checkpoints", "artifacts", "cache", ".pytest_cache", ".mypy_cache", ".ruff_cache")


@dataclass(frozen=True)
class Done:
    """One command that has ended."""

    words: str
    """The command as it is typed."""
    seconds: float
    """From its start to its end."""
    cpu: float
    """Seconds of all cores together, of the command and the processes that it waited for."""


def make(work: Path) -> None:
    """Copy the working tree, without environments, caches and outputs, to a folder that does not exist yet."""
    shutil.copytree(REPO, work, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)


def run(work: Path, words: Sequence[str], through: Sequence[str] = ()) -> tuple[Done, str]:
    """Run a command of `polm` in a copy.

    Args:
        work: the copy.
        words: of the command, without `polm`.
        through: a command that runs the one after it, e.g. in a network namespace.

    Returns:
        The command with its seconds, and what it printed.

    Raises:
        SystemExit: it failed; its output is the message.
        KeyboardInterrupt: from the terminal; the command was interrupted too, and has ended.
    """
    environment = os.environ | {
        "PYTHONPATH": str(work),
        "DVC_SITE_CACHE_DIR": str(work / ".polm/dvc"),
        "COLUMNS": "120",
    }
    command = [*through, sys.executable, "-c", "from flows.cli import main; main()", *words]
    start, before = time.monotonic(), cpu()
    # In a session of its own: a Ctrl-C reaches it from here, and it is then given the time that it needs to end.
    with subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout
        lines: list[str] = []
        try:
            lines.extend(process.stdout)  # an interruption leaves those that came before it
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)
            sys.stderr.writelines([*lines, *process.stdout])
            raise
    said = "".join(lines)
    done = Done(f"polm {' '.join(words)}", time.monotonic() - start, cpu() - before)
    if process.returncode:
        raise SystemExit(f"{said}\n`{done.words}` ended with exit code {process.returncode} ({done.seconds:.1f} s)")
    return done, said


def cpu() -> float:
    """Return the seconds of all cores that processes have used which this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
