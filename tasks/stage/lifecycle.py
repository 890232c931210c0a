"""The life of a stage: parse, lock, verify inputs, run, write, measure.

A stage module ends with `stage(main, Config)`. `main` takes the validated configuration, a `Run`, and one keyword-only
`Path` per input artifact; each of them becomes a flag of the command, so `dvc.yaml` is the one place that wires stages.
One with a default may be left out of the command, and is then no input. Where the recipe file has `methods:`, the flag
`--method` names the entry that runs, and the others are no part of the artifact's identity:

    python -m tasks.sft params/tiny/sft.yaml --model artifacts/models/base --data artifacts/data \\
        --out artifacts/models/sft
"""

import argparse
import hashlib
import inspect
import logging
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tasks.stage import artifact, devices, inherited, launch, warm
from tasks.stage.config import StageConfig, TrainingConfig, digest, load, suggest
from tasks.stage.errors import ArtifactError, ConfigError, PolmError, kind, refusal
from tasks.stage.progress import Progress

C = TypeVar("C", bound=StageConfig)
log = logging.getLogger("polm")

OFFLINE_AND_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "warning",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TQDM_DISABLE": "1",  # progress is ours: a bar of each library would garble the log
}


@dataclass
class Run:
    """What a stage may use besides its configuration and inputs."""

    out: Path
    """Temporary folder that becomes the artifact."""
    params_file: Path
    """The recipe file, for error messages."""
    name: str
    """Name of the artifact: last part of `--out`, e.g. `sft`."""
    checkpoints: Path
    """Folder for checkpoints of exactly these inputs; removed when the stage ends well."""
    manifests: dict[str, artifact.Manifest]
    """Verified manifests of the inputs: `model`, or `models/sft` for a member of a folder of artifacts."""
    progress: Progress
    """Where progress and live metrics go."""
    main_process: bool
    """False in all but one process of a multi-process launch. Only the main process writes to `out`."""
    method: str = ""
    """Entry of the recipe file's `methods:` that runs; empty for a stage without `methods:`."""
    launched: launch.Processes = launch.ONE_PROCESS
    """The processes that the recipe asks for."""
    measured: dict[str, Any] = field(default_factory=dict)
    """Seconds, bytes and speeds: true of this run, not of the inputs, so they stay out of the artifact."""

    def verify(self, name: str, folder: Path) -> None:
        """Verify one more artifact and make it an input of this one. Raises ArtifactError."""
        self.manifests[name] = artifact.verify(folder)

    def measure(self, **values: Any) -> None:
        """Record measurements, e.g. `run.measure(import_seconds=4.1)`."""
        self.measured.update(values)

    @contextmanager
    def timed(self, name: str) -> Any:
        """Measure the seconds of a block as `<name>_seconds`."""
        start = time.perf_counter()
        yield
        self.measure(**{f"{name}_seconds": round(time.perf_counter() - start, 3)})


