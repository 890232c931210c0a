"""Questions about the Python standard library, answered by the first sentence of the docstring (PSF-2.0).

Real text that every installation holds. What a module documents depends on the Python minor version, so the rows do
too: on another version the data differ, and `dvc.lock` with them. One raw row:

    {"question": "What does `textwrap.dedent` do?", "answer": "Remove any common leading whitespace from every line in
     `text`.", "wrong": "Fill a single paragraph of text, returning a new string.", "name": "textwrap.dedent",
     "group": "Remove any common leading …"}

`wrong` is the sentence of another name of the same module. `group` is the answer, so that two names of one function
(`asyncio.gather`, `asyncio.tasks.gather`) are never parted.
"""

import importlib
import inspect
import random
import re
from collections.abc import Iterator
from typing import Any

QUESTIONS = ("What does `{name}` do?", "What is `{name}` for?")
_SENTENCE = re.compile(r"^([A-Z][^\n]*?(?:\n[^\n]+?)*?[a-z0-9)`'\"]\.)(?:\s|$)")


def functions(modules: list[str], seed: int, shortest: int, longest: int) -> Iterator[dict[str, Any]]:
    """Yield documented public functions, classes and methods, sorted by name.

    Args:
        modules: names of modules to import, all of the standard library.
        seed: seed of the wording and of the wrong answers.
        shortest: fewest characters of an answer.
        longest: most characters of an answer.
    """
    rng = random.Random(seed)
    for module_name in sorted(modules):
        sentences = {}
        for name, doc in sorted(_documented(module_name)):
            sentence = _first_sentence(doc)
            if sentence and shortest <= len(sentence) <= longest:
                sentences[name] = sentence
        for name, answer in sentences.items():
            others = sorted(set(sentences.values()) - {answer})
            if others:
                question = rng.choice(QUESTIONS).format(name=name)
                wrong = rng.choice(others)
                yield {"question": question, "answer": answer, "wrong": wrong, "name": name, "group": answer}


def _documented(module_name: str) -> Iterator[tuple[str, str]]:
    """Yield dotted names and docstrings of what a module defines; methods of its classes, not inherited ones."""
    module = importlib.import_module(module_name)
    for name, thing in vars(module).items():
        if name.startswith("_") or not (inspect.isroutine(thing) or inspect.isclass(thing)) or not thing.__doc__:
            continue
        if getattr(thing, "__module__", None) not in (module_name, f"_{module_name}"):
            continue
        prefix = "" if module_name == "builtins" else f"{module_name}."
        yield f"{prefix}{name}", inspect.cleandoc(thing.__doc__)
        if inspect.isclass(thing):
            for method, inner in vars(thing).items():
                doc = getattr(inner, "__doc__", None)
                routine = inspect.isroutine(inner) or isinstance(inner, property | classmethod | staticmethod)
                if routine and isinstance(doc, str) and not method.startswith("_"):
                    yield f"{prefix}{name}.{method}", inspect.cleandoc(doc)


def _first_sentence(doc: str) -> str | None:
    """Find the first sentence, on one line; None when the docstring starts with a signature or has no sentence."""
    match = _SENTENCE.match(doc)
    return " ".join(match.group(1).split()) if match else None
