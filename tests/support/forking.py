"""Stages that begin with their libraries imported: a process that imports these once, and forks for every start.

Importing torch, transformers and TRL takes several times as long as the few steps that a test trains. The forked
process runs the stage's module as `python -m` does, from the folder it is started in and up to its exit. It is as good
as a fresh one as long as the process that it comes from has computed nothing. What a fresh process draws by chance is
drawn again: NumPy's random state here, Python's by Python itself. All forks of one process share its `PYTHONHASHSEED`.

    request, a line of JSON, with the files for input, output and errors   →
                                                                           ←   the number of the process
                                                                           ←   its exit code, when it has ended
"""

import gc
import importlib
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPO = Path(__file__).parents[2]
LIBRARIES = (
    "datasets", "peft", "accelerate", "transformers.models.llama.modeling_llama", "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer", "trl.trainer.kto_trainer", "trl.trainer.grpo_trainer", "trl.trainer.rloo_trainer",
)  # fmt: skip
HARNESS = ("lm_eval.models.huggingface", "lm_eval.api.task")
PYTHON = """#!{python} -SP
import json, os, signal, socket, sys
words = [word for word in sys.argv[1:3] if word not in ("-u", "-m")] + sys.argv[3:]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = {{"words": words, "environment": dict(os.environ), "folder": os.getcwd()}}
    socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [0, 1, 2])
    answers = server.makefile()
    pid = int(answers.readline())
    signal.signal(signal.SIGTERM, lambda number, _: os.kill(pid, number))
    code = int(answers.readline())
if code < 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
"""A `python` that has `-m` run in a fork, and ends as that does."""


class Forked:
    """A stage's process, with what a drill uses of `subprocess.Popen`."""

    def __init__(self, server: socket.socket, stderr: Path) -> None:
        self._server = server
        self._stderr = stderr
        self.returncode: int | None = None
        self.pid = self._answer()

    def _answer(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            read = self._server.recv(1)
            assert read, "the process that forks has ended"
            line += read
        return int(line)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = self._answer()
            self._server.close()
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                self._server.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        return self.wait()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[None, str]:
        self.wait()
        return None, self._stderr.read_text(encoding="utf-8")


class Forking:
    """The process to fork from; it ends when the block does."""

    def __init__(self, libraries: tuple[str, ...] = LIBRARIES, hash_seed: str = "random") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="polm-fork-")
        self._address = str(Path(self._folder.name) / "socket")
        words = [sys.executable, "-P", __file__, self._address, *libraries]
        environment = os.environ | {"PYTHONPATH": str(REPO), "PYTHONHASHSEED": hash_seed}
        self._process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline(), "the process that forks has ended"

    def start(self, words: list[str], environment: dict[str, str], stderr: Path) -> Forked:
        """Run `python -m <words>` in the caller's folder."""
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._address)
        request = {"words": words, "environment": environment, "folder": str(Path.cwd())}
        with Path(os.devnull).open() as none, stderr.open("w") as errors:
            files = [none.fileno(), errors.fileno(), errors.fileno()]
            socket.send_fds(server, [json.dumps(request).encode() + b"\n"], files)
        return Forked(server, stderr)

    def write_python(self, folder: Path) -> Path:
        """Write a program `python`, which runs each `python -m` in a fork."""
        python = folder / "python"
        python.write_text(PYTHON.format(python=sys.executable, address=self._address))
        python.chmod(0o700)
        return python

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()
        self._folder.cleanup()


def serve(address: str, libraries: list[str]) -> None:
    """Import the libraries as a stage does, then fork for each request. Returns in the forks that run a stage."""
    from tasks.stage import lifecycle

    lifecycle._environment(threads=1)
    for name in libraries:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] == "tasks"]:
        del sys.modules[name]  # each fork imports the code of its own folder
    gc.collect()
    gc.freeze()  # or the first collection of each fork would copy every page
    assert threading.active_count() == 1, "a fork has one thread, and so must what it comes from"
    attending: list[int] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        os.write(1, b"listening\n")
        # The input ends with the caller, however that ends.
        while server in select.select([server, sys.stdin], [], [])[0]:
            client, _ = server.accept()
            data, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
            while not data.endswith(b"\n"):
                data += client.recv(1 << 20)
            attending = [pid for pid in attending if not os.waitpid(pid, os.WNOHANG)[0]]
            attending.append(os.fork())
            if not attending[-1]:
                server.close()
                return attend(client, json.loads(data), files)
            client.close()
            for file in files:
                os.close(file)
    for pid in attending:
        os.waitpid(pid, 0)
    return None


def attend(client: socket.socket, request: dict[str, Any], files: list[int]) -> None:
    """Fork, and tell the client which process that is and how it ends. Returns in the fork alone."""
    pid = os.fork()
    if not pid:
        client.close()
        return run(request, files)
    for file in files:
        os.close(file)
    client.sendall(b"%d\n" % pid)
    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def run(request: dict[str, Any], files: list[int]) -> None:
    """Be `python -m <words>`, in this process. Raises SystemExit as the module does."""
    import numpy as np

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [request["folder"]]
    np.random.seed()

    from tasks.stage import lifecycle

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
    serve(sys.argv[1], sys.argv[2:])
