"""Several processes of a stage: the recipe's launcher, what came of it, and how it ended.

A launcher may start other processes than it was told to: `accelerate launch --cpu --num_processes 2` starts one, which
then trains on half the batch. So the number of processes and the sharding that `launch:` asks for are held against
those that came up. Launchers end with an exit code and a traceback of their own; the exit code 2 of a process and its
message are handed on, and of any other failure it is said which process it was and why (`rank_failures`).

"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tasks.stage import rank_failures
from tasks.stage.config import TrainingConfig, read_yaml
from tasks.stage.errors import ConfigError

log = logging.getLogger("polm")

MARK = "POLM_LAUNCHED"
"""Environment of what a launcher started: the file for the message of a process that ends with exit code 2."""
CRASH = ".crash"
"""Suffix of the file beside it for the message of the first process that an exception ended."""
COUNTS = ("num_processes", "nproc_per_node")
"""Options of accelerate and torchrun that say how many processes there are."""
SHARDED = ("FSDP", "DEEPSPEED")
"""Accelerate's names of what splits weights among processes."""


class Processes(NamedTuple):
    """The processes that a recipe asks for."""

    processes: int
    """Number of processes."""
    sharding: str | None
    """One of `SHARDED`; None: each process has the whole model."""


ONE_PROCESS = Processes(1, None)


def processes(command: str | None, where: Path) -> Processes:
    """Read which processes the recipe's `launch:` asks for.

    Args:
        command: the launcher with its options; None runs the stage as it is.
        where: recipe file, for messages.

    Raises:
        ConfigError: no number of processes, or no such configuration file.
    """
    if not command:
        return ONE_PROCESS
    words = shlex.split(command)
    options = _options(words)
    if "config_file" in options:
        options = {**read_yaml(Path(options["config_file"])), **options}
    kind = str(options["distributed_type"]).upper() if "distributed_type" in options else ""
    sharding = next((name for name in SHARDED if name == kind or f"use_{name.lower()}" in options), None)
    counts = [options[name] for name in COUNTS if name in options]
    nodes = options.get("nnodes", 1)  # torchrun's own value
    if not counts and any(Path(word).name in ("accelerate", "deepspeed") for word in words):
        raise ConfigError(f"{where}: launch starts as many processes as this machine happens to say; {_REMEDY}")
    try:
        return Processes((int(counts[0]) if counts else 1) * int(nodes), sharding)
    except ValueError:
        raise ConfigError(f"{where}: launch does not say in numbers how many processes it starts; {_REMEDY}") from None


_REMEDY = "add --num_processes or a --config_file with num_processes (accelerate), or --nproc-per-node (torchrun)"


