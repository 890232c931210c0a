"""The chunker: bounds, structure before length, overlap, and that no word is lost."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.retrieval.chunker import ChunkSettings, Piece, pieces, sentences
from tasks.retrieval.extracted import Draft, Extracted
from tasks.retrieval.plain import read_plain

WORD = st.text("abcdefgXYZ.!?é字。()'\"-", min_size=1, max_size=60)
BLOCK = st.tuples(
    st.sampled_from([0, 0, 0, 1, 2, 3]), st.lists(WORD, min_size=1, max_size=40), st.sampled_from([" ", "\n", "\n  "])
)
BOUNDS = st.tuples(st.integers(1, 30), st.integers(0, 15), st.integers(20, 120), st.booleans())


def configured(words: int, overlap: int = 0, characters: int = 1000, join: bool = True) -> ChunkSettings:
    return ChunkSettings(words=words, overlap=overlap, characters=characters, join=join)


def texts(text: str, settings: ChunkSettings) -> list[str]:
    document = read_plain(text, 10**8)
    return [document.text[piece.start : piece.end] for piece in pieces(document, settings)]


def drafted(blocks: list[tuple[int, list[str], str]]) -> Extracted:
    draft = Draft(10**6)
    for level, words, between in blocks:
        if level:
            draft.heading(level, between.join(words))
        else:
            draft.block(between.join(words), lines="\n" in between)
    return draft.finish()


@settings(deadline=None)
@given(st.lists(BLOCK, max_size=12), BOUNDS)
def test_passages_are_parts_of_the_text_within_the_bounds_and_lose_no_word(
    blocks: list[tuple[int, list[str], str]], bounds: tuple[int, int, int, bool]
) -> None:
    words, overlap, characters, join = bounds
    limits = configured(words, min(overlap, words // 2), characters, join)
    document = drafted(blocks)
    cut = pieces(document, limits)
    for piece in cut:
        text = document.text[piece.start : piece.end]
        assert text == text.strip() != ""
        assert len(text.split()) <= limits.words
        assert len(text) <= limits.characters
    starts = [piece.start for piece in cut]
    assert starts == sorted(set(starts))
    covered = {at for piece in cut for at in range(piece.start, piece.end)}
    titles = {title for piece in cut for title in piece.title}
    for block in document.blocks:
        whole = document.text[block.start : block.end]
        left = [whole[at - block.start] for at in range(block.start, block.end) if at not in covered]
        assert (block.level and whole in titles) or not "".join(left).strip()


@settings(deadline=None)
@given(st.lists(BLOCK, max_size=12), st.integers(1, 30), st.integers(20, 120))
def test_without_overlap_no_character_is_in_two_passages(
    blocks: list[tuple[int, list[str], str]], words: int, characters: int
) -> None:
    cut = pieces(drafted(blocks), configured(words, characters=characters))
    assert all(one.end <= other.start for one, other in itertools.pairwise(cut))


@settings(deadline=None)
@given(st.lists(BLOCK, max_size=8), st.integers(2, 30), st.integers(1, 15))
def test_a_passage_repeats_at_most_the_overlap(
    blocks: list[tuple[int, list[str], str]], words: int, overlap: int
) -> None:
    limits = configured(words, min(overlap, words // 2))
    document = drafted(blocks)
    cut = pieces(document, limits)
    for one, other in itertools.pairwise(cut):
        assert other.start > one.start
        assert len(document.text[other.start : one.end].split()) <= limits.overlap or other.start >= one.end


def test_whole_paragraphs_are_put_together_and_a_long_one_is_cut_at_sentences() -> None:
    text = "One two three.\n\nFour five.\n\nSix seven eight. Nine ten. Eleven twelve thirteen.\n\nLast."
    assert texts(text, configured(5)) == [
        "One two three.\n\nFour five.",
        "Six seven eight. Nine ten.",
        "Eleven twelve thirteen.\n\nLast.",
    ]


def test_without_join_a_passage_is_of_one_paragraph() -> None:
    assert texts("One two.\n\nThree four.", configured(10, join=False)) == ["One two.", "Three four."]


def test_a_passage_repeats_the_last_whole_sentence_that_fits() -> None:
    text = "A b c d. E f. G h i j. K l. M n o p."
    assert texts(text, configured(8, overlap=3)) == [
        "A b c d. E f.",
        "E f. G h i j.",
        "h i j. K l.",  # the sentence before it has a word too many
        "K l. M n o p.",
    ]
    assert texts("Aa bb cc dd ee. Ff gg hh ii jj.", configured(8, overlap=2)) == [
        "Aa bb cc dd ee.",
        "dd ee. Ff gg hh ii jj.",
    ]


def test_a_word_longer_than_a_passage_is_cut_anywhere() -> None:
    assert texts("a" * 50, configured(5, characters=20)) == ["a" * 20, "a" * 20, "a" * 10]


def test_a_passage_never_reaches_over_a_heading_and_knows_those_above_it() -> None:
    draft = Draft(1000)
    draft.heading(1, "Pumps")
    draft.block("A pump moves water.")
    draft.heading(2, "Parts")
    draft.block("A valve.")
    draft.heading(1, "Leaf")
    document = draft.finish()
    assert pieces(document, configured(100)) == [
        Piece(7, 26, ("Pumps",)),
        Piece(35, 43, ("Pumps", "Parts")),
        Piece(45, 49, ()),
    ]
    assert document.text[45:49] == "Leaf", "a heading without anything below it is a passage by itself"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It ends. Then more.", ["It ends.", "Then more."]),
        ("See J. Smith, e.g. there. Dr. Ada came.", ["See J. Smith, e.g. there.", "Dr. Ada came."]),
        ("Version 3.11 is out! Is it? Yes…", ["Version 3.11 is out!", "Is it?", "Yes…"]),
        ('He said "stop." Then he left.', ['He said "stop."', "Then he left."]),
        ("一。二！三", ["一。", "二！", "三"]),
        ("no end", ["no end"]),
        ("  ", []),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text, 0, len(text))] == parts


def test_more_overlap_than_half_a_passage_is_refused() -> None:
    with pytest.raises(ValidationError, match="overlap 6 is more than half of words 10"):
        configured(10, overlap=6)
