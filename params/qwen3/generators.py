"""HotpotQA as this recipe reads it: its paragraphs as documents, and the questions that one sentence of them answers.

HotpotQA (Yang et al., arXiv:1809.09600, CC-BY-SA-4.0) gives each question ten paragraphs of Wikipedia, two of which
hold what is needed. One raw row of each generator:

    documents  {"name": "Ada Pell.txt", "text": "Ada Pell\\n\\nAda Pell was a chemist. She lived in Olvar."}
    questions  {"question": "Where did the chemist who …", "answer": "Olvar", "subject": "Ada Pell",
                "document": "Ada Pell.txt", "quote": "She lived in Olvar.", "kind": "name", "level": "hard"}

A question's document is the paragraph with the supporting sentence that holds its answer word for word. Left out, and
counted in the log, are answers that stand in no supporting sentence (yes and no, most comparisons) or in several. So
the passage that is graded is the last hop; the first one may be found beside it or not.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingestion.sources import HubSource, read

log = logging.getLogger("polm")


def documents(hub: str, revision: str, config: str | None, splits: dict[str, int | None]) -> Iterator[dict[str, str]]:
    """Yield the paragraphs of every split, each title once: the first.

    Args:
        hub: id of the data set; a folder of that relative path stands in for it.
        revision: commit, tag or branch.
        config: its configuration.
        splits: split to the rows read of it from the start; null: all.
    """
    known: set[str] = set()
    for split, rows in splits.items():
        for row in _rows(hub, revision, config, split, rows):
            for title, sentences in zip(row["context"]["title"], row["context"]["sentences"], strict=True):
                text = "".join(sentences).strip()
                if text and title not in known:
                    known.add(title)
                    yield {"name": _name(title), "text": f"{title}\n\n{text}"}


def questions(hub: str, revision: str, config: str | None, split: str, rows: int | None) -> Iterator[dict[str, str]]:
    """Yield the questions of a split that one supporting sentence answers; arguments as of `documents`."""
    counts: Counter[str] = Counter()
    for row in _rows(hub, revision, config, split, rows):
        holding = _holding(row)
        fate = "asked" if len(holding) == 1 else "in several sentences" if holding else "in no sentence"
        counts[fate] += 1
        if fate != "asked":
            continue
        title, sentence = holding[0]
        yield {
            "question": row["question"],
            "answer": row["answer"],
            "subject": title,
            "document": _name(title),
            "quote": sentence,
            "kind": "number" if re.search(r"\d", row["answer"]) else "name",
            "level": row["level"],
        }
    log.info("%s, %s: %s", hub, split, ", ".join(f"{count} {fate}" for fate, count in sorted(counts.items())))


def _rows(hub: str, revision: str, config: str | None, split: str, rows: int | None) -> Iterator[dict[str, Any]]:
    source = HubSource(
        hub=hub, revision=revision, config=config, split=split, streaming=False, rows=rows, licence="CC-BY-SA-4.0"
    )
    table = read(hub, source, Path(__file__).parent)
    return (line.row for line in table.lines)


def _holding(row: dict[str, Any]) -> list[tuple[str, str]]:
    """List titles and supporting sentences in which a row's answer stands as a word."""
    context = dict(zip(row["context"]["title"], row["context"]["sentences"], strict=True))
    facts = zip(row["supporting_facts"]["title"], row["supporting_facts"]["sent_id"], strict=True)
    answer = re.compile(rf"(?<!\w){re.escape(row['answer'])}(?!\w)")
    sentences = [
        (title, context[title][at].strip()) for title, at in facts if title in context and at < len(context[title])
    ]
    return [(title, sentence) for title, sentence in dict.fromkeys(sentences) if answer.search(sentence)]


def _name(title: str) -> str:
    """Write a title as the name of a document: no two titles share one."""
    return title.replace("%", "%25").replace("/", "%2F").replace("\\", "%5C") + ".txt"
