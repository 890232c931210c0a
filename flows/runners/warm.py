"""The warm parents of a run: processes that have imported what DVC and the stages need, for these to be forked from.

A stage costs two starts, of DVC and of its own module, and with torch, transformers and TRL some seven seconds of
processor time before its first step. So a run starts a parent for DVC, and one for stages where enough of them will
run. Both end with the run, also when it is killed, and hold no file of the project. `POLM_WARM=0` does without them.

A stage is started as ever, by DVC and a shell: its `python` is then a script in the run's folder, which asks the parent
(`flows.runners.warm_client`), and is that `python` itself when the parent is not ready, has ended, or was started with
another environment. It says so in the stage's log.
"""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.graph import Stage
from flows.runners import warm_client, warm_parent
from flows.runners.slots import visible_gpus
from flows.workspace import EVENTS

SWITCH = "POLM_WARM"
"""Environment variable: `0` starts every stage in a process of its own."""
WORTH = 6
"""Stages with one number of threads from which on a parent for them is worth its imports."""
LIGHT = frozenset({"fingerprint", "data", "media", "rag_chunks", "rag_index", "rag_index_sharded", "report"})
"""Methods that import none of `STAGES`, so that no parent is started for their sake; beside one they fork too."""
DVC = ("dvc.cli", "dvc.commands.repro", "dvc.repo.reproduce")
STAGES = (
    "rich.progress", "jinja2", "datasets", "peft", "accelerate", "transformers.models.llama.modeling_llama",
    "trl.trainer.sft_trainer", "trl.trainer.reward_trainer", "trl.trainer.dpo_trainer", "trl.trainer.kto_trainer",
    "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer", "lm_eval.models.huggingface", "lm_eval.api.task",
)  # fmt: skip
"""Modules of libraries that the parents import."""
_ROOM = "." * 4095
"""As long as a path can be."""


@contextmanager
def parents(folder: Path, stages: Iterable[Stage]) -> Iterator[str]:
    """Keep the parents of a run.

    Args:
        folder: the run's.
        stages: those that may have to run.

    Yields:
        The program by which DVC is to be run: a `python` whose folder comes first on DVC's PATH, or this Python.
    """
    if sys.platform != "linux" or os.environ.get(SWITCH) == "0":
        yield sys.executable
        return
    place = folder.resolve() / "warm"
    place.mkdir(mode=0o700)
    script = place / "python"
    words = [sys.executable, "-I", "-S", warm_client.__file__, str(place)]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    counts = Counter(stage.threads for stage in stages if stage.name.partition("@")[0] not in LIGHT)
    threads, count = counts.most_common(1)[0] if counts else (0, 0)
    started = [_start(place, "dvc", 0, DVC)]
    if count >= WORTH and not visible_gpus():  # an import may ask for devices, and no fork could use them then
        started.append(_start(place, "stages", threads, STAGES))
    try:
        yield str(script)
    finally:
        for parent in started:
            assert parent.stdin
            parent.stdin.close()  # it ends by this, now or when its imports are done
        for parent in started:
            _end(parent)


def _start(place: Path, name: str, threads: int, modules: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    """Start a parent. Its environment is that of the stages; the mark comes last, and may be written over there."""
    environment = {k: v for k, v in os.environ.items() if k != EVENTS} | {"PYTHONUNBUFFERED": "1", EVENTS: _ROOM}
    with (place / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", warm_parent.__name__, name, str(threads), *modules],
            cwd=place,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal is the run's
        )


def _end(parent: "subprocess.Popen[bytes]") -> None:
    try:
        parent.wait(1)
    except subprocess.TimeoutExpired:  # it imports still, or a fork is at its end
        parent.kill()
        parent.wait()
