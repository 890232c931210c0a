"""Recipes of a reader broken by hand: what a stage would refuse after hours is found before the first."""

from pathlib import Path
from typing import Any

import pytest

from flows.authoring import command
from tasks.check import recipe as recipe_check
from tasks.stage import artifact
from tests.support import indexed, manuals, own_data
from tests.support.small_recipe import change

READER = Path("params/reader")


@pytest.fixture
def home(workspace: Path, chat_model: Path, make_artifact: Any) -> Path:
    own_data.prepare(workspace, chat_model)
    config = workspace / "models/llama/config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 256', '"max_position_embeddings": 2048'))
    manuals.write(workspace)
    folder = indexed.save_encoder(workspace / "models/encoder", make_artifact)
    (folder / artifact.MANIFEST).unlink()
    data = ["docs", "questions.jsonl"]
    command.main("reader", "models/llama", data, "rag", None, "CC0-1.0", yes=True, encoder="models/encoder")
    return workspace


EDITS: list[tuple[str, str, Any, tuple[str, ...]]] = [
    ("passages", "sources/docs/folder", "dosc", ("passages.yaml: sources.docs.folder: dosc", "expected the folder")),
    ("passages", "sources/docs/files", ["**/*.pdx"], ("sources.docs.files: no document below docs", "**/*.pdx")),
    ("retriever", "encoder/folder", "models/none", ("retriever.yaml: encoder.folder: models/none is no folder here",)),
    ("retriever", "encoder/folder", "models/llama", ("encoder.folder: models/llama has no modules.json",)),
    ("index", "embed_titles", False, ("index.yaml: embed_titles is False, and retriever.yaml has True", "the same")),
    ("evaluate_grounded", "retrieval/by", "dense", ("retrieval.by is dense, and grounded.yaml has by fused",)),
    ("evaluate_grounded", "without_attack", "retreived", ("without_attack is 'retreived'", "mean 'retrieved'")),
    ("grounded", "conditions", ["planted", "gold"], ("without_attack is 'retrieved', which is none of the cond",)),
    ("grounded", "prompt/least_relevance", 1.5, ("grounded.yaml: 'prompt.least_relevance' is 1.5", "less than 1")),
    ("grounded", "by", "lexical", ("retrieval.by is fused, and grounded.yaml has by lexical",)),
]


def test_recipes_of_a_reader_broken_by_hand_are_found(home: Path) -> None:
    assert recipe_check.check(READER) == []
    for file, key, value, words in EDITS:
        path = READER / f"{file}.yaml"
        whole = path.read_text()
        change(path, key, value)
        message = "\n".join(recipe_check.check(READER))
        path.write_text(whole)
        assert all(word in message for word in words), (file, key, message)
