"""The working copy a command runs in: where it is, its environment, and who may run in it now."""

import atexit
import contextlib
import os
import pwd
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.stage import artifact, dag, locks
from tasks.stage import recipe as recipe_graph
from tasks.stage.config import read_yaml, suggest
from tasks.stage.errors import ConfigError, PolmError, kind, refusal

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Nobody is phoned, no model is unpickled, Prefect's log lines go to its server and not into our table, MLflow's server
does without its seven processes for jobs that nobody gives it, and its client prints no addresses of runs, which stand
in Prefect. A value already set is kept."""
SERVICES = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "DVC_SITE_CACHE_DIR")
"""Variables that say where things are. An empty one, as an env file leaves it, says nothing: MLflow and Prefect would
take it for an address, or for a store of their own."""
RECIPE = recipe_graph.ACTIVE
HOME = artifact.STATE / "home.json"
"""File that names this working copy: `{"root", "inode", "id"}`."""
EVENTS = "POLM_EVENTS"
"""Environment variable that names the file for a stage's progress; also the mark of all processes of that stage."""


def enter(*, writes: bool = True) -> Path:
    """Go to the root of the working copy and set the environment up.

    Args:
        writes: whether the command has to write there. One that only reads works in a copy of somebody else too.

    Returns:
        The root, now the working directory.

    Raises:
        PolmError: no `dvc.yaml` here or above, or `.polm` cannot be written, or is somebody else's.
    """
    try:
        here = Path.cwd()
        here.joinpath("dvc.yaml").exists()
    except FileNotFoundError:
        raise PolmError("the working directory was deleted; go into your clone of the repository") from None
    except OSError as e:
        raise PolmError(refusal(e) or f"{here}: cannot be read ({e.strerror})") from None
    root = next((folder for folder in [here, *here.parents] if os.path.lexists(folder / "dvc.yaml")), None)
    if root is None:
        raise PolmError(f"{here}: no dvc.yaml here or in a folder above; go into your clone of the repository")
    if (what := kind(root / "dvc.yaml")) != "a file":
        raise PolmError(f"{root / 'dvc.yaml'}: is {what}; restore the file with `git checkout dvc.yaml`")
    os.chdir(root)
    state, site = root / artifact.STATE, root / artifact.STATE / "dvc"
    try:
        own(state)
    except PolmError:
        if writes:
            raise
        # DVC reads pickles from its part of `.polm`: never those of somebody else.
        scratch = tempfile.TemporaryDirectory(prefix="polm-")
        atexit.register(scratch.cleanup)
        site = Path(scratch.name)
    _name_user(state if site.parent == state else site)
    for name in SERVICES:
        if not os.environ.get(name, "").strip():
            os.environ.pop(name, None)
    for name, value in (QUIET | {"PREFECT_HOME": str(state / "prefect"), "DVC_SITE_CACHE_DIR": str(site)}).items():
        os.environ.setdefault(name, value)
    # Stages run as `python -m …`: that must be this interpreter also where no virtual environment is active.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return root


