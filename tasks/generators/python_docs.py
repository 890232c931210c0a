"""Questions about Python's library that its documentation answers in a word.

The documents are entries of the reference (`tasks/generators/python_entries.py`), one each. One raw row:

    {"question": "In which version of Python was textwrap.shorten added?", "answer": "3.4",
     "subject": "textwrap.shorten", "document": "pydocs/library/textwrap/textwrap.shorten.txt",
     "quote": "textwrap.shorten: new in version 3.4.", "kind": "version", "family": "version 0",
     "group": "textwrap.shorten"}

A question is asked only where its answer is the only one: an object with one entry and one signature, a literal that
stands once in it, a sentence with one exception whose condition needs no sentence before it. Objects are in one part
alone, and the test's wordings are of other families than the training's. What no entry says is asked too, of functions
without a version; `answer`, `document` and `quote` are then empty. The documentation decides: it calls the first
parameter of `hasattr` `object`, and the code calls it `obj`.
"""

import hashlib
import logging
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tasks.generators.python_entries import Entry, of_docstrings, read

log = logging.getLogger("polm")

Part = Literal["train", "test"]
SOURCE = "pydocs"
"""First part of a document's id: the name under which recipes list this source."""


class Kind(NamedTuple):
    """One kind of question."""

    asked: tuple[str, ...]
    """Wordings of the training, with `{name}`, `{parameter}` or `{condition}`."""
    held_out: tuple[str, ...]
    """Wordings of the test."""


KINDS: dict[str, Kind] = {
    "default": Kind(
        (
            "What is the default value of the parameter {parameter} of {name}?",
            "Which value does {parameter} have by default in {name}?",
            "In {name}, what does {parameter} default to?",
        ),
        (
            "If {name} is called without {parameter}, which value is used for it?",
            "What does {name} take for {parameter} when it is not given?",
        ),
    ),
    "version": Kind(
        (
            "In which version of Python was {name} added?",
            "Since which version of Python is there {name}?",
            "Which version of Python introduced {name}?",
        ),
        (
            "From which Python version on can {name} be used?",
            "{name} is available since which release of Python?",
        ),
    ),
    "exception": Kind(
        (
            "Which exception does {name} raise {condition}?",
            "What does {name} raise {condition}?",
            "What is raised by {name} {condition}?",
        ),
        (
            "Name the exception that comes from {name} {condition}.",
            "With which error does {name} fail {condition}?",
        ),
    ),
    "parameter": Kind(
        (
            "What is the first parameter of {name} called?",
            "What is the name of the first parameter of {name}?",
            "Name the first parameter of {name}.",
        ),
        ("Which parameter of {name} comes first?", "How is the parameter called that {name} takes first?"),
    ),
}
_LITERAL = re.compile(r"[0-9]+(?:\.[0-9]+)?|True|False|'(?!(?:an?|the)')[\w-]*\w[\w-]*'|[A-Z_]{3,}")
"""Defaults that are asked for: numbers, strings of a word, names of constants. `None` could be guessed."""
_STRANGE = re.compile(r"[^\w.-]")
"""What the name of a file does without."""
_PARAMETER = re.compile(r"[a-z]\w*")
_EXCEPTION = r"(?:[a-z_]+\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Iteration|Empty|Full)"
_ANSWER = rf"(?:an? |the )?(?P<answer>{_EXCEPTION})(?: exception)?"
_BEFORE, _BEHIND = "(?P<condition>(?:If|When) .+)", "(?P<condition>(?:if|when) .+)"
_SENTENCES = tuple(
    map(
        re.compile,
        (
            rf"(?:It )?[Rr]aises? {_ANSWER} {_BEHIND}\.",
            rf"{_BEFORE}, (?:then )?{_ANSWER} (?:is|will be) raised\.",
            rf"{_BEFORE}, (?:it )?raises? {_ANSWER}\.",
            rf"(?:An? |The )?{_ANSWER} (?:is|will be) raised {_BEHIND}\.",
        ),
    )
)
"""Sentences that say what is raised, and when."""
_POINTS_BACK = re.compile(
    r"\b(?:it|its|they|their|this|that|these|those|such|then|also|same|above|below|otherwise|not so)\b", re.I
)
"""Words by which a condition leans on a sentence before it."""


def documents(folder: str, modules: list[str]) -> Iterator[dict[str, str]]:
    """Yield one text an entry, `{"name": "library/textwrap/textwrap.shorten.txt", "text": …}`.

    Args:
        folder: of the reference's sources, `<module>.rst.txt`; where it is missing, docstrings are read, with a
            warning.
        modules: pages of it, most of them named after modules.
    """
    for name, entry in _named(_entries(folder, modules)):
        yield {"name": name, "text": entry.text}


