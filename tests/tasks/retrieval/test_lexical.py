"""The lexical index: BM25's order, no passage for a question without a known word, equal scores, equal bytes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.retrieval.lexical import NO_ROW, Lexical, LexicalSettings, Words, _best, build
from tasks.stage.errors import ArtifactError, DataError

TEXTS = ["Ada Pell lives in Fallmouth.", "Ben Oss lives in Fallmouth.", "Ada Pell keeps a heron.", "A heron flies."]


def configured(**changes: Any) -> LexicalSettings:
    standard = {"method": "lucene", "k1": 1.5, "b": 0.75, "words": r"\w+", "lowercase": True, "stopwords": []}
    return LexicalSettings.model_validate(standard | changes)


def indexed(folder: Path, texts: list[str] = TEXTS, **changes: Any) -> Lexical:
    build(texts, folder / "lexical", configured(**changes))
    return Lexical.open(folder / "lexical")


def test_questions_with_other_words_get_other_passages(tmp_path: Path) -> None:
    _, rows = indexed(tmp_path).search(["Where is Ben?", "Who keeps what?", "What flies?"], 1)
    assert rows.tolist() == [[1], [2], [3]]


def test_a_question_without_a_known_word_gets_no_passage(tmp_path: Path) -> None:
    scores, rows = indexed(tmp_path).search(["Zzz?", "", "Ben"], 2)
    assert rows.tolist() == [[NO_ROW, NO_ROW], [NO_ROW, NO_ROW], [1, NO_ROW]]
    assert scores[0].tolist() == scores[1].tolist() == [0.0, 0.0]


def test_scores_are_those_of_the_formula(tmp_path: Path) -> None:
    index = indexed(tmp_path, method="lucene", k1=1.2, b=0.5)
    scores, rows = index.search(["heron"], 2)
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    lengths = {2: 5, 3: 3}
    expected = {row: idf / (1.2 * (0.5 + 0.5 * length / 4.5) + 1) for row, length in lengths.items()}
    assert rows.tolist() == [[3, 2]]
    assert scores[0].tolist() == pytest.approx([expected[3], expected[2]], rel=1e-5)


def test_of_equal_scores_the_lower_row_comes_first(tmp_path: Path) -> None:
    index = indexed(tmp_path, texts=["other"] * 3 + ["same word"] * 50)
    assert index.search(["word"], 5)[1].tolist() == [[3, 4, 5, 6, 7]]
    mixed = indexed(tmp_path / "mixed", texts=["word word", "word", "word word", "word", "none"])
    assert mixed.search(["word"], 3)[1].tolist() == [[0, 2, 1]]


def test_the_best_of_many_are_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.integers(0, 9, 30_000), rng.integers(0, 10**6, 30_000), np.eye(1, 30_000, 29_999)[0]):
        scores = values.astype(np.float32)
        expected = np.lexsort((np.arange(len(scores)), -scores))
        for k in (1, 10, 500):
            assert _best(scores, k).tolist() == [row for row in expected[:k].tolist() if scores[row] > 0]


def test_more_places_than_rows_are_left_empty(tmp_path: Path) -> None:
    scores, rows = indexed(tmp_path).search(["heron"], 10)
    assert rows.shape == scores.shape == (1, 10)
    assert rows[0].tolist() == [3, 2, *[NO_ROW] * 8]


def test_questions_are_cut_into_words_as_the_passages_were(tmp_path: Path) -> None:
    assert indexed(tmp_path).search(["HERON"], 1)[1].tolist() == [[3]]
    exact = indexed(tmp_path / "exact", lowercase=False)
    assert exact.search(["HERON"], 1)[1].tolist() == [[NO_ROW]]
    composed = indexed(tmp_path / "composed", texts=["caf\u00e9", "other"])
    assert composed.search(["cafe\u0301"], 1)[1].tolist() == [[0]]
    assert Words(configured(stopwords=["the"])).of("The THE heron") == ["heron"]


def test_the_index_is_read_from_the_disk_and_not_into_memory(tmp_path: Path) -> None:
    index = indexed(tmp_path)
    assert all(isinstance(index._index.scores[name], np.memmap) for name in ("data", "indices", "indptr"))
    assert index.size == 4


def test_equal_texts_give_equal_bytes(tmp_path: Path) -> None:
    indexed(tmp_path / "one")
    indexed(tmp_path / "two")
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "lexical").iterdir()} for name in ("one", "two")
    )
    assert len(one) == 6
    assert one == two


def test_texts_without_a_word_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 2 chunks has a word"):
        indexed(tmp_path, texts=["...", ""])


@pytest.mark.parametrize(
    ("words", "why"), [("[a-", "no regular expression"), (r"(\w)+", "has groups"), (r"\w*", "without letters")]
)
def test_a_pattern_that_finds_no_words_is_refused(words: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        configured(words=words)


def test_a_folder_without_an_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"settings\.json: no such file"):
        Lexical.open(tmp_path)
    indexed(tmp_path)
    (tmp_path / "lexical/data.csc.index.npy").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="no lexical index"):
        Lexical.open(tmp_path / "lexical")
