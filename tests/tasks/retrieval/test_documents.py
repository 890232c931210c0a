"""What a recipe says of documents: one kind a source, known keys, a licence, an XPath that is one."""

import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from tasks.retrieval.documents import DocumentSource, FolderDocuments
from tests.conftest import REPO

FOLDER = {"folder": "docs", "files": ["**/*"], "sha256": None, "format": None, "within": None, "licence": "MIT"}


def parsed(keys: dict[str, Any]) -> Any:
    return TypeAdapter(DocumentSource).validate_python(keys)


def test_a_source_is_told_by_its_keys() -> None:
    source = parsed(FOLDER | {"within": "//*[@role='main']"})
    assert isinstance(source, FolderDocuments)
    assert source.within == "//*[@role='main']"


def test_the_sources_of_the_page_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(sources:.*?)```", (REPO / "docs/retrieval.md").read_text(encoding="utf-8"), re.S)
    sources = [source for block in blocks for source in YAML(typ="safe").load(block)["sources"].values()]
    assert sources
    assert all(parsed(source).within == "//*[@role='main']" for source in sources)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": ...}, "licence"),
        ({"folder": ...}, "a source of documents needs one of the keys 'folder', 'package', 'hub', 'generator'"),
        ({"fils": []}, "Extra inputs"),
        ({"files": []}, "at least 1 item"),
        ({"format": "word"}, "'text', 'markdown', 'rst', 'html', 'pdf' or 'docx'"),
        ({"within": "//p["}, "is no XPath"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    keys = {key: value for key, value in (FOLDER | changes).items() if value is not ...}
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        parsed(keys)
