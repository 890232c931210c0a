"""`polm serve` under load, with a promotion in the middle: errors, lost requests, latency, tokens per second, memory.

    python -m bench.serve artifacts/onnx/sft/int8 artifacts/onnx/dpo/int8 --clients 16 --seconds 60

A scratch registry holds the first folder as version 1 and the second as version 2; the server is a process of its own,
started as a person starts it. Every client asks, waits for the whole answer, checks it, and asks again. Halfway the
alias moves to version 2. A request is lost when no whole answer comes: any other status, a broken connection, a missing
finish reason. Memory is the resident set of the server and its model processes, read once a second.
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tasks.stage import artifact

NAME = "polm-tiny"


@dataclass
class Answers:
    """What the clients got."""

    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    lost: list[str] = field(default_factory=list)
    versions: Counter[str] = field(default_factory=Counter)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="ONNX Runtime GenAI folder, served at first")
    parser.add_argument("second", type=Path, help="ONNX Runtime GenAI folder, promoted halfway")
    parser.add_argument("--clients", type=int, default=16, help="clients that ask at the same time (default: 16)")
    parser.add_argument("--seconds", type=float, default=60, help="seconds of load (default: 60)")
    parser.add_argument("--max-tokens", type=int, default=32, help="longest answer, in tokens (default: 32)")
    parser.add_argument("--batch", type=int, default=16, help="requests answered together (default: 16)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the model (default: 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temp:
        root = Path(temp)
        make_registry(root, [args.first.resolve(), args.second.resolve()])
        options = ["--batch", str(args.batch), "--threads", str(args.threads)]
        with serving(root, *options) as (url, process):
            answers, memory, middle = asyncio.run(
                _load(url, process, root, args.clients, args.seconds, args.max_tokens)
            )
            counters = httpx.get(url.replace("/v1", "/metrics")).text
    _print(answers, memory, middle, args.seconds, counters)


def make_registry(root: Path, folders: list[Path]) -> None:
    """Make a project that has nothing but a registry: one version for each folder, the first one the champion."""
    from mlflow import MlflowClient

    (root / "params").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params/recipe.yaml").write_text("recipe: tiny\n")
    (root / ".polm").mkdir(exist_ok=True)
    api = client(root)
    assert isinstance(api, MlflowClient)
    api.create_registered_model(NAME)
    api.create_experiment(NAME, artifact_location=(root / ".polm/mlartifacts").as_uri())
    for number, folder in enumerate(folders, 1):
        place = root / f"version{number}/artifacts"
        place.mkdir(parents=True)
        (place / "int8").symlink_to(folder)
        digest = artifact.sha256(folder / "model.onnx")
        tags = {"model": f"model{number}", "form": "int8", "digest": digest, "export": digest}
        api.create_model_version(NAME, source=place.parent.as_uri(), tags=tags)
    promote(root, "1")


def client(root: Path) -> "MlflowClient":  # type: ignore[name-defined]  # noqa: F821  (loading MLflow takes seconds)
    """Connect to the project's store."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{root / '.polm/mlflow.db'}")


def promote(root: Path, version: str) -> None:
    """Move the alias `champion` to a version."""
    client(root).set_registered_model_alias(NAME, "champion", version)


@contextlib.contextmanager
def serving(root: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run `polm serve` on a free port; end it with SIGTERM and check that it left in peace.

    Yields:
        Address up to `/v1`, and the process.
    """
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    with (root / "serve.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--port", "0", *options],
            cwd=root,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment | {"PYTHONPATH": str(Path(__file__).parents[1]), "COLUMNS": "200"},
        )
        try:
            yield _address(root / "serve.log", process), psutil.Process(process.pid)
        finally:
            process.terminate()
            code = process.wait(timeout=120)
            assert code == 0, (root / "serve.log").read_text()


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    while process.poll() is None:
        match = re.search(r"http://\S+/v1", log.read_text())
        if match:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(match[0].replace("/v1", "/health"))
                return match[0]
        time.sleep(0.1)
    raise RuntimeError(log.read_text())


async def _load(
    url: str, process: psutil.Process, root: Path, clients: int, seconds: float, max_tokens: int
) -> tuple[Answers, list[float], int]:
    """Ask for a while; return the answers, the server's memory in MB once a second, and which of these came halfway."""
    answers = Answers()
    memory: list[float] = []
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        clients_at_work = [
            asyncio.ensure_future(_ask(http, answers, end, max_tokens, number)) for number in range(clients)
        ]
        middle = None
        while time.monotonic() < end:
            memory.append(sum(map(_resident, [process, *process.children(recursive=True)])) / 1e6)
            if middle is None and time.monotonic() > end - seconds / 2:
                await asyncio.to_thread(promote, root, "2")
                middle = len(memory)
            await asyncio.sleep(1)
        await asyncio.gather(*clients_at_work)
    return answers, memory, middle or len(memory)


def _resident(process: psutil.Process) -> int:
    """Count resident bytes; none when the process just ended, as the old version's does after a promotion."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


async def _ask(http: httpx.AsyncClient, answers: Answers, end: float, max_tokens: int, number: int) -> None:
    rng = random.Random(number)
    while time.monotonic() < end:
        question = f"What is {rng.randint(0, 99)} + {rng.randint(0, 99)}?"
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": max_tokens, "temperature": 0}
        start = time.monotonic()
        try:
            answer = await http.post("chat/completions", json=body)
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}: {answer.text[:200]}")
            completion = answer.json()
            if completion["choices"][0]["finish_reason"] not in ("stop", "length"):
                raise ValueError(answer.text)
        except (httpx.HTTPError, ValueError, KeyError) as e:
            answers.lost.append(repr(e))
            continue
        answers.seconds.append(time.monotonic() - start)
        answers.tokens += completion["usage"]["completion_tokens"]
        answers.versions[completion["model"]] += 1


def _print(answers: Answers, memory: list[float], middle: int, seconds: float, counters: str) -> None:
    cuts = statistics.quantiles(answers.seconds, n=20)
    print(f"answers       {len(answers.seconds)}, {len(answers.seconds) / seconds:.1f} a second")
    print(f"lost          {len(answers.lost)} {answers.lost[:3] or ''}")
    print(f"versions      {', '.join(f'{name}: {count}' for name, count in sorted(answers.versions.items()))}")
    print(f"latency       p50 {cuts[9]:.3f} s, p95 {cuts[18]:.3f} s, longest {max(answers.seconds):.3f} s")
    print(f"tokens        {answers.tokens / seconds:.0f} a second")
    before = memory[middle // 4 : middle]
    after = memory[middle + (len(memory) - middle) // 4 :]
    print(f"memory        start {memory[0]:.0f} MB, end {memory[-1]:.0f} MB, highest {max(memory):.0f} MB")
    for name, part in (("before", before), ("after", after)):
        if part:
            print(
                f"  {name:<11} first {part[0]:.0f} MB, median {statistics.median(part):.0f} MB, last {part[-1]:.0f} MB"
            )
    for name in ("written", "dropped", "failed"):
        match = re.search(rf"^polm_traces_{name}_total (\S+)", counters, re.M)
        print(f"traces        {name} {float(match[1]) if match else 0:.0f}")


if __name__ == "__main__":
    main()
