"""reStructuredText, by docutils: sections are titles. No file is included, no raw output is let through.

Sphinx has roles and directives of its own, which docutils does not know. Their text is kept: a role counts by its
words, a directive by its name, its arguments and what stands in it.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from tasks.retrieval.extracted import Draft, Extracted

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,  # what it cannot read stays as text
    "halt_level": 5,
    "doctitle_xform": False,  # a single heading is one like others
    "docinfo_xform": False,
    "smart_quotes": False,
    "syntax_highlight": "none",
    "_disable_config": True,  # a docutils.conf of the user would change the text
}
_DIRECTIVE = re.compile(r"^[ \t]*\.\.[ \t]+(?:\|[^|\n]+\|[ \t]+)?([A-Za-z][\w.+:-]*?)[ \t]?::(?=\s|$)", re.M)
_ROLE = re.compile(r":([A-Za-z][\w.+:-]*?):`|`:([A-Za-z][\w.+:-]*?):")
_TARGET = re.compile(r"(.*?)\s*<[^<>]*>", re.S)
_OBJECTS = {
    "attribute", "class", "classmethod", "cmdoption", "confval", "data", "decorator", "decoratormethod",
    "describe", "envvar", "exception", "function", "macro", "member", "method", "object", "opcode", "option",
    "pdbcommand", "program", "property", "staticmethod", "struct", "type", "var",
}  # fmt: skip
"""Directives of Sphinx that describe a thing: its name is a heading above the description."""
_CODE = ("code-block", "sourcecode")
"""Directives whose options in Sphinx are others than in docutils."""
_TITLE = "object_title"


def read_rst(text: str, limit: int) -> Extracted:
    """Read reStructuredText.

    Args:
        text: with `\\n` at the ends of lines.
        limit: most characters.

    Raises:
        Unreadable: more characters than the limit.
    """
    from docutils.core import publish_doctree

    draft = Draft(limit)
    with _knowing(text):
        tree = publish_doctree(text, settings_overrides=_SETTINGS)
    _walk(tree, draft, 0)
    return draft.finish()


@contextlib.contextmanager
def _knowing(text: str) -> Iterator[None]:
    """Make docutils know the roles and directives that a text names, as long as this text is read and no longer.

    It keeps them for the whole process, also those that a document defines: the next one would read otherwise.
    """
    from docutils.parsers.rst import directives, roles
    from docutils.parsers.rst.languages import en

    tables = (directives._directives, roles._roles)
    before = [dict(table) for table in tables]
    known = {*en.directives, *directives._directive_registry}
    for name in {name.lower() for name in _DIRECTIVE.findall(text)} - known:
        directives.register_directive(name, _directive())
    directives.register_directive("raw", _directive(silent=True))
    for name in _CODE:
        directives.register_directive(name, _directive(code=True))
    known = {*en.roles, *roles._role_registry}
    for name in {(first or second).lower() for first, second in _ROLE.findall(text)} - known:
        roles.register_local_role(name, _role)
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)


def _role(name: str, raw: str, text: str, *rest: Any, **more: Any) -> tuple[list[Any], list[Any]]:
    """Keep a role's words: `title <target>` counts by its title, `~json.dumps` by its last part."""
    from docutils import nodes, utils

    words = utils.unescape(text)
    if target := _TARGET.fullmatch(words):
        words = target[1] or words
    elif words.startswith("~"):
        words = words.rpartition(".")[2].lstrip("~")
    return [nodes.inline(raw, words.lstrip("!"))], []


def _directive(*, silent: bool = False, code: bool = False) -> Any:
    """Make a directive that keeps its arguments and what stands in it, the latter alone as code, or nothing."""
    from docutils import nodes
    from docutils.parsers.rst import Directive

    class Kept(Directive):
        optional_arguments = 1
        final_argument_whitespace = True
        has_content = True

        def run(self) -> list[Any]:
            if silent:
                return []
            if code:
                text = "\n".join(self.content)
                return [nodes.literal_block(text, text)]
            name = self.name.rpartition(":")[2]
            arguments = " ".join(self.arguments)
            section = nodes.container()
            if name in _OBJECTS and arguments:
                section[_TITLE] = arguments
            else:
                inline, _ = self.state.inline_text(arguments, self.lineno)
                section += nodes.paragraph("", "", nodes.Text(f"{name}: " if arguments else name), *inline)
            self.state.nested_parse(self.content, self.content_offset, section)
            return [section]

    return Kept


def _walk(node: Any, draft: Draft, depth: int) -> None:
    """Write a part of the tree. `depth`: sections around it."""
    from docutils import nodes

    if isinstance(node, (nodes.comment, nodes.substitution_definition, nodes.pending)):
        return
    if isinstance(node, nodes.system_message):  # the text that could not be read stands below the complaint
        for child in node.findall(nodes.literal_block):
            draft.block(child.astext(), lines=True)
    elif isinstance(node, nodes.title) and isinstance(node.parent, nodes.section):
        draft.heading(depth, node.astext())
    elif isinstance(node, nodes.row):
        cells = (" ".join(cell.astext().split()) for cell in node.children)
        draft.block(" | ".join(cell for cell in cells if cell))
    elif isinstance(node, nodes.FixedTextElement):
        draft.block(node.astext(), lines=True)
    elif isinstance(node, nodes.TextElement):
        draft.block(node.astext())
    elif isinstance(node, nodes.image):
        draft.block(node.get("alt", ""))
    elif isinstance(node, nodes.section):
        _walk_children(node, draft, depth + 1)
        draft.heading(depth + 1, "")
    elif isinstance(node, nodes.Element) and node.get(_TITLE):
        draft.heading(depth + 1, node[_TITLE])
        _walk_children(node, draft, depth + 1)
        draft.heading(depth + 1, "")
    elif isinstance(node, nodes.Element):
        _walk_children(node, draft, depth)
    elif isinstance(node, nodes.Text):
        draft.block(node.astext())


def _walk_children(node: Any, draft: Draft, depth: int) -> None:
    for child in node.children:
        _walk(child, draft, depth)
