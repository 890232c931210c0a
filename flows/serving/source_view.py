"""The passages under an answer, for a person: the cited ones marked, with what was quoted of them in colour."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from flows.serving.grounded import Source, cited
from tasks.retrieval.prompts import PromptFormat, parse


def show(console: Console, answer: str, form: PromptFormat, sources: Sequence[Source]) -> None:
    """Print the passages that an answer was given from."""
    for line in lines(answer, form, sources):
        console.print(line, highlight=False)


def lines(answer: str, form: PromptFormat, sources: Sequence[Source]) -> Iterator[Text | Padding]:
    """Yield two lines for each passage: where it is from, and its text.

    Args:
        answer: the answer.
        form: the reader's format.
        sources: what it was shown.
    """
    reply = parse(answer, form)
    marked = {source.number for source, _, _ in cited(answer, form, sources)}
    if not sources:
        least = form.least_relevance
        said = "no passage was found" if least is None else f"no passage was found of a relevance of at least {least:g}"
        yield Text(said, style="dim")
    for source in sources:
        style = "green" if source.number in marked else "dim"
        head = Text(f"[{source.number}] ", style=f"bold {style}")
        head.append(source.place, style=style)
        head.append(f"  {source.start}–{source.end}, {source.licence}, {_score(source)}", style="dim")
        if source.number in marked:
            head.append("  cited", style="bold green")
        yield head
        text = Text(source.text.strip(), style="" if source.number in marked else "dim")
        if reply.quote and source.number in marked:
            text.highlight_words([reply.quote], style="bold green")
        yield Padding(text, (0, 0, 0, 4), expand=False)


def _score(source: Source) -> str:
    """Write a score with the share and the rank that each part of the index gave."""
    parts = [
        f"{part} {value:.3f}" + (f" (rank {source.ranks[part]})" if source.ranks.get(part) is not None else "")
        for part, value in source.parts.items()
    ]
    relevance = "" if source.relevance is None else f", relevance {source.relevance:.2f}"
    return f"{source.score:.3f} = {' + '.join(parts)}{relevance}"
