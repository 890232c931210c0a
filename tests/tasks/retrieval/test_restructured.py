"""reStructuredText: what Sphinx adds loses no text, no file is read, and one document leaves nothing to the next."""

from pathlib import Path

import pytest

from tasks.retrieval.restructured import read_rst
from tests.support.documents import shown

PAGE = """\
:mod:`json` --- Encoder
=======================

.. module:: json
   :synopsis: Encode and decode.

.. moduleauthor:: Ada Pell <ada@example.org>

Text with :func:`json.dumps`, :class:`~json.JSONDecoder`, :ref:`a title <label>`, |release| and *stress* [1]_.

.. py:function:: dumps(obj, *, skipkeys=False, **kw)

   Serialize *obj*.

   .. versionadded:: 3.2
      The *cls* argument.

   .. deprecated-removed:: 3.8 3.10

.. code-block:: python
   :linenos:
   :emphasize-lines: 1

   x = 1

After it::

   literal text

Sub
---

- one
- two

.. seealso::

   Module :mod:`pickle`

=====  =====
part   price
=====  =====
seal   3
=====  =====

.. a comment
.. [1] A footnote.
"""


def test_the_text_of_roles_and_directives_of_sphinx_is_kept() -> None:
    parts = shown(read_rst(PAGE, 10_000))
    top = "json --- Encoder"
    assert parts == [
        (top, "module: json\n:synopsis: Encode and decode."),
        (top, "moduleauthor: Ada Pell <ada@example.org>"),
        (top, "Text with json.dumps, JSONDecoder, a title, |release| and stress 1."),
        (f"{top} > dumps(obj, *, skipkeys=False, **kw)", "Serialize obj."),
        (f"{top} > dumps(obj, *, skipkeys=False, **kw)", "versionadded: 3.2\nThe cls argument."),
        (f"{top} > dumps(obj, *, skipkeys=False, **kw)", "deprecated-removed: 3.8 3.10"),
        (top, "x = 1"),
        (top, "After it:"),
        (top, "literal text"),
        (f"{top} > Sub", "one"),
        (f"{top} > Sub", "two"),
        (f"{top} > Sub", "seealso"),
        (f"{top} > Sub", "Module pickle"),
        (f"{top} > Sub", "part | price"),
        (f"{top} > Sub", "seal | 3"),
        (f"{top} > Sub", "1"),
        (f"{top} > Sub", "A footnote."),
    ]


@pytest.mark.parametrize(
    "directive",
    [
        ".. include:: {}",
        ".. literalinclude:: {}",
        ".. csv-table:: T\n   :file: {}",
        ".. raw:: html\n   :file: {}",
        ".. code-block:: text\n   :file: {}",
    ],
)
def test_no_file_is_read(directive: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("hunter2")
    text = read_rst(f"Before.\n\n{directive.format(tmp_path / 'secret.txt')}\n\nAfter.\n", 10_000).text
    assert "hunter2" not in text
    assert text.startswith("Before.")
    assert text.endswith("After.")


def test_raw_output_is_left_out() -> None:
    assert read_rst("One.\n\n.. raw:: html\n\n   <script>evil()</script>\n\nTwo.\n", 1000).text == "One.\n\nTwo."


def test_what_is_broken_stays_as_text() -> None:
    text = read_rst("Fine.\n\n*open `and :func:`x\n\n.. figure::\n\n   caption only\n\nTitle\n==\n\nEnd.\n", 1000).text
    for word in ("Fine.", "open", "caption only", "Title", "End."):
        assert word in text


def test_a_document_leaves_nothing_to_the_next() -> None:
    page = "Text :shout:`a <b>` end.\n"
    before = read_rst(page, 1000).text
    read_rst(".. role:: shout(code)\n.. default-role:: shout\n\n:shout:`x`\n\n.. shout:: y\n", 1000)
    assert read_rst(page, 1000).text == before == "Text a end."
