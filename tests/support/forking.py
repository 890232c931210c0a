"""Stages that begin with their libraries imported: a process that imports these once, and forks for every start.

A drill starts one command three times, and importing torch, transformers and TRL takes several times as long as the
steps that it trains. The forked process runs the stage's module as `python -m` does, up to its exit. It is as good as
a fresh one as long as the process that it comes from has computed nothing. What a fresh process draws by chance is
drawn again: NumPy's random state here, Python's by Python itself. All forks of one process share its `PYTHONHASHSEED`,
which the caller gives.
"""

import gc
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tasks.stage import lifecycle

LIBRARIES = (
    "datasets", "peft", "accelerate", "transformers.models.llama.modeling_llama", "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer", "trl.trainer.kto_trainer", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer",
)  # fmt: skip
REPO = Path(__file__).parents[2]


class Forked:
    """A stage's process, with what a drill uses of `subprocess.Popen`."""

    def __init__(self, parent: "subprocess.Popen[bytes]", stderr: Path) -> None:
        self._parent = parent
        self._stderr = stderr
        self.returncode: int | None = None
        self.pid = self._answer()

    def _answer(self) -> int:
        assert self._parent.stdout
        line = self._parent.stdout.readline()
        assert line, "the process that forks has ended"
        return int(line)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self._answer()
        return self.returncode

    def poll(self) -> int | None:
        ended = self.returncode is None and select.select([self._parent.stdout], [], [], 0)[0]
        return self.wait() if ended else self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[None, str]:
        self.wait()
        return None, self._stderr.read_text(encoding="utf-8")


class Forking:
    """The process to fork from. It runs one stage at a time; the next can begin when the last one was waited for."""

    def __init__(self, hash_seed: int, threads: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking", str(threads)],
            cwd=REPO, env=os.environ | {"PYTHONHASHSEED": str(hash_seed)}, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, words: list[str], environment: dict[str, str], stderr: Path) -> Forked:
        """Run `python -m <words>` in the caller's folder."""
        assert self._process.stdin
        request = {"words": words, "environment": environment, "stderr": str(stderr), "folder": str(Path.cwd())}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return Forked(self._process, stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()


def serve(threads: int) -> None:
    """Import the libraries, then fork for each line of the input; answer with the process, and how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lifecycle._environment(threads)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of each fork would copy every page
    while line := sys.stdin.readline():
        assert threading.active_count() == 1, "a fork has one thread, and so must what it comes from"
        pid = os.fork()
        if not pid:
            answers.close()
            run(json.loads(line))
            return
        print(pid, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


def run(request: dict[str, Any]) -> None:
    """Be `python -m <words>`, in this process. Raises SystemExit as the module does."""
    import numpy as np

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    np.random.seed()
    fixed = lifecycle._environment

    def environment(threads: int) -> None:
        """Let the stage set its environment: it refuses to when torch is there, and then sets what torch has read."""
        torch = sys.modules.pop("torch")
        fixed(threads)
        sys.modules["torch"] = torch
        torch.set_num_threads(threads)

    lifecycle._environment = environment
    module, *sys.argv[1:] = request["words"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
