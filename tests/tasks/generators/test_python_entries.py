"""Entries of the library reference: names, signatures, versions and text, from reStructuredText and from docstrings."""

from pathlib import Path

import pytest

from tasks.generators.python_entries import Entry, of_docstrings, parse, plain, read

PAGE = r"""
:mod:`demo` --- A module
========================

.. module:: demo
   :synopsis: Not a word of this.

An introduction, which no entry has.

.. function:: shorten(text, width, *, fix=False, \
                      placeholder=' [...]\n')

   Collapse the *text* to fit in ``*width*``, as :func:`~demo.wrap` and
   :meth:`Box.fill <demo.Box.fill>` do. See `the tutorial <https://example.org>`_.

   For example::

      >>> shorten("Hello  world", *args)
      'Hello'

   .. note:: It is slow.

      Very slow.

   .. index:: single: shorten

   .. availability:: Unix.

   .. versionadded:: 3.4

   .. versionchanged:: 3.6
      The *fix* parameter.

.. class:: Box(width=70)
           Box(other)

   A box.

   .. versionadded:: 3.2
      With a width.

   .. method:: fill(text)

      Fill it.

      .. versionadded:: 3.5

   More of the box.

.. comment that is no text

.. currentmodule:: other

.. data:: LIMIT

   .. versionadded:: 3.1
   .. versionadded:: 3.3
"""


@pytest.fixture
def entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in parse(PAGE, "library/demo")}


def test_names_are_qualified_by_module_and_class(entries: dict[str, Entry]) -> None:
    assert list(entries) == ["demo.shorten", "demo.Box", "demo.Box.fill", "other.LIMIT"]
    assert [entry.callable for entry in entries.values()] == [True, True, True, False]


def test_signatures_are_as_written_on_one_line(entries: dict[str, Entry]) -> None:
    assert entries["demo.shorten"].signatures == (r"demo.shorten(text, width, *, fix=False, placeholder=' [...]\n')",)
    assert entries["demo.Box"].signatures == ("class demo.Box(width=70)", "class demo.Box(other)")
    assert entries["demo.Box.fill"].signatures == ("demo.Box.fill(text)",)


def test_a_version_is_of_the_object_only_where_it_stands_alone(entries: dict[str, Entry]) -> None:
    assert {name: entry.added for name, entry in entries.items()} == {
        "demo.shorten": "3.4",
        "demo.Box": "",
        "demo.Box.fill": "3.5",
        "other.LIMIT": "",
    }
    assert "New in version 3.2: With a width." in entries["demo.Box"].paragraphs


def test_the_text_is_without_markup_and_without_the_entries_inside(entries: dict[str, Entry]) -> None:
    assert entries["demo.shorten"].text == (
        "demo.shorten(text, width, *, fix=False, placeholder=' [...]\\n')\n"
        "demo.shorten: new in version 3.4.\n"
        "Collapse the text to fit in *width*, as wrap and Box.fill do. See the tutorial.\n\n"
        "For example:\n\n"
        ">>> shorten(\"Hello  world\", *args)\n'Hello'\n\n"
        "It is slow.\n\n"
        "Very slow.\n\n"
        "Availability: Unix.\n\n"
        "Changed in version 3.6: The fix parameter.\n"
    )
    assert "Fill it" not in entries["demo.Box"].text
    assert entries["demo.Box"].paragraphs[-1] == "More of the box."


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (":exc:`!Error` or :exc:`~a.b.Error`", "Error or Error"),
        ("``**kwargs`` and *args*", "**kwargs and args"),
        ("2 * 3 * 4 and a*b*c", "2 * 3 * 4 and a*b*c"),
        ("**no** way, `default` [#]_", "no way, default "),
        (r"one\ s \*args", "one s *args"),
    ],
)
def test_inline_markup(markup: str, text: str) -> None:
    assert plain(markup) == text


def test_pages_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "demo.rst.txt").write_text(PAGE)
    assert [entry.page for entry in read(tmp_path, ["demo"])] == ["library/demo"] * 4
    with pytest.raises(FileNotFoundError):
        read(tmp_path, ["demo", "missing"])


def test_docstrings_stand_in_for_the_reference() -> None:
    entries = {entry.name: entry for entry in of_docstrings(["textwrap", "no_such_module"])}
    shorten = entries["textwrap.shorten"]
    assert shorten.signatures == ("textwrap.shorten(text, width, **kwargs)",)
    assert shorten.paragraphs[0] == "Collapse and truncate the given text to fit in the given width."
    assert "textwrap.TextWrapper.wrap" in entries
    assert "textwrap.re" not in entries