def stage(main: Callable[..., None], config_class: type[C], read: Callable[[Path], C] | None = None) -> None:
    """Run `main` as a command. Exits 0 when the artifact is in place, 2 for what a user can mend, 1 for a bug.

    Args:
        main: of the stage.
        config_class: schema of its recipe file.
        read: reads the recipe file, of a stage whose file may be missing; None reads one that has to be there.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        _run(main, config_class, read or partial(load, model=config_class))
    except PolmError as e:
        log.error("error: %s", e)
        launch.hand_on(str(e))
        sys.exit(2)
    except Exception as e:
        said = refusal(e)
        if said is None:
            launch.hand_on_crash(e)
            raise
        log.error("error: %s", said)
        launch.hand_on(said)
        sys.exit(2)


def _run(main: Callable[..., None], config_class: type[C], read: Callable[[Path], C]) -> None:
    start = time.perf_counter()
    imported_for = warm.take_threads()
    flags = [p for p in inspect.signature(main).parameters.values() if p.kind is p.KEYWORD_ONLY]
    parser = argparse.ArgumentParser(prog=f"python -m {_module(main)}")
    parser.add_argument("params", type=Path, help="recipe file, e.g. params/tiny/sft.yaml")
    for flag in flags:
        parser.add_argument(f"--{flag.name}", type=Path, required=flag.default is flag.empty, help="input artifact")
    if "methods" in config_class.model_fields:
        parser.add_argument("--method", required=True, help="entry of `methods:` in the recipe file")
    parser.add_argument("--out", type=Path, required=True, help="output artifact")
    args = parser.parse_args()
    config = read(args.params)
    if "method" in args:
        config = choose_method(config, args.method, args.params)
    wanted = _launched(config, main, args.params)
    fix_environment(config.threads, imported_for)
    devices.require(args.params, config)
    inputs = {flag.name: path for flag in flags if (path := getattr(args, flag.name)) is not None}
    rank = int(os.environ.get("RANK", "0"))
    if rank != 0:
        # What it writes is not wanted: in the real folder it would outlive a failed run, or race the rename.
        with tempfile.TemporaryDirectory(prefix="polm-rank-") as scratch:
            run = _make_run(main, config, args, inputs, rank, wanted)
            run.out = Path(scratch)
            main(config, run, **inputs)
        return
    with artifact.lock(args.out):
        run = _make_run(main, config, args, inputs, rank, wanted)
        identities: dict[str, str] = {}
        stage_name = _module(main).removeprefix("tasks.")
        with artifact.writing(args.out, stage=stage_name, params=digest(config), inputs=identities) as temp:
            run.out = temp
            with run.progress:
                main(config, run, **inputs)
            identities |= {name: manifest.digest for name, manifest in run.manifests.items()}
        _remove_checkpoints(run.checkpoints)
        run.measure(seconds=round(time.perf_counter() - start, 3), peak_memory_bytes=peak_memory())
        write_measurements(args.out, run.measured)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held.

    Where the kernel says it of the program itself, that counts: `getrusage` also knows what the parent held when this
    process was forked.
    """
    status = Path("/proc/self/status")
    text = status.read_text(encoding="utf-8") if status.exists() else ""
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", text, re.M)
    return 1024 * (int(peak[1]) if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def choose_method(config: C, method: str, path: Path) -> C:
    """Reduce a configuration to one entry of its `methods`. Raises ConfigError when there is no such entry."""
    methods = getattr(config, "methods")  # noqa: B009, a field of the classes that have it
    if method not in methods:
        raise ConfigError(f"{path}: methods has no '{method}'{suggest(method, methods)}")
    return config.model_copy(update={"methods": {method: methods[method]}})


def measurements_path(out: Path) -> Path:
    """Where the measurements of an artifact lie: outside it, because they differ from run to run."""
    return artifact.STATE / "measured" / f"{out}.json"


def write_measurements(out: Path, measured: dict[str, Any]) -> None:
    """Keep a run's measurements, tied to the artifact they were taken with."""
    path = measurements_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_json(path, {"artifact": artifact.read_manifest(out).digest, **measured})


def read_measurements(out: Path) -> dict[str, Any]:
    """Measurements of `out` as it is now; empty when it was restored from a cache and never measured here."""
    path = measurements_path(out)
    if kind(path) != "a file" or not (out / artifact.MANIFEST).exists():
        return {}
    measured: dict[str, Any] = artifact.read_json(path)
    return measured if measured.pop("artifact", None) == artifact.read_manifest(out).digest else {}


def _make_run(
    main: Any, config: StageConfig, args: Any, inputs: dict[str, Path], rank: int, wanted: launch.Processes
) -> Run:
    manifests: dict[str, artifact.Manifest] = {}
    for name, path in inputs.items():
        manifests |= artifact.verify_input(name, path)
    identity = hashlib.sha256(digest(config).encode())
    for name in sorted(manifests):
        identity.update(f"{name}={manifests[name].digest}".encode())
    return Run(
        out=args.out,
        params_file=args.params,
        name=args.out.name,
        checkpoints=Path(".checkpoints")
        / _module(main).removeprefix("tasks.")
        / args.out.name
        / identity.hexdigest()[:16],
        manifests=manifests,
        progress=Progress(args.out.name if rank == 0 else None),
        main_process=rank == 0,
        method=getattr(args, "method", ""),
        launched=wanted,
    )


def _module(main: Any) -> str:
    """`tasks.sft`, also when that module runs as `__main__`."""
    spec = vars(sys.modules[main.__module__]).get("__spec__")
    return spec.name if spec else f"tasks.{Path(inspect.getfile(main)).stem}"


def _launched(config: StageConfig, main: Any, where: Path) -> launch.Processes:
    """Run the recipe's launcher, once; in what it started, the processes that were asked for, if these came up."""
    if launch.MARK not in os.environ:
        ignored = inherited.take_out(os.environ)
        if ignored:
            log.warning("ignored, as the recipe alone decides this: %s", ", ".join(ignored))
    if not isinstance(config, TrainingConfig):
        launch.check_alone(where, os.environ)
        return launch.ONE_PROCESS
    wanted = launch.processes(config.launch, where)
    launch.check_fit(config, wanted, where)
    if config.launch and launch.MARK not in os.environ:
        launch.launch(config.launch, _module(main))
    launch.check_processes(wanted, where, os.environ)
    return wanted


def fix_environment(threads: int, imported_for: int | None = None) -> None:
    """Fix what changes the bits before torch or BLAS is imported.

    Args:
        threads: of torch and BLAS.
        imported_for: threads for which a warm parent imported torch; None: nobody did. For another number than
            `threads` the command starts again in this process, and this does not return.

    Raises:
        ArtifactError: torch was imported before.
    """
    if imported_for is not None and imported_for != threads:
        warm.start_again(f"the recipe asks for {threads} threads, its parent's libraries for {imported_for}")
    if imported_for is None and "torch" in sys.modules:
        raise ArtifactError("torch was imported before the thread count was set; import it inside main()")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    for name, value in OFFLINE_AND_QUIET.items():
        os.environ.setdefault(name, value)


def _remove_checkpoints(folder: Path) -> None:
    """Remove this stage's checkpoints, also those of older inputs: the artifact supersedes them."""
    import shutil

    shutil.rmtree(folder.parent, ignore_errors=True)
