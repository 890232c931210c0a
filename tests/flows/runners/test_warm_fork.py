"""A fork ends as it should, and with whom it should."""

import os
import signal

import pytest

from flows.runners import local
from flows.workspace import EVENTS
from tests.support.warm import Place, gone, within

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("exit", "0"), 0), (("exit", "2"), 2), (("raise",), 1), (("die", "15"), -15), (("die", "9"), -9),
        (("die", "11"), -11),
    ],
)  # fmt: skip
def test_it_ends_as_the_fork_ends(place: Place, words: tuple[str, ...], code: int) -> None:
    ended, said = place.run(*words)
    assert ended == code
    assert "process of its own" not in said
    if words == ("raise",):
        assert said.splitlines()[-1] == "ValueError: a bug"


def test_the_mark_of_a_fork_is_seen_and_ends_it(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    assert fork.environ()[EVENTS] == f"{place.root}/logs/e"
    assert os.getsid(fork.pid) != os.getsid(process.pid), "so its mark is what it is found by"
    local.end(process, f"{place.root}/logs/e")
    assert process.returncode == -signal.SIGTERM
    assert gone(fork)


def test_a_process_that_lost_the_mark_is_found_by_its_group(place: Place) -> None:
    process = place.start("unmarked")
    [child] = place.sleeper(process).children()
    within(10, lambda: EVENTS not in child.environ())
    local.end(process, f"{place.root}/logs/e")
    assert gone(child)


def test_what_a_killed_run_left_is_found_by_its_mark(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    assert local.end_leftovers(f"{place.root}/logs/") == 2
    assert gone(fork)
    assert process.wait(10) == -signal.SIGTERM


def test_kill_9_of_the_fork_is_what_is_told(place: Place) -> None:
    process = place.start("sleep", "600")
    place.sleeper(process).kill()
    assert process.wait(10) == -signal.SIGKILL


def test_kill_9_of_the_attendant_ends_both(place: Place) -> None:
    process = place.start("sleep", "600")
    fork = place.sleeper(process)
    attendant = fork.parent()
    assert attendant
    attendant.kill()
    assert process.wait(10) == -signal.SIGKILL
    within(10, lambda: gone(fork))
