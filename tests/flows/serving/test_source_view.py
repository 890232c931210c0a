"""The passages under an answer: which is marked, and what of it is in colour."""

import dataclasses
import io

from rich.console import Console

from flows.serving import source_view
from flows.serving.grounded import Source
from tests.support.rag import FORM


def source(number: int, text: str) -> Source:
    return Source(
        number, "ab" * 8, f"people/{number}.txt", "cd" * 32, "people", "CC0-1.0", ("People",), 0, len(text), text, 0.75,
        {"lexical": 1, "dense": None}, {"lexical": 0.5, "dense": 0.25},
    )  # fmt: skip


def shown(answer: str, *sources: Source, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=colour, color_system="standard" if colour else None)
    source_view.show(console, answer, FORM, sources)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_cited_passage_is_marked_and_the_others_are_there() -> None:
    said = shown("Bexot lives here. [2] here", source(1, "[red]Ada."), source(2, "Yes: Bexot lives here. So."))
    first, text, second, _ = said.splitlines()
    assert first == "[1] people/1.txt › People  0–9, CC0-1.0, 0.750 = lexical 0.500 (rank 1) + dense 0.250"
    assert text.rstrip() == "    [red]Ada.", "a document's brackets are its own"
    assert second.endswith("  cited") and second.startswith("[2] people/2.txt")


def test_the_quotation_is_in_colour_within_its_passage() -> None:
    said = shown("Bexot lives here. [1] here", source(1, "Yes: Bexot lives here. So."), colour=True)
    assert "Yes: \x1b[1;32mBexot lives here.\x1b[0m So." in said
    assert "cited" not in shown("Bexot: not in the passages.", source(1, "Yes: Bexot lives here."))
    assert "no passage was found\n" in shown("Bexot: not in the passages.")


def test_relevance_is_said_where_the_index_knows_it() -> None:
    known = dataclasses.replace(source(1, "Bexot lives here."), relevance=0.987)
    assert shown("Bexot: not in the passages.", known).splitlines()[0].endswith(", relevance 0.99")
    console = Console(file=io.StringIO(), width=200)
    source_view.show(console, "…", FORM.model_copy(update={"least_relevance": 0.5}), [])
    assert console.file.getvalue() == "no passage was found of a relevance of at least 0.5\n"  # type: ignore[attr-defined]
