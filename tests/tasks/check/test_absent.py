"""Packages that seem not to be installed: within the block alone, and not where they are loaded already."""

import importlib
import importlib.util
import sys

import pytest

from tasks.check.absent import absent

PACKAGE = "this"
"""A module of the standard library that nothing loads."""


@pytest.fixture(autouse=True)
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)


def test_a_package_is_absent_within_the_block_alone() -> None:
    with absent(PACKAGE):
        assert importlib.util.find_spec(PACKAGE) is None, "which is how transformers and TRL look"
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(PACKAGE)
    assert importlib.util.find_spec(PACKAGE) is not None


def test_it_is_there_again_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), absent(PACKAGE):
        raise ZeroDivisionError
    assert PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is not None


def test_a_package_that_is_loaded_stays() -> None:
    with absent("json"):
        assert importlib.import_module("json") is sys.modules["json"] is not None
    assert sys.modules["json"] is not None
