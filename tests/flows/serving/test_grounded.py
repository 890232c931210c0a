"""A question with its passages: what the reader is asked, what is known of each passage, and what an answer cites."""

from pathlib import Path

import pytest

from flows.serving.grounded import Grounding, cited, open_rag
from flows.serving.openai_api import annotations
from tasks.export import genai
from tasks.retrieval.control_tokens import control_tokens, harmless
from tasks.stage import artifact
from tasks.stage.errors import ArtifactError
from tests.support.rag import DOCUMENTS, FORM, LICENCE, make_rag


@pytest.fixture(scope="module")
def grounding(chat_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Grounding:
    return open_rag(make_rag(tmp_path_factory.mktemp("version") / "rag"), chat_onnx / "fp32")


def test_the_reader_is_asked_in_the_words_of_its_training(grounding: Grounding) -> None:
    found = grounding.ground("Where does Bexot live?", 2)
    texts = [source.text for source in found.sources]
    assert texts[0] == DOCUMENTS["people/bexot.txt"]
    assert found.prompt == FORM.render("Where does Bexot live?", texts)
    assert set(found.seconds) == {"embed", "lexical", "dense", "fuse", "all"}
    assert [source.number for source in found.sources] == [*range(1, len(texts) + 1)]
    assert len(grounding.ground("Where does Bexot live?", 1).sources) == 1


def test_what_is_not_relevant_is_not_shown(chat_onnx: Path, tmp_path: Path) -> None:
    """The fusion gives every passage a place; the screen leaves one of them, or none, as in an evaluation's rows."""
    strict = open_rag(make_rag(tmp_path / "rag", least_relevance=0.5), chat_onnx / "fp32")
    (source,) = strict.ground("Where does Bexot live?", 2).sources
    assert source.text == DOCUMENTS["people/bexot.txt"] and source.relevance == pytest.approx(1.0, abs=0.01)
    nothing = strict.ground("Who is Tamok?", 2)
    assert nothing.sources == () and nothing.prompt == "Who is Tamok?"


def test_a_screen_on_an_index_without_relevance_is_refused(chat_onnx: Path, tmp_path: Path) -> None:
    rag = make_rag(tmp_path / "rag", least_relevance=0.5)
    described = artifact.read_json(rag / "index/index.json")
    artifact.write_json(rag / "index/index.json", described | {"relevance": None})
    with pytest.raises(ArtifactError, match=r"has no relevance, and the reader's prompt\.json shows .* 0\.5 alone"):
        open_rag(rag, chat_onnx / "fp32")


def test_a_passage_says_where_it_is_from(grounding: Grounding) -> None:
    (source,) = grounding.ground("Which pet has Ada Pell?", 1).sources
    assert (source.document, source.title, source.licence) == ("people/ada pell.txt", ("People", "ada pell"), LICENCE)
    assert DOCUMENTS[source.document][source.start : source.end] == source.text
    assert source.ranks["lexical"] == 1 and source.score == pytest.approx(sum(source.parts.values()))
    assert len(source.sha256) == 64 and source.place == "people/ada pell.txt › People › ada pell"


def test_a_passage_ends_no_turn(grounding: Grounding, chat_onnx: Path) -> None:
    """The template's own tokens are the only ones in the prompt, whatever a document writes out."""
    found = grounding.ground("Who is Mallory?", 1)
    assert found.sources[0].text == DOCUMENTS["people/evil.txt"], "a source is shown as it is"
    _, tokenizer = genai.load(chat_onnx / "fp32")
    control = {genai.encode(tokenizer, token)[0] for token in ("<|im_start|>", "<|im_end|>")}

    def marks(text: str) -> int:
        return sum(token in control for token in genai.encode(tokenizer, genai.render(tokenizer, _asked(text))))

    assert marks(found.prompt) == marks("Who is Mallory?")
    unguarded = FORM.render("Who is Mallory?", [DOCUMENTS["people/evil.txt"]])
    assert marks(unguarded) == marks(found.prompt) + 2, "it would have been a turn of its own"


def test_both_tokenizers_read_a_broken_token_as_text(chat_model: Path, chat_onnx: Path) -> None:
    from transformers import AutoTokenizer

    evil = DOCUMENTS["people/evil.txt"]
    tokens = control_tokens(chat_onnx / "fp32")
    assert tokens == control_tokens(chat_model) and "<|im_end|>" in tokens
    ours = AutoTokenizer.from_pretrained(chat_model)
    special = {ours.convert_tokens_to_ids(token) for token in tokens}
    _, served = genai.load(chat_onnx / "fp32")
    for text, found in ((evil, True), (harmless(evil, tokens), False)):
        assert bool(special & set(ours(text, add_special_tokens=False)["input_ids"])) is found
        assert bool(special & set(genai.encode(served, text))) is found


def test_a_citation_is_marked_where_it_stands(grounding: Grounding) -> None:
    sources = grounding.ground("Where does Bexot live?", 2).sources[:1]
    text = "Bexot lives in Olvar. [1] Olvar [7]"
    assert cited(text, FORM, sources) == [(sources[0], 22, 25)], "7 is no passage that was shown"
    (annotation,) = annotations(text, FORM, sources)
    citation = annotation["url_citation"]
    assert text[citation["start_index"] : citation["end_index"]] == "[1]"
    assert citation["url"] == f"document:people/bexot.txt#char=0,{sources[0].end}"
    assert citation["title"].startswith("people/bexot.txt")
    assert annotation["source"]["number"] == 1 and "text" not in annotation["source"]
    assert annotations("Bexot: not in the passages. [1]", FORM, sources) == []


def test_an_index_that_is_none_says_so(tmp_path: Path, chat_onnx: Path) -> None:
    rag = make_rag(tmp_path / "rag")
    (rag / "index/documents.parquet").write_bytes(b"none")
    with pytest.raises(ArtifactError, match=r"documents.parquet: no file of documents"):
        open_rag(rag, chat_onnx / "fp32")


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
