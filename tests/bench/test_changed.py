"""One changed document: what is measured is its way through both stages, and nothing else is read or embedded."""

from pathlib import Path

import pytest

from bench import changed
from tasks.retrieval.index import Index


@pytest.mark.slow
def test_the_changed_document_alone_is_read_and_is_in_both_indexes(tmp_path: Path) -> None:
    texts = [" ".join(f"w{chunk}x{word % 50}" for word in range(changed.WORDS)) for chunk in range(60)]
    stages = changed.measure(texts, 60, 12, tmp_path, repeats=1)
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
        (hit,) = index.search([index.chunks[0].text], 1, by)[0]
        assert hit.chunk.text.startswith("changed0 w0x1 ")
