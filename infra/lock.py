"""Print the versions installed here of everything that polm needs, as a requirements file.

Walks the requirements of `pyproject.toml` and its extras `dev` and `speech` through the installed packages' metadata,
so that what else happens to be installed stays out. Local version tags (`+cpu`) are cut: the lock serves machines with
a GPU too.
"""

import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(roots: list[str]) -> dict[str, str]:
    """Name to version of every installed distribution that `roots` need on this platform."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    queue = [Requirement(r) for r in roots]
    while queue:
        requirement = queue.pop()
        for extra in ("", *requirement.extras):
            name = canonicalize_name(requirement.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            found = distribution(name)
            versions[name] = found.version.partition("+")[0]
            needs = [Requirement(r) for r in found.requires or []]
            queue += [r for r in needs if r.marker is None or r.marker.evaluate({"extra": extra})]
    return versions


project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
locked = closure([*project["dependencies"], *extras["dev"], *extras["speech"]])
sys.stdout.write("# Versions that work together. `make lock` rewrites this file from .venv.\n")
sys.stdout.writelines(f"{name}=={version}\n" for name, version in sorted(locked.items()))
