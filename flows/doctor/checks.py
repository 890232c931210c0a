"""`polm doctor`: what would stop a run, found in seconds and with a remedy, before the first expensive step.

Each check is a function that yields findings. `fail` is kept for what makes a run impossible; the exit code is 1 then.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows import workspace
from flows.doctor import machine, optional, shared
from flows.doctor.machine import BASE, Finding
from flows.graph import Graph
from flows.registry import policy
from flows.services import reach
from flows.tracking import client
from flows.tracking.git import git_state
from tasks.models.chat_template import marks_generation
from tasks.stage import artifact
from tasks.stage.errors import PolmError

LOCK = Path("infra/requirements.lock")


def main(recipe: str | None = None, runners: Path | None = None) -> None:
    """Print the findings for a recipe (the active one by default), and for a runners' file where one is given; exit
    with 1 when one of them is a failure.
    """
    console = Console()
    shown = Table(title=f"polm doctor, recipe {recipe or workspace.active_recipe()}", title_justify="left")
    for column in ("", "check", "found", "what to do"):
        shown.add_column(column, overflow="fold")
    colours = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "red"}
    with console.status("looking …"):
        findings = examine(recipe or workspace.active_recipe())
        if runners:
            from flows.doctor import runners as placed

            findings += placed.examine(runners)
    for f in findings:
        shown.add_row(f"[{colours[f.level]}]{f.level}[/]", f.check, escape(f.found), escape(f.remedy))
    console.print(shown)
    if any(f.level == "fail" for f in findings):
        sys.exit(1)


def examine(recipe: str) -> list[Finding]:
    """Collect every finding, for the working directory."""
    findings = [*python(), *packages(), *recipe_files(recipe), *git(), *state(), *services(), *dvc()]
    findings += shared.examine()
    if Path("params", recipe).is_dir():
        findings += [*optional.packages(Path("params", recipe)), *machine.examine(Path("params", recipe))]
    return [*findings, *chat_template()]


def python() -> Iterator[Finding]:
    """Check Python's version against `requires-python`."""
    wanted = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    found = ".".join(str(part) for part in sys.version_info[:3])
    fine = SpecifierSet(wanted).contains(found)
    yield Finding("ok" if fine else "fail", "Python", found, "" if fine else f"make the venv with Python {wanted}")


def packages() -> Iterator[Finding]:
    """Check that what `pyproject.toml` needs is there; other versions than the locked ones are only reported."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wrong: list[str] = []
    differing: list[str] = []
    for text in project["dependencies"]:
        need = Requirement(text)
        found = _installed(need.name)
        if found is None or not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need} ({'missing' if found is None else f'is {found}'})")
    if LOCK.exists():
        for name, locked in re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(encoding="utf-8"), re.M):
            found = _installed(name)
            if found is not None and found.split("+")[0] != locked.split("+")[0]:
                differing.append(f"{name} {found}, locked {locked}")
    else:
        yield Finding("warn", "lock file", f"no {LOCK}", f"`git checkout {LOCK}`")
    if wrong:
        yield Finding("fail", "packages", ", ".join(wrong), "`make setup`, or `pip install -e .` in your own venv")
    elif differing:
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        yield Finding("warn", "packages", "; ".join(differing[:4]) + more, "`make setup` for the tested versions")
    else:
        yield Finding("ok", "packages", f"all {len(project['dependencies'])} as needed")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def recipe_files(recipe: str) -> Iterator[Finding]:
    """Check the recipe's files against the stages' schemas, and its section of the registry's policy."""
    command = [sys.executable, "-m", "tasks.check.recipe", f"params/{recipe}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    message = done.stderr.strip()
    if done.returncode:
        yield Finding("fail", "recipe", message, "mend the files named")
    else:
        yield Finding("warn" if message else "ok", "recipe", message or "every file fits its stage")
    try:
        policy.load_policy(recipe)
        held = "holds by default" if policy.is_default(recipe) else "has the recipe"
        yield Finding("ok", "gates", f"{policy.POLICY} {held}")
    except PolmError as e:
        yield Finding("warn", "gates", str(e), "needed for `polm promote` only")


def git() -> Iterator[Finding]:
    """Check that there is a commit to go back to, and nothing uncommitted; say git's own words when it fails."""
    state = git_state()
    commit = state["commit"][:12]
    if "git_error" in state:
        found, _, remedy = state["git_error"].partition("; ")
        yield Finding("warn", "git", found if commit == "none" else f"{commit}; {found}", remedy or "see `git status`")
    elif state["dirty"] == "true":
        yield Finding("warn", "git", f"{commit} and uncommitted changes", "commit what should be reproducible")
    else:
        yield Finding("ok", "git", commit)


def state() -> Iterator[Finding]:
    """Check that the folder `.polm` is ours and writable."""
    try:
        workspace.own(artifact.STATE.absolute())
        yield Finding("ok", "state", str(artifact.STATE))
    except PolmError as e:
        yield _failure("state", e)


def services() -> Iterator[Finding]:
    """Check that the servers answer which the environment names; where it names none, they are our own."""
    for variable, name, contact in (
        ("MLFLOW_TRACKING_URI", "MLflow", client.client),
        ("PREFECT_API_URL", "Prefect", reach.prefect),
    ):
        if variable not in os.environ:
            continue
        try:
            contact()
            yield Finding("ok", name, f"{reach.shown(os.environ[variable])} answers")
        except PolmError as e:
            yield _failure(name, e)


def _failure(check: str, error: PolmError) -> Finding:
    found, _, remedy = str(error).partition("; ")
    return Finding("fail", check, found, remedy)


def dvc() -> Iterator[Finding]:
    """Check the repository, `dvc.lock`, the cache, and DVC's private folder (its disk cache is a pickle)."""
    try:
        graph = Graph()
    except PolmError as e:
        yield Finding("fail", "DVC", str(e))
        return
    yield Finding("ok", "DVC", f"{len(graph.stages)} stages")
    from dvc.repo import Repo

    repo = Repo()
    cache = Path(repo.cache.local.path)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            yield Finding("ok", "DVC cache", str(cache))
    except OSError as e:
        yield Finding("fail", "DVC cache", f"{cache}: {e.strerror}", "make it writable, or `dvc cache dir` another one")
    site = Path(repo.site_cache_dir)
    if site.exists() and site.stat().st_mode & 0o022:
        remedy = "`dvc config core.site_cache_dir` to a folder of your own: others could plant a pickle there"
        yield Finding("warn", "DVC site cache", f"{site} is writable for others", remedy)
    else:
        yield Finding("ok", "DVC site cache", str(site))


def chat_template() -> Iterator[Finding]:
    """Check that the base model's template can mark what the assistant wrote; the heaviest check, so the last."""
    if not (BASE / "tokenizer.json").exists():
        return
    from tasks.models.folder import load_tokenizer

    try:
        marked = marks_generation(load_tokenizer(BASE))
    except PolmError as e:
        yield Finding("fail", "chat template", str(e))
        return
    remedy = "" if marked else "`polm run --force base`: it marks the template, or says why it cannot"
    yield Finding(
        "ok" if marked else "fail", "chat template", "marks assistant tokens" if marked else "no marks", remedy
    )
