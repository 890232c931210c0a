"""What a source file imports, read from its syntax tree, and the graph that the folders form by it."""

import ast
from collections.abc import Iterator
from pathlib import Path


def _for_types_alone(node: ast.AST) -> bool:
    """Whether the body of this branch is read by type checkers and never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk the statements of a tree without what only type checkers read; an import is in no expression."""
    ahead = [tree]
    while ahead:
        node = ahead.pop()
        children = node.orelse if _for_types_alone(node) else ast.iter_child_nodes(node)  # type: ignore[attr-defined]
        for child in children:
            if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
                yield child
                ahead.append(child)


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports when it runs, inside functions too; `from a import b` is `a.b`.

    Raises:
        ValueError: for a relative import, whose target this does not follow.
    """
    names: set[str] = set()
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: a relative import; write the whole name")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(name: str) -> str:
    """The folder of a dotted name, or the module that lies in the package itself: its first two parts."""
    return ".".join(name.split(".")[:2])


def folder_graph(root: Path, packages: tuple[str, ...]) -> dict[str, set[str]]:
    """Each room of the packages below `root`, to the other rooms that its files import."""
    graph: dict[str, set[str]] = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            own = room(".".join(path.relative_to(root).with_suffix("").parts))
            graph.setdefault(own, set())
            graph[own] |= {room(name) for name in imports(path) if name.split(".")[0] in packages} - {own}
    return graph