def _name_user(home: Path) -> None:
    """Give a user whom the system does not know, as containers have them, what DVC and MLflow ask for at once."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        os.environ.setdefault("HOME", str(home))
        os.environ.setdefault("USER", str(os.geteuid()))


def own(state: Path) -> None:
    """Create the folder, or see that it is ours, closed to others and can be written. Raises PolmError."""
    if (what := kind(state)) not in ("a folder", "missing"):
        raise PolmError(f"{state}: is {what}; polm keeps its state in a folder of this name: move that away")
    try:
        state.mkdir(exist_ok=True)
        if state.stat().st_mode & 0o777 != 0o700:
            state.chmod(0o700)  # DVC opens its own part to everybody, and reads pickles from it
        with tempfile.TemporaryFile(dir=state):
            pass
    except OSError as e:
        e.filename = str(state)  # and not that of the trial file
        raise PolmError(refusal(e) or f"{state}: cannot be written ({e.strerror})") from None


def identity() -> str:
    """Return the name of this working copy in what others use too: 12 random hex digits, made on the first call.

    It is that of the folder, so it stays where several hosts share the folder, and a copy or a moved folder gets
    another one.
    """
    status = artifact.STATE.absolute().parent.stat()
    here = {"root": str(Path.cwd()), "inode": status.st_ino}
    name = artifact.read_json(HOME) if HOME.exists() else {}
    if {key: name.get(key) for key in here} != here:
        name = here | {"id": uuid.uuid4().hex[:12]}
        HOME.parent.mkdir(exist_ok=True)
        artifact.write_json(HOME, name)
    return str(name["id"])


def active_recipe() -> str:
    """Read which recipe is active: the one whose graph `params/recipe.yaml` links to. Raises ConfigError."""
    if (what := kind(RECIPE)) != "a file":
        raise ConfigError(f"{RECIPE}: {'no such file' if what == 'missing' else f'is {what}'}; {recipe_graph.RELINK}")
    values = read_yaml(RECIPE)
    if "recipe" not in values:
        raise ConfigError(f"{RECIPE}: missing key 'recipe'")
    if not isinstance(values["recipe"], str):
        raise ConfigError(f"{RECIPE}: 'recipe' is {values['recipe']!r}; name a folder under params/")
    return values["recipe"]


def choose_recipe(recipe: str) -> bool:
    """Make `recipe` the active one, by linking `params/recipe.yaml` to its graph.

    Returns:
        Whether that changed anything.

    Raises:
        ConfigError: no such recipe (names those there are), or one without a graph that fits `dvc.yaml`.
    """
    check_recipe(recipe)
    target = Path(recipe, recipe_graph.FILE)
    if not (RECIPE.parent / target).is_file():
        raise ConfigError(f"{RECIPE.parent / target}: no such file; it is the recipe's graph, see params/tiny for one")
    dag.fitting(RECIPE.parent / target)
    if RECIPE.is_symlink() and RECIPE.readlink() == target:
        return False
    if kind(RECIPE) == "a folder":
        raise ConfigError(f"{RECIPE}: is a folder; move it away: the link to the active recipe's graph belongs there")
    temp = RECIPE.with_suffix(".tmp")
    temp.unlink(missing_ok=True)
    temp.symlink_to(target)
    temp.replace(RECIPE)
    return True


def check_recipe(recipe: str) -> None:
    """Raise ConfigError unless `params/` has such a recipe, made of files."""
    recipes = sorted(folder.name for folder in Path("params").glob("*") if folder.is_dir())
    if recipe not in recipes:
        near = suggest(recipe, recipes) if recipes else "; there are none"
        raise ConfigError(f"params/{recipe}: no such recipe{near} (a new one: `cp -r params/tiny params/{recipe}`)")
    for path in sorted(Path("params", recipe).glob("*.yaml")):
        if (what := kind(path)) != "a file":  # before DVC looks at it: it would wait for ever for a pipe
            raise ConfigError(f"{path}: is {what}; expected a YAML file")


@contextlib.contextmanager
def run_lock() -> Iterator[None]:
    """Hold the right to run the pipeline in this working copy; the system lets go of it however the process ends.

    Raises:
        PolmError: another `polm run` holds it, whose process is named, or the file system has no locks.
    """
    path = artifact.STATE / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as f:
        if not locks.acquire(f):
            f.seek(0)
            holder = f.read().strip() or "unknown"
            raise PolmError(
                f"another `polm run` is at work here (process {holder}); wait for it, or end it with Ctrl-C in its "
                f"terminal or `kill {holder}`"
            )
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        yield


def set_aside(outs: Iterable[Path]) -> list[Path]:
    """Move artifacts that the active recipe does not make out of `artifacts/`, where its report would read them.

    DVC's cache still has what it made, and restores it when the recipe that makes it is chosen again.

    Args:
        outs: artifacts of the active recipe.

    Returns:
        What was moved to `.polm/aside/`.
    """
    ours = set(outs)
    found = (
        path for places in ("*/*", "vectors/*/*") for path in Path("artifacts").glob(f"{places}/{artifact.MANIFEST}")
    )
    others = [path.parent for path in sorted(found) if path.parent not in ours]
    for folder in others:
        target = artifact.STATE / "aside" / folder.relative_to("artifacts")
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    return others


def new_run() -> Path:
    """Create the folder for the logs of a run, named by the time: `.polm/logs/20261122-153401`."""
    folder = artifact.STATE / "logs" / time.strftime("%Y%m%d-%H%M%S")
    while folder.exists():
        folder = folder.with_name(f"{folder.name}+")
    folder.mkdir(parents=True)
    return folder
