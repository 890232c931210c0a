"""Functions of a recipe's own: `generators.py` and `graders.py` in its folder, which its files name as
`generators.tickets` and `graders.exact`."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tasks.stage.errors import ConfigError


def functions(folder: Path, module: str) -> dict[str, Callable[..., Any]]:
    """Public functions that a recipe's own file defines.

    Args:
        folder: the recipe's folder.
        module: `generators` or `graders`.

    Returns:
        `module.function` to function; empty when the recipe has no such file.

    Raises:
        ConfigError: the file cannot be imported.
    """
    path = folder / f"{module}.py"
    if not path.is_file():
        return {}
    loaded = _load(path)
    return {
        f"{module}.{name}": function
        for name, function in inspect.getmembers(loaded, inspect.isfunction)
        if function.__module__ == loaded.__name__ and not name.startswith("_")
    }


def _load(path: Path) -> ModuleType:
    name = f"polm_recipe_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except (Exception, SystemExit) as e:  # a script's `sys.exit(0)` would end the check as passed
        del sys.modules[name]
        raise ConfigError(f"{path}: cannot be imported: {type(e).__name__}: {e}") from e
    return loaded