def questions(
    folder: str,
    modules: list[str],
    part: Part,
    test_share: float,
    seed: int,
    wordings: int,
    longest: int,
    unanswerable: float,
) -> Iterator[dict[str, Any]]:
    """Yield questions about the objects of one part, in the order of the entries.

    Args:
        folder: as for `documents`, and so are `modules`.
        modules: as for `documents`.
        part: whose objects are asked about, and in whose wordings.
        test_share: share of the objects that are in `test` alone, 0 to 1.
        seed: of the wordings.
        wordings: wordings in which each fact is asked, at most as many as the part has.
        longest: most words of signature, version and first paragraph together, so that one passage holds them.
        unanswerable: share of the functions without a version that are asked for it, 0 to 1.
    """
    entries = _entries(folder, modules)
    rng = random.Random(f"{seed} {part}")
    times = Counter(entry.name for entry in entries)
    dated = {entry.page for entry in entries if entry.added}
    for name, entry in _named(entries):
        if times[entry.name] > 1 or (_place(entry.name) < test_share) != (part == "test"):
            continue
        facts = list(_facts(entry)) if len(entry.head.split()) <= longest else []
        if not entry.added and entry.page in dated and _is_silent(entry) and rng.random() < unanswerable:
            facts.append(("version", "", "", {}))
        for kind, answer, quote, columns in facts:
            phrases = KINDS[kind].asked if part == "train" else KINDS[kind].held_out
            for at in sorted(rng.sample(range(len(phrases)), min(wordings, len(phrases)))):
                yield {
                    "question": phrases[at].format(name=entry.name, **columns),
                    "answer": answer,
                    "subject": entry.name,
                    "document": f"{SOURCE}/{name}" if answer else "",
                    "quote": quote,
                    "kind": kind,
                    "family": f"{'held out ' if part == 'test' else ''}{kind} {at}",
                    "group": entry.name,
                }


def _entries(folder: str, modules: list[str]) -> list[Entry]:
    if Path(folder).is_dir():
        return read(Path(folder), modules)
    log.warning(
        "warning: %s is missing (apt-get install python3.11-doc): the docstrings of this Python are read in its place, "
        "which name no versions",
        folder,
    )
    return of_docstrings(modules)


def _named(entries: list[Entry]) -> Iterator[tuple[str, Entry]]:
    """Name the document of each entry; of entries with one name the second one gets a 2."""
    seen: Counter[str] = Counter()
    for entry in entries:
        name = f"{entry.page}/{_STRANGE.sub('_', entry.name)}"
        seen[name] += 1
        yield f"{name}{'' if seen[name] == 1 else f'-{seen[name]}'}.txt", entry


def _facts(entry: Entry) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield kind, answer, quote and what the wording names, of each fact that can be asked about."""
    if entry.added:
        yield "version", entry.added, entry.version, {}
    if entry.callable and len(entry.signatures) == 1:
        yield from _of_signature(entry.signatures[0])
    for sentence in _split(entry.paragraphs[0]) if entry.paragraphs and entry.callable else ():
        yield from _of_sentence(sentence)


def _of_signature(signature: str) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    inside = signature.partition("(")[2].rpartition(")")[0]
    parameters = _parameters(inside)
    if not parameters or "[" in re.sub(r"'[^']*'", "", inside):
        return  # optional parameters in brackets have no defaults, and may stand before the first
    first = parameters[0].partition("=")[0].partition(":")[0].strip()
    if _PARAMETER.fullmatch(first) and first not in ("self", "cls") and len(parameters) > 1:
        yield "parameter", first, signature, {}
    for parameter in parameters:
        name, equals, default = (part.strip() for part in parameter.partition("="))
        if equals and _PARAMETER.fullmatch(name) and _LITERAL.fullmatch(default):
            answer = default.strip("'")
            if len(re.findall(rf"(?<!\w){re.escape(answer)}(?!\w)", signature)) == 1:
                yield "default", answer, signature, {"parameter": name}


def _parameters(inside: str) -> list[str]:
    """Split the inside of a signature at the commas that stand in no bracket and no string."""
    parts, depth, quoted = [""], 0, ""
    for letter in inside:
        if quoted:
            quoted = "" if letter == quoted else quoted
        elif letter in "'\"":
            quoted = letter
        depth += (letter in "([{") - (letter in ")]}") if not quoted else 0
        if letter == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _of_sentence(sentence: str) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    found = re.findall(rf"\b{_EXCEPTION}\b", sentence)
    if len(found) != 1:
        return
    for pattern in _SENTENCES:
        if match := pattern.fullmatch(sentence):
            condition = match["condition"][0].lower() + match["condition"][1:]
            if not _POINTS_BACK.search(condition) and len(condition.split()) <= 20 and ";" not in condition:
                yield "exception", match["answer"].rpartition(".")[2], sentence, {"condition": condition}
            return


def _split(paragraph: str) -> list[str]:
    """Split a paragraph into sentences."""
    return re.split(r"(?<=[.!?:])\s+(?=[A-Z])", paragraph)


def _is_silent(entry: Entry) -> bool:
    """Whether the entry of a function says nothing of versions; a method may have come with its class."""
    function = entry.callable and not entry.signatures[0].startswith("class ") and entry.name.count(".") <= 1
    return function and "version" not in entry.text.lower()


def _place(name: str) -> float:
    """Place a name from 0 to 1, for good."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
