"""DOCX: headings by style, list items and tables in their order."""

import pytest

from tasks.retrieval.extracted import Unreadable
from tasks.retrieval.word import read_docx
from tests.support.documents import docx, shown, zip_bomb


def test_headings_paragraphs_and_tables_are_read_in_their_order() -> None:
    data = docx(
        [
            ("Manual", "Title"),
            ("Pumps", "Heading 1"),
            ("A pump moves water.", "Normal"),
            ("seal", "List Bullet"),
            ("Parts", "Heading 2"),
        ],
        [["part", "price"], ["seal", "3"]],
    )
    assert shown(read_docx(data, 1000, 10**7)) == [
        ("Manual > Pumps", "A pump moves water."),
        ("Manual > Pumps", "seal"),
        ("Manual > Pumps > Parts", "part | price"),
        ("Manual > Pumps > Parts", "seal | 3"),
    ]


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    data = zip_bomb(20)
    assert len(data) < 100_000
    with pytest.raises(Unreadable, match="zip bomb"):
        read_docx(data, 1000, 10**7)
    assert shown(read_docx(data, 1000, 10**8)) == [("", "Text")]
