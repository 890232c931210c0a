"""Fingerprint: the code that decides each stage's result, as one small file a stage.

    python -m tasks.fingerprint params/tiny --out artifacts/code

writes `<stage module>.json`: the SHA-256 of every file that the module imports, directly or through others, of the
generators and graders that the recipe names, and of recipe files that may be missing (`report.yaml`); each stage of
`dvc.yaml` depends on its file. A Python file counts by its syntax tree without docstrings and comments, so a better
sentence changes no fingerprint, and a changed line changes those of the stages that import it. One raw file, shortened:

    {"stage": "data", "sha256": "9a0c…", "files": {"tasks/data.py": "51f2…", "tasks/generators/arithmetic.py": "77b1…"}}

What is left out: `tasks/stage/`, which decides where a stage's bytes go and not which, imports for type checkers alone,
and the versions of libraries (`infra/requirements.lock` pins them). An import by a computed name is not seen, but for
the names that a recipe gives, such as `generator: arithmetic.sums`.
"""

import argparse
import ast
import functools
import hashlib
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.stage import artifact, blocks, dag, recipe
from tasks.stage.errors import ConfigError, PolmError, refusal

log = logging.getLogger("polm")

PACKAGE = Path("tasks")
PLUMBING = PACKAGE / "stage"
"""Code that decides where bytes go and not which: a new error message must not retrain every model."""
GENERATORS = PACKAGE / "generators"
OWN = ("generators", "graders")
"""Modules that a recipe's folder may have, for generators and graders of the user's own."""
QUESTIONS = {"evaluate": "eval", "evaluate_rag": "rag"}
"""Stage module to the folder of a recipe with the tasks that it asks, each of which names a grader."""
WHOLE = {"report": ("report.yaml", "evaluate*.yaml")}
"""Stage module to the recipe files that count whole, as they may be missing, which DVC would refuse of a dependency."""
_NAMED = re.compile(r"(?<![\w/])([a-z]\w*)\.[A-Za-z_]\w*")  # `eval/digits.yaml` names a file


def fingerprint(module: str, folder: Path, files: list[Path]) -> dict[str, Any]:
    """Hash the code that decides the result of one stage module.

    Args:
        module: without the package: `sft`.
        folder: the recipe's folder.
        files: recipe files that the module reads.

    Returns:
        `stage`, `files` (path to SHA-256; a file of the recipe's own is named from the recipe's folder) and `sha256`
        of these.

    Raises:
        ConfigError: a file of code is missing, or does not parse.
    """
    starts = [PACKAGE / f"{module}.py", *named_code(folder, files)]
    hashes = {_name(path, folder): _sha256(path) for path in sorted(closure(starts))}
    whole = {path for pattern in WHOLE.get(module, ()) for path in folder.glob(pattern)}
    hashes |= {_name(path, folder): artifact.sha256(path) for path in sorted(whole)}
    text = json.dumps(hashes, sort_keys=True)
    return {"stage": module, "sha256": hashlib.sha256(text.encode()).hexdigest(), "files": hashes}


def named_code(folder: Path, files: list[Path]) -> set[Path]:
    """Files of the generators and graders that recipe files name as `module.function`, wherever the name stands."""
    own = {path.stem: path for path in folder.glob("*.py") if path.stem in OWN}
    modules = {path.stem: path for path in GENERATORS.glob("[a-z]*.py")} | own
    names = {name for path in files for name in _NAMED.findall(path.read_text(encoding="utf-8"))}
    return {modules[name] for name in names & modules.keys()}


def closure(starts: list[Path]) -> set[Path]:
    """The files, all that they import of `tasks`, and what lies beside those that is no Python (a page's style).

    An editor's own files (`.page.css.swp`, `page.css~`) do not count.
    """
    reached: set[Path] = set()
    queue = list(starts)
    while queue:
        path = queue.pop()
        if path in reached or PLUMBING in path.parents:
            continue
        reached.add(path)
        queue += imports(path)
    rooms = {path.parent for path in reached if PACKAGE in path.parent.parents}
    beside = {path for room in rooms for path in room.iterdir() if path.is_file() and path.suffix != ".py"}
    return reached | {path for path in beside if not path.name.startswith(".") and not path.name.endswith("~")}


@functools.cache
def imports(path: Path) -> frozenset[Path]:
    """Files of `tasks` that a file imports, also inside functions; imports under `if TYPE_CHECKING` are left out."""
    names: set[str] = set()
    for node in _walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    modules = [Path(*name.split(".")) for name in names if name.split(".")[0] == PACKAGE.name]
    files = {module.with_suffix(".py") for module in modules}
    packages = {package / "__init__.py" for module in modules for package in (module, *module.parents)}
    return frozenset(
        {file for file in files if file.exists()} | {init for init in packages if init.exists() and _has_code(init)}
    )


def _has_code(path: Path) -> bool:
    """Whether a file is more than its docstring, which is all that our own packages have."""
    return any(not _is_prose(statement) for statement in _tree(path).body)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node, without the bodies of `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        test = child.test if isinstance(child, ast.If) else None
        if not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            yield from _walk(child)


@functools.cache
def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"dvc.yaml: a stage runs {path}, which does not exist") from None
    except (SyntaxError, ValueError) as e:
        raise ConfigError(f"{path}: is no Python ({e})") from None


@functools.cache
def _sha256(path: Path) -> str:
    if path.suffix != ".py":
        return artifact.sha256(path)
    return hashlib.sha256(json.dumps(_canonical(_tree(path))).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """A syntax tree as lists, without prose, places and empty fields, which differ between versions of Python."""
    if isinstance(value, list):
        return [_canonical(item) for item in value if not _is_prose(item)]
    if isinstance(value, ast.AST):
        fields = [(name, _canonical(field)) for name, field in ast.iter_fields(value)]
        return [type(value).__name__, *([name, field] for name, field in fields if field not in (None, []))]
    return repr(value)


def _is_prose(node: Any) -> bool:
    """Whether a statement is a docstring: of a module, class or function, or below an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _name(path: Path, folder: Path) -> str:
    return path.name if path.parent == folder else path.as_posix()


def fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """The fingerprint of every stage module of `dvc.yaml`, for one recipe. Raises ConfigError."""
    stages = blocks.read()
    readers = dag.files(recipe.read(folder / recipe.FILE), stages)
    prints = {}
    for module in sorted({block.module for block in stages.values()}):
        files = [folder / name for name, reader in readers.items() if reader == module]
        if module in QUESTIONS:
            files += sorted((folder / QUESTIONS[module]).glob("*.yaml"))
        prints[module] = fingerprint(module, folder, [path for path in files if path.exists()])
    return prints


def main() -> None:
    """Run as a command. Exits 2 with one message for what a user can mend."""
    parser = argparse.ArgumentParser(prog="python -m tasks.fingerprint")
    parser.add_argument("recipe", type=Path, help="recipe folder, e.g. params/tiny")
    parser.add_argument("--out", type=Path, required=True, help="output artifact")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        dag.active()  # `dvc repro` itself passes over a misspelt key, and over a graph of another recipe
        prints = fingerprints(args.recipe)
        identity = hashlib.sha256(args.recipe.name.encode()).hexdigest()
        with (
            artifact.lock(args.out),
            artifact.writing(args.out, stage="fingerprint", params=identity, inputs={}) as temp,
        ):
            for module, content in prints.items():
                artifact.write_json(temp / f"{module}.json", content)
    except PolmError as e:
        log.error("error: %s", e)
        sys.exit(2)
    except OSError as e:
        log.error("error: %s", refusal(e) or e)
        sys.exit(2)


if __name__ == "__main__":
    main()
