"""One changed document: what is measured is its way through both stages, and nothing else is read or embedded."""

from pathlib import Path

import pytest

from bench import changed
from tasks.retrieval.index import Index


@pytest.mark.slow
def test_the_changed_document_alone_is_read_and_is_in_both_indexes(tmp_path: Path) -> None:
    texts = [" ".join(f"w{chunk}x{word % 50}" for word in range(changed.WORDS)) for chunk in range(60)]
    clocks = changed.measure(texts, 60, 12, tmp_path, repeats=1)
    assert set(clocks) == {"wall", "cpu"}
    for stages in clocks.values():
        assert stages["rag_chunks"]["documents_read"] == 1
        assert stages["rag_chunks"]["documents_unchanged"] == 11
        assert stages["rag_index"]["embedded"] == 1
        for measured in stages.values():
            parts = [value for key, value in measured.items() if key.endswith("_seconds")]
            assert sum(parts) == pytest.approx(measured["seconds"])
            assert min(parts) >= 0
    index = Index.open(tmp_path / changed.INDEX)
    assert len(index.chunks) == 60
    for by in ("lexical", "dense"):
        for number in (0, 1):
            (wanted,) = (chunk for chunk in index.chunks if f"changed{number} " in chunk.text)
            (hit,) = index.search([wanted.text], 1, by)[0]
            assert hit.chunk == wanted
