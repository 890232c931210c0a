"""Questions about the library reference: each has one answer, which stands in the sentence that it quotes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.generators import python_docs

PAGE = r"""
.. module:: demo

.. function:: fold(text, width=70, *, indent='  ', mode='strict', fill=None)

   Fold it. If *width* is negative, :exc:`ValueError` is raised.
   Raises :exc:`KeyError` if it is missing, and :exc:`TypeError` when it is not.

   .. versionadded:: 3.4

.. function:: near(a, b, rel=1, tol=1)

   When *rel* is negative, raise a :exc:`ValueError`. Otherwise a :exc:`TypeError` is raised if this fails.

.. function:: old(first[, second])

   A function of old. An :exc:`OSError` exception is raised when the disk is full.

.. function:: twice(value)

   Once.

.. function:: twice(value, more)

   Twice.

   .. versionadded:: 3.9

.. class:: Two(value, kind=3)
           Two(other, kind=4)

   Two ways.

.. method:: Two.run(self, speed=2.5)

   Run.
"""
Rows = list[dict[str, Any]]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Rows]:
    (tmp_path / "demo.rst.txt").write_text(PAGE)

    def asked(**options: Any) -> Rows:
        defaults: dict[str, Any] = {
            "part": "train", "test_share": 0.0, "seed": 1, "wordings": 1, "longest": 60, "unanswerable": 0.0,
        }  # fmt: skip
        return list(python_docs.questions(folder=str(tmp_path), modules=["demo"], **(defaults | options)))

    return asked


def test_only_what_has_one_answer_is_asked(ask: Callable[..., Rows]) -> None:
    facts = {(row["subject"], row["kind"], row["answer"]) for row in ask()}
    assert facts == {
        ("demo.fold", "version", "3.4"),
        ("demo.fold", "parameter", "text"),
        ("demo.fold", "default", "70"),
        ("demo.fold", "default", "strict"),
        ("demo.fold", "exception", "ValueError"),
        ("demo.near", "parameter", "a"),
        ("demo.near", "exception", "ValueError"),
        ("demo.old", "exception", "OSError"),
        ("demo.Two.run", "default", "2.5"),
    }, "not 1, which stands twice; not KeyError, beside another; not an object with two entries or two signatures"


def test_the_condition_of_an_exception_is_in_the_question(ask: Callable[..., Rows]) -> None:
    questions = {row["subject"]: row["question"] for row in ask() if row["kind"] == "exception"}
    assert questions["demo.fold"].rstrip("?").endswith("if width is negative")
    assert questions["demo.near"].rstrip("?").endswith("when rel is negative")
    assert questions["demo.old"].rstrip("?").endswith("when the disk is full")


def test_quotes_stand_in_the_document_and_hold_the_answer_once(ask: Callable[..., Rows], tmp_path: Path) -> None:
    texts = {f"pydocs/{d['name']}": d["text"] for d in python_docs.documents(str(tmp_path), ["demo"])}
    assert "pydocs/library/demo/demo.twice-2.txt" in texts
    rows = ask(wordings=3)
    assert len(rows) == 3 * len(ask())
    for row in rows:
        assert row["quote"] in texts[row["document"]]
        assert row["answer"] in row["quote"]
        assert row["subject"] in row["question"]


def test_parts_share_no_object_and_no_wording(ask: Callable[..., Rows]) -> None:
    train, test = (ask(part=part, test_share=0.5, wordings=2) for part in ("train", "test"))
    assert {row["group"] for row in train} | {row["group"] for row in test} == {row["group"] for row in ask()}
    assert not {row["group"] for row in train} & {row["group"] for row in test}
    assert not {row["family"] for row in train} & {row["family"] for row in test}
    assert all(row["family"].startswith("held out") for row in test)


def test_what_no_entry_says_is_asked_of_functions_alone(ask: Callable[..., Rows]) -> None:
    silent = [row for row in ask(unanswerable=1.0) if not row["answer"]]
    assert {row["subject"] for row in silent} == {"demo.near", "demo.old"}, "run may have come with its class"
    assert all((row["document"], row["quote"], row["kind"]) == ("", "", "version") for row in silent)


def test_a_long_entry_is_not_asked_about(ask: Callable[..., Rows]) -> None:
    assert {row["subject"] for row in ask(longest=8)} == {"demo.Two.run"}


def test_rows_are_the_same_for_a_seed(ask: Callable[..., Rows]) -> None:
    assert ask(wordings=2) == ask(wordings=2)
    assert ask() != ask(seed=2)


def test_without_the_reference_docstrings_are_read_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "polm"):
        texts = list(python_docs.documents("/no/such/folder", ["textwrap"]))
    assert "library/textwrap/textwrap.shorten.txt" in {text["name"] for text in texts}
    assert "/no/such/folder is missing (apt-get install python3.11-doc)" in caplog.text
