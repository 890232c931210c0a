"""Evaluation texts inside training texts."""

from tasks.ingestion.contamination import Contamination
from tasks.ingestion.words import hashed


def test_contamination_by_ngrams_and_by_whole_short_texts() -> None:
    index = Contamination(ngram=4, overlap=0.5)
    index.add("eval:a#1", "how many legs have seven spiders and two dogs", whole=True)
    index.add("eval:a#2", "What is 2 + 3?", whole=True)
    index.add("eval:a#3", "no answer", whole=False)
    assert index.find(["Tell me how many legs have seven spiders and two cats!"]) == ("eval:a#1", 0.833)
    assert index.find(["how many legs have seven ants"]) is None  # 2 of 6 n-grams: under the share
    assert index.find(["hello", "what is 2+3"]) == ("eval:a#2", 1.0)
    assert index.find(["what is 2 - 3"]) is None
    assert index.find(["no answer"]) is None  # short answers protect nothing, or every "yes" would go


def test_many_rows_at_once_get_what_each_gets_alone() -> None:
    index = Contamination(ngram=3, overlap=0.5)
    for i in range(40):
        index.add(f"eval:a#{i}", " ".join(f"w{(i * j) % 23}" for j in range(1, 9)), whole=True)
    index.add("eval:a#short", "two words", whole=True)
    rows = [[" ".join(f"w{(i * j + k) % 23}" for j in range(1, 12)) for k in range(3)] for i in range(30)]
    rows += [[], [""], ["two words", "w1 w2 w3"], ["nothing of all that at all"]]
    found = index.find_rows(rows, hashed([text for row in rows for text in row]))
    assert found == [index.find(row) for row in rows]
    assert found[-4:] == [None, None, ("eval:a#short", 1.0), None]
    assert sum(overlap is not None for overlap in found) > 5