def _options(words: list[str]) -> dict[str, Any]:
    """Read the options of a command line, without dashes, `-` as `_`; one without a value has an empty one."""
    options: dict[str, Any] = {}
    for word, after in zip(words, [*words[1:], "--"], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options[name.replace("-", "_")] = value if equals else "" if after.startswith("-") else after
    return options


def check_processes(expected: Processes, where: Path, environment: Mapping[str, str]) -> None:
    """Refuse another number of processes than the recipe asks for, and version 1 of FSDP. Raises ConfigError."""
    started = int(environment["WORLD_SIZE"]) if "WORLD_SIZE" in environment else 1
    if started != expected.processes:
        raise ConfigError(
            f"{where}: launch asks for {expected.processes} process(es), and {started} came up, which would train on "
            f"another batch; mend launch (on a CPU: `torchrun --nproc-per-node N -m`), or take null for one process"
        )
    if expected.sharding == "FSDP" and environment.get("FSDP_VERSION") != "2":  # set by accelerate's launcher
        raise ConfigError(
            f"{where}: launch asks for version 1 of FSDP, from which no whole model is gathered here; set "
            f"`fsdp_version: 2` in the fsdp_config of accelerate's file (infra/accelerate/fsdp2.yaml)"
        )


def check_alone(where: Path, environment: Mapping[str, str]) -> None:
    """Refuse several processes of a stage that has no `launch`. Raises ConfigError."""
    started = environment.get("WORLD_SIZE", "1")
    if started != "1":
        raise ConfigError(
            f"{where}: this stage runs in one process, and WORLD_SIZE says that {started} came up; start it without "
            f"torchrun or accelerate, or unset that variable"
        )


def check_accelerator(expected: Processes, where: Path, accelerator: Any, arguments: Any) -> None:
    """Compare the state that really came up with the recipe.

    Args:
        expected: the processes that the recipe asks for.
        where: recipe file, for messages.
        accelerator: the trainer's.
        arguments: the trainer's, a `transformers.TrainingArguments`.

    Raises:
        ConfigError: accelerate made something else of the processes, computes in another precision or compiles, or one
            process takes several GPUs.
    """
    if arguments.n_gpu > 1:
        raise ConfigError(
            f"{where}: one process sees {arguments.n_gpu} GPUs and would train on as many times the batch; set "
            f"CUDA_VISIBLE_DEVICES to one of them (`polm run` does), or start a process for each with launch"
        )
    kind = str(accelerator.distributed_type.value).upper()
    sharding = next((name for name in SHARDED if name == kind), None)
    if (accelerator.num_processes, sharding) != (expected.processes, expected.sharding):
        outcome = _words(accelerator.num_processes, sharding)
        raise ConfigError(
            f"{where}: launch asks for {_words(*expected)}, and accelerate made {outcome} of it; mend "
            f"launch or its configuration file (DeepSpeed needs GPUs)"
        )
    precision = "fp16" if arguments.fp16 else "bf16" if arguments.bf16 else "no"
    if accelerator.mixed_precision != precision:
        raise ConfigError(
            f"{where}: accelerate would compute in mixed_precision '{accelerator.mixed_precision}', and trainer.bf16 "
            f"and trainer.fp16 say '{precision}'; {_OTHERWISE}"
        )
    compiler = str(accelerator.state.dynamo_plugin.backend.value).lower()
    if compiler != "no" and not arguments.torch_compile:
        raise ConfigError(
            f"{where}: accelerate would compile the model by '{compiler}', and trainer.torch_compile is false; "
            f"{_OTHERWISE}"
        )


_OTHERWISE = (
    "write 'no' for it in the --config_file of launch, and name one there: without, accelerate takes the user's own, "
    "default_config.yaml"
)


def check_fit(config: TrainingConfig, wanted: Processes, where: Path) -> None:
    """Refuse processes in which the stage cannot run, before any is started. Raises ConfigError."""
    reason = config.unfit(*wanted)
    if reason:
        raise ConfigError(f"{where}: launch asks for {_words(*wanted)}: {reason}")


def _words(processes: int, sharding: str | None) -> str:
    return f"{processes} process(es) {f'with {sharding}' if sharding else 'without sharding'}"


def launch(command: str, module: str) -> NoReturn:
    """Run the stage's module by the launcher, and end as the process does that failed first, naming it, or with 0."""
    with tempfile.TemporaryDirectory(prefix="polm-launch-") as folder:
        message_file = Path(folder) / "error"
        watched = not sys.stderr.isatty()  # a pipe would hide the terminal from the stage's bar
        words = [*shlex.split(command), module, *sys.argv[1:]]
        log.info("launching: %s", shlex.join(words))
        process = subprocess.Popen(
            words,
            env=os.environ | {MARK: str(message_file)},
            stderr=subprocess.PIPE if watched else None,
            bufsize=0,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: process.send_signal(received))
        output = rank_failures.Output(process.stderr, sys.stderr.buffer) if process.stderr else None
        code = process.wait()
        said = output.tail() if output else b""
        if not code:
            sys.exit(0)
        if message_file.exists():
            log.error("error: %s", message_file.read_text(encoding="utf-8"))
            sys.exit(2)
        failure = rank_failures.find(said, message_file.with_suffix(CRASH), code)
    log.error("error: %s", failure.text)
    sys.exit(failure.exit_code)


def hand_on(message: str) -> None:
    """Leave the message of exit code 2 for the process that launched this one, if any; the last one stays."""
    if MARK in os.environ:
        Path(os.environ[MARK]).write_text(message, encoding="utf-8")


def hand_on_crash(error: Exception) -> None:
    """Leave the message of an exception that nobody expected, with this process's rank; the first one stays."""
    if MARK in os.environ:
        file = Path(os.environ[MARK]).with_suffix(CRASH)
        rank_failures.leave(file, int(os.environ.get("RANK", "0")), error)
