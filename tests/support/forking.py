"""Commands that begin with their libraries imported: a process that imports these once, and forks for every start.

Importing torch, transformers and TRL takes several times as long as the few steps that a test trains; importing Prefect
and MLflow, as long as a run of small stages. The forked process runs a module as `python -m` does, from the folder it
is started in and up to its exit; the code of this repository it imports itself. It is as good as a fresh one as long as
the process that it comes from has computed nothing. What a fresh process draws by chance is drawn again: NumPy's random
state here, Python's by Python itself. All forks of one process share its `PYTHONHASHSEED`.

    request, a line of JSON, with the files for input, output and errors   →
                                                                           ←   the number of the process
                                                                           ←   its exit code, when it has ended
"""

import gc
import importlib
import importlib.abc
import json
import os
import runpy
import select
import signal
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
LAUNCHED = ("torch.distributed.run", "torch.distributed.checkpoint.state_dict")
"""What launchers and sharded processes import besides a stage's libraries."""
COMMAND = (
    "prefect.artifacts",
    "prefect.flows",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "dvc.repo",
    "typer",
)
"""What `polm` imports."""
PYTHON = """#!{python} -SP
import json, os, signal, socket, sys
words = [word for word in sys.argv[1:3] if word not in ("-u", "-m")] + sys.argv[3:]
if not words[0].startswith({forks!r}) or not {fresh!r}.isdisjoint(words):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = {{"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "python": sys.argv[0]}}
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
"""A `python` that has some modules run in a fork, and ends as that does; all else it runs itself."""


class Forked:
    """A process, with what tests use of `subprocess.Popen`."""

    def __init__(self, server: socket.socket, said: Path | int) -> None:
        self._server = server
        self._said = said
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

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end, and for that of all that says something for it; returns its output and errors, together."""
        if self.returncode is None:
            self._server.settimeout(timeout)
            self.wait()
        if isinstance(self._said, Path):
            text = self._said.read_text(encoding="utf-8")
        else:
            with os.fdopen(self._said, encoding="utf-8") as pipe:
                text = pipe.read()
        return text, text


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

    def start(
        self,
        words: list[str],
        environment: dict[str, str],
        said: Path | None = None,
        folder: Path | None = None,
        python: Path | None = None,
    ) -> Forked:
        """Run `python -m <words>`.

        Args:
            words: a module and its arguments.
            environment: all of it.
            said: file for output and errors; None: a pipe, which takes 64 KiB.
            folder: where it runs; None: where the caller does.
            python: what it takes for its interpreter; None: the one that it runs in.
        """
        server = socket.socket(socket.AF_UNIX)
        server.connect(self._address)
        request = {
            "words": words, "environment": environment, "folder": str(folder or Path.cwd()),
            "python": str(python or sys.executable),
        }  # fmt: skip
        if said:
            reading: Path | int = said
            writing = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        else:
            reading, writing = os.pipe()
        with Path(os.devnull).open() as none:
            socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [none.fileno(), writing, writing])
        os.close(writing)
        return Forked(server, reading)

    def write_python(
        self, folder: Path, forks: tuple[str, ...] = ("tasks.",), fresh: frozenset[str] = frozenset()
    ) -> Path:
        """Write a program `python`, which runs modules in forks; these take it for their interpreter.

        Args:
            folder: where to write it.
            forks: how the names of the modules begin that it runs so.
            fresh: words of a command that mark it as one for a fresh process nevertheless.
        """
        python = folder / "python"
        python.write_text(PYTHON.format(python=sys.executable, address=self._address, forks=forks, fresh=set(fresh)))
        python.chmod(0o700)
        return python

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()
        self._folder.cleanup()


def serve(address: str, libraries: list[str]) -> None:
    """Import the libraries as a stage does, then fork for each request. Returns in the forks that run a module."""
    from tasks.stage import lifecycle

    lifecycle.fix_environment(threads=1)
    for name in libraries:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tasks", "flows")]:
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
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [request["folder"]]
    sys.executable = request["python"]
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        let_stages_begin()
    if "prefect" in sys.modules:
        sys.meta_path.insert(0, Settings())
    module, *sys.argv[1:] = request["words"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def let_stages_begin() -> None:
    """Let a stage set its environment: it refuses to when torch is there, and then sets what torch has read."""
    from tasks.stage import lifecycle

    fixed = lifecycle.fix_environment

    def environment(threads: int, imported_for: int | None = None) -> None:
        fixed(threads, threads)
        sys.modules["torch"].set_num_threads(threads)

    lifecycle.fix_environment = environment


class Settings(importlib.abc.MetaPathFinder):
    """Has Prefect read its settings from the environment when a flow is imported, as it does when it is imported."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Find nothing: the finders after this one do."""
        if fullname == "flows.pipeline.flow":
            sys.modules["prefect.context"].refresh_global_settings_context()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
