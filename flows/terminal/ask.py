"""`polm ask`: one question to a reader, its answer, and the passages that it was given from."""

import json
import sys
from collections.abc import Sequence

from rich.console import Console

from flows import workspace
from flows.serving import source_view
from flows.serving.chat import question_from
from flows.serving.grounded import cited
from flows.serving.reading import Reader, reader
from tasks.retrieval.prompts import parse
from tasks.stage.errors import DataError


def main(
    words: Sequence[str],
    model: str | None,
    index: str | None,
    *,
    as_json: bool,
    max_new_tokens: int,
    temperature: float,
) -> None:
    """Ask one question and print what comes of it.

    Args:
        words: the question; without any it comes from a pipe.
        model: name of a reader of the workspace; None takes the champion.
        index: name of an index of the workspace; None takes the reader's own.
        as_json: whether to print one JSON object.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the likeliest token, above it samples.

    Raises:
        DataError: there is no question, or it is too long.
        GateError: see `flows.serving.reading.reader`.
        ModelError: the model cannot be loaded, or failed.
    """
    workspace.enter(writes=False)
    question = question_from(words, sys.stdin)
    if question is None:
        raise DataError("there is no question; ask like this: polm ask 'Where does Bexot live?'")
    with reader(model, index, max_new_tokens=max_new_tokens, temperature=temperature) as opened:
        if as_json:
            sys.stdout.write(f"{json.dumps(record(opened, question), ensure_ascii=False, indent=2)}\n")
        else:
            ask(opened, question, Console())


def ask(opened: Reader, question: str, console: Console) -> None:
    """Print the answer as it comes, and then its passages."""
    answer = ""
    for text in opened.ask(question):
        answer += text
        console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)
        console.file.flush()
    console.print("\n")
    assert opened.grounded is not None
    source_view.show(console, answer, opened.form, opened.grounded.sources)


def record(opened: Reader, question: str) -> dict[str, object]:
    """Ask, and write the answer and its passages as JSON.

    Returns:
        `question`, `text` (all that the model said), `answer`, `quote`, `abstained`, `cited` (numbers of passages),
        `sources`, `seconds` of the search, and `reader`.
    """
    text = "".join(opened.ask(question))
    assert opened.grounded is not None
    reply = parse(text, opened.form)
    sources = opened.grounded.sources
    numbers = [source.number for source, _, _ in cited(text, opened.form, sources)]
    return {
        "question": question,
        "text": text,
        "answer": reply.answer,
        "quote": reply.quote,
        "abstained": reply.abstained,
        "cited": list(dict.fromkeys(numbers)),
        "sources": [source.record() for source in sources],
        "seconds": dict(opened.grounded.seconds),
        "reader": opened.title,
    }
