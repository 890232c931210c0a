"""Entries of Python's library reference: an object's signature, the version that added it, and its description.

They are read from the reStructuredText that Debian's `python3.11-doc` installs (PSF-2.0), or, where that is missing,
from the docstrings and signatures of the Python that runs this. Left out is what stands outside of an object's entry:
introductions, tutorials, recipes. The text that is made of an entry begins with what is asked about:

    textwrap.shorten(text, width, *, fix_sentence_endings=False, placeholder=' [...]')
    textwrap.shorten: new in version 3.4.
    Collapse and truncate the given text to fit in the given width.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLABLES = (
    "function", "method", "class", "classmethod", "staticmethod", "decorator", "coroutinefunction", "coroutinemethod",
    "abstractmethod", "awaitablefunction", "awaitablemethod",
)  # fmt: skip
"""Directives of what can be called."""
OBJECTS = (*CALLABLES, "exception", "data", "attribute")
"""Directives that begin an entry."""
SAID = {
    "versionadded": "New in version {}",
    "versionchanged": "Changed in version {}",
    "deprecated": "Deprecated since version {}",
}
"""Directives of versions, and what Sphinx says for them."""
DROPPED = (
    "index", "highlight", "testsetup", "testcleanup", "sectionauthor", "moduleauthor", "literalinclude", "image",
    "figure", "tabularcolumns", "toctree", "contents", "program", "include", "module", "currentmodule",
)  # fmt: skip
"""Directives that are no text."""
_DIRECTIVE = re.compile(r"^(\s*)\.\. (?:[a-z]+:)?([\w-]+)::\s*(.*)$")
_INLINE = re.compile(
    r"``(.+?)``|:[\w:+.-]+:`([^`]+)`|`([^`<]+?)\s*<[^`>]+>`__?|`([^`]+)`_{0,2}|(?<!\w)\*\*([^*\s][^*]*?)\*\*"
    r"|(?<![\w*])\*([^*\s](?:[^*]*?[^*\s])?)\*(?!\w)|\\(.)|\[#?\w*\]_"
)


@dataclass(frozen=True)
class Entry:
    """One documented object."""

    name: str
    """Qualified: `textwrap.shorten`."""
    page: str
    """Where it is documented: `library/textwrap`."""
    callable: bool
    """Whether it can be called."""
    signatures: tuple[str, ...]
    """How it is written, with the qualified name."""
    added: str
    """Version that added it, as `3.4`; empty where its entry does not say."""
    paragraphs: tuple[str, ...]
    """The description, without markup."""

    @property
    def head(self) -> str:
        """Signature, version and first paragraph, a line each: what questions are asked about."""
        return "\n".join([*self.signatures, *([self.version] if self.added else []), *self.paragraphs[:1]])

    @property
    def version(self) -> str:
        """The line that says which version added it."""
        return f"{self.name}: new in version {self.added}."

    @property
    def text(self) -> str:
        """The whole entry, with blank lines between paragraphs."""
        return "\n\n".join([self.head, *self.paragraphs[1:]]) + "\n"


def read(folder: Path, modules: Sequence[str]) -> list[Entry]:
    """Read the entries of pages `<module>.rst.txt`, in the order of the names and of the pages.

    Raises:
        FileNotFoundError: there is no page of a module.
    """
    return [
        entry
        for module in sorted(modules)
        for entry in parse((folder / f"{module}.rst.txt").read_text(encoding="utf-8"), f"library/{module}")
    ]


def parse(text: str, page: str) -> list[Entry]:
    """Read the entries of one page of reStructuredText."""
    lines = text.expandtabs(8).splitlines()
    entries: list[Entry] = []
    module, owners = "", [(-1, "")]
    for at, line in enumerate(lines):
        directive = _DIRECTIVE.match(line)
        if not directive:
            continue
        indent, kind, argument = len(directive[1]), directive[2], directive[3].strip()
        if kind in ("module", "currentmodule"):
            module = argument
        if kind not in OBJECTS:
            continue
        block = _block(lines, at)
        signatures = [argument]
        while block and block[0].strip() and not block[0].strip().startswith(":"):
            more = block.pop(0).strip()
            if signatures[-1].endswith("\\"):
                signatures[-1] = f"{signatures[-1][:-1].rstrip()} {more}"
            else:
                signatures.append(more)
        while owners[-1][0] >= indent:
            owners.pop()
        prefix = owners[-1][1] or ("" if module == "builtins" or not module else f"{module}.")
        first = signatures[0].split("(")[0].split(" ")[0].strip()
        owners.append((indent, f"{prefix}{first}." if kind == "class" else prefix))
        added = [line.strip() for line in _own(block) if line.strip().startswith(".. versionadded::")]
        bare = [one.split("::")[1].strip() for one in added]
        alone = len(bare) == 1 and re.fullmatch(r"\d+\.\d+(\.\d+)?", bare[0]) and not _has_content(block, added[0])
        paragraphs = tuple(p for p in _paragraphs(_own(block)) if not (alone and p == f"New in version {bare[0]}."))
        entries.append(
            Entry(
                name=f"{prefix}{first}",
                page=page,
                callable=kind in CALLABLES,
                signatures=tuple(("class " if kind == "class" else "") + prefix + s for s in signatures),
                added=bare[0] if alone else "",
                paragraphs=paragraphs,
            )
        )
    return entries


def plain(text: str) -> str:
    """Take the inline markup of reStructuredText out of a text."""

    def shown(match: re.Match[str]) -> str:
        literal, role, link, bare, strong, emphasis, escaped = match.groups()
        if role is not None:
            title = role.split("<")[0].strip() or role
            return title.lstrip("!~").rpartition(".")[2] if title.startswith("~") else title.lstrip("!")
        return next((part for part in (literal, link, bare, strong, emphasis, escaped) if part is not None), "")

    return _INLINE.sub(shown, text).replace("---", "\u2014")


def _block(lines: Sequence[str], at: int) -> list[str]:
    """Lines below a directive that belong to it."""
    indent = len(lines[at]) - len(lines[at].lstrip())
    end = at + 1
    while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
        end += 1
    return list(lines[at + 1 : end])


def _own(block: Sequence[str]) -> list[str]:
    """Lines of a block without the entries inside it."""
    kept, at = [], 0
    while at < len(block):
        directive = _DIRECTIVE.match(block[at])
        if directive and directive[2] in OBJECTS:
            at += len(_block(block, at)) + 1
        else:
            kept.append(block[at])
            at += 1
    return kept


def _has_content(block: Sequence[str], line: str) -> bool:
    at = next(i for i, other in enumerate(block) if other.strip() == line)
    return any(part.strip() for part in _block(block, at))


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
    """Paragraphs of a block, without markup; of code blocks the lines are kept."""
    at, code_below = 0, -1
    while at < len(lines):
        line = lines[at]
        indent = len(line) - len(line.lstrip())
        directive = _DIRECTIVE.match(line)
        if not line.strip() or re.match(r"^\s*:[\w-]+:(?!`)", line):
            at += 1
        elif directive and directive[2] in SAID:
            below = _block(lines, at)
            said = SAID[directive[2]].format(directive[3].split(" ")[0] if directive[3] else "")
            more = " ".join([directive[3].partition(" ")[2], *_paragraphs(below)]).strip()
            yield f"{said}: {plain(more)}" if more else f"{said}."
            at += len(below) + 1
        elif directive:
            below = _block(lines, at)
            if directive[2] == "availability":
                yield f"Availability: {plain(directive[3])}"
            elif directive[2] not in DROPPED:
                argument = directive[3] if directive[2] in ("note", "warning", "seealso", "rubric") else ""
                yield from _paragraphs([" " * (indent + 3) + argument, *below])
            at += len(below) + 1
        elif line.lstrip().startswith(".. "):
            at += len(_block(lines, at)) + 1
        else:
            end = at
            while end < len(lines) and lines[end].strip() and not _DIRECTIVE.match(lines[end]):
                end += 1
            part = lines[at:end]
            if 0 <= code_below < indent:
                yield inspect.cleandoc("\n".join(part))
            else:
                text = plain(" ".join(" ".join(part).split()))
                code_below = indent if text.endswith("::") else -1
                if text != "::":
                    yield text.removesuffix(":") if text.endswith("::") else text
            at = end


def of_docstrings(modules: Sequence[str]) -> list[Entry]:
    """Read entries from the docstrings and signatures of what modules define, and of the methods of their classes."""
    entries = []
    for module in sorted(modules):
        try:
            loaded = importlib.import_module(module)
        except ImportError:  # a page that is of no module, or a module of another system
            continue
        prefix = "" if module == "builtins" else f"{module}."
        for name, thing in sorted(vars(loaded).items()):
            if name.startswith("_") or getattr(thing, "__module__", None) not in (module, f"_{module}"):
                continue
            entries += _documented(prefix + name, thing, f"library/{module}")
            for inner, member in sorted(vars(thing).items()) if inspect.isclass(thing) else ():
                if not inner.startswith("_") and inspect.isroutine(member):
                    entries += _documented(f"{prefix}{name}.{inner}", member, f"library/{module}")
    return entries


def _documented(name: str, thing: object, page: str) -> list[Entry]:
    doc = getattr(thing, "__doc__", None)
    if not callable(thing) or not isinstance(doc, str) or not doc.strip():
        return []
    try:
        signature = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return []
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", inspect.cleandoc(doc)) if part.strip()]
    return [Entry(name, page, True, (f"{name}{signature}",), "", tuple(paragraphs))]
