"""What stands in the place of `python`: it hands signals on, dies with its fork, and goes without a parent."""

import os
import signal
import subprocess

import pytest

from flows.workspace import EVENTS
from tests.support.warm import Place, gone, within

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_one_that_waits_reaches_the_fork(place: Place, number: int) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    process.send_signal(number)
    assert process.wait(10) == -number
    assert gone(fork)
    assert ("KeyboardInterrupt" in place.log.read_text()) == (number == signal.SIGINT)


def test_kill_9_of_the_one_that_waits_ends_the_fork(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    process.kill()
    process.wait()
    within(10, lambda: gone(fork))


def test_another_environment_is_for_a_process_of_its_own_and_no_value_is_said(place: Place) -> None:
    code, said = place.run("exit", "3", HF_HOME="/nowhere/secret")
    assert code == 3
    assert said == ("polm: tasks.probe starts in a process of its own: its environment is another one (HF_HOME)\n")


@pytest.mark.parametrize(
    ("wrapper", "what"),
    [
        (["nice", "-n", "3"], "priority"),
        (["sh", "-c", 'ulimit -v 8000000; exec "$@"', "sh"], "RLIMIT_AS"),
        (["taskset", "-c", "0"], "processors"),
        (["sh", "-c", "trap '' USR1; exec \"$@\"", "sh"], "SigIgn"),
    ],
)
def test_what_a_wrapper_changes_is_for_a_process_of_its_own(place: Place, wrapper: list[str], what: str) -> None:
    """A fork would have the limits, the priority and the processors of its parent, in silence."""
    if what == "processors" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("there is one processor")
    command = [*wrapper, place.script, "-m", "tasks.probe", "exit", "3"]
    ours = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    ours |= {"PYTHONUNBUFFERED": "1", EVENTS: f"{place.root}/logs/e"}
    done = subprocess.run(command, cwd=place.root, env=ours, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr == (
        f"polm: tasks.probe starts in a process of its own: it was started with others than the run ({what})\n"
    )
