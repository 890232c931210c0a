"""Words as numbers: equal for equal words wherever they stand, other ones for others, in blocks of whatever size."""

import numpy as np
import pytest

from tasks.ingestion import words
from tasks.ingestion.cleaning import tokens

TEXTS = [
    "",
    "One two, one-two; x=1",
    " ",
    "Ünïcode straße STRASSE one",
    "ab ba aab aba b a",
    "z" * 500 + " one",
    "\n\t",
]


@pytest.mark.parametrize("block", [4, 40, 1 << 20])
def test_equal_words_and_no_others_have_equal_numbers(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(words, "BLOCK", block)
    monkeypatch.setattr(words, "LONGEST", 1_000)
    cut = [tokens(text) for text in TEXTS]
    numbers, begins = words.hashed(TEXTS)
    assert begins.tolist() == [0, *np.cumsum([len(text) for text in cut]).tolist()]
    flat = [word for text in cut for word in text]
    assert len(set(zip(flat, numbers.tolist(), strict=True))) == len(set(flat)) == len(set(numbers.tolist()))


def test_numbers_do_not_depend_on_the_texts_beside_nor_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    together = words.hashed(TEXTS)[0].tolist()
    assert together == [number for text in TEXTS for number in words.hashed([text])[0].tolist()]
    monkeypatch.setattr(words, "BLOCK", 8)
    assert words.hashed(TEXTS)[0].tolist() == together


def test_no_text_has_no_words() -> None:
    numbers, begins = words.hashed([])
    assert numbers.tolist() == []
    assert begins.tolist() == [0]
