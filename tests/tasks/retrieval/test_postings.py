"""Postings: the scores of `bm25s` for every method, numbers that do not depend on what was counted before, bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.retrieval.lexical import LexicalSettings, build_counted
from tasks.retrieval.postings import Method, Postings, count, joined, scored

METHODS = get_args(Method)
TEXTS = ["to be or not to be", "", "be quick", "or be slow or be late", "be be be be", "not a word of theirs"]
CHUNKS = st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=12), min_size=1, max_size=8).filter(any)


def counted(texts: Sequence[str], before: Sequence[str] = ()) -> tuple[Postings, dict[str, int]]:
    vocabulary: dict[str, int] = {}
    count(before, str.split, vocabulary)
    return count(texts, str.split, vocabulary), vocabulary


def table(data: Any, indices: Any, indptr: Any, words: Sequence[str]) -> dict[tuple[str, int], float]:
    """Word and row to score."""
    ranges = zip(words, indptr[:-1], indptr[1:], strict=True)
    return {(word, int(indices[at])): float(data[at]) for word, start, end in ranges for at in range(start, end)}


def expected(texts: Sequence[str], method: str, k1: float, b: float) -> dict[tuple[str, int], float]:
    """Scores of `bm25s` itself."""
    index = bm25s.BM25(k1=k1, b=b, method=method, backend="numpy")
    index.index([text.split() for text in texts], create_empty_token=False, show_progress=False)
    words = sorted(index.vocab_dict, key=index.vocab_dict.__getitem__)
    return table(index.scores["data"], index.scores["indices"], index.scores["indptr"], words)


def computed(texts: Sequence[str], method: Method, k1: float, b: float) -> dict[tuple[str, int], float]:
    postings, vocabulary = counted(texts, before=["unseen words", *reversed(texts)])
    matrix = scored(postings, len(vocabulary), method, k1, b)
    names = list(vocabulary)
    return table(matrix.data, matrix.indices, matrix.indptr, [names[word] for word in matrix.words])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (0.0, 0.0), (1.2, 1.0)])
def test_scores_are_those_of_bm25s(method: Method, k1: float, b: float) -> None:
    assert computed(TEXTS, method, k1, b) == pytest.approx(expected(TEXTS, method, k1, b), rel=1e-6)


@given(chunks=CHUNKS, method=st.sampled_from(METHODS), k1=st.floats(0, 3), b=st.floats(0, 1))
def test_scores_of_any_chunks_are_those_of_bm25s(chunks: list[list[str]], method: Method, k1: float, b: float) -> None:
    texts = [" ".join(words) for words in chunks]
    assert computed(texts, method, k1, b) == pytest.approx(expected(texts, method, k1, b), rel=1e-6, abs=1e-7)


def test_words_are_numbered_as_the_chunks_first_have_them() -> None:
    for before in ([], ["zebra late be", "slow to unseen"]):
        postings, vocabulary = counted(TEXTS, before)
        matrix = scored(postings, len(vocabulary), "lucene", 1.5, 0.75)
        names = list(vocabulary)
        found = [names[word] for word in matrix.words]
        assert found == list(dict.fromkeys(" ".join(TEXTS).split()))


def test_an_index_has_equal_bytes_whatever_was_counted_before_and_however_it_was_parted(tmp_path: Path) -> None:
    settings = LexicalSettings(method="lucene", k1=1.5, b=0.75, words=r"\w+", lowercase=True, stopwords=[])
    made = []
    for number, before in enumerate([(), ("late zebra", "be")]):
        vocabulary: dict[str, int] = {}
        count(before, str.split, vocabulary)
        parts = [count(part, str.split, vocabulary) for part in (TEXTS[4:], TEXTS[:1], TEXTS[1:4])]
        folder = tmp_path / str(number)
        build_counted(joined([*parts[1:], parts[0]]), list(vocabulary), folder, settings)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(made[0]) == 6
    assert made[0] == made[1]


def test_postings_are_read_as_they_were_written() -> None:
    for texts in (TEXTS, []):
        postings, _ = counted(texts)
        again = Postings.from_bytes(postings.to_bytes())
        assert all(np.array_equal(one, other) for one, other in zip(postings, again, strict=True))
    postings, vocabulary = counted(TEXTS)
    assert postings.sizes.tolist() == [4, 0, 2, 4, 1, 5]
    assert postings.lengths.tolist() == [6, 0, 2, 6, 4, 5]
    assert postings.counts[:4].tolist() == [2, 2, 1, 1]
    assert [list(vocabulary)[word] for word in postings.words[:4]] == ["to", "be", "or", "not"]
