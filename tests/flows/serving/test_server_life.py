"""Property: `polm serve` lives through promotions and trouble, and ends cleanly. Who may ask: `test_who_may_ask.py`."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from bench.serve import NAME, _resident, client, promote, serving
from flows.serving import server as http_server
from flows.serving.application import KEY
from flows.serving.requests import Limits
from tasks.stage.errors import ConfigError, GateError
from tests.support.serving import MESSAGES, ask, counter, leave, make, models_of, wait_for

LIMITS = Limits(queue=1, batch=1, timeout=1.0, max_new_tokens=8)


@pytest.fixture(scope="module")
def project(chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the chat model in fp32 as version 1, the champion, and in int8 as version 2."""
    return make(tmp_path_factory.mktemp("serve"), chat_onnx, mlflow_template)


@pytest.fixture
def fresh(chat_onnx: Path, mlflow_template: Path, tmp_path: Path) -> Path:
    """The same with a store of the test's own."""
    return make(tmp_path, chat_onnx, mlflow_template)


@contextlib.contextmanager
def crowded(project: Path) -> Iterator[tuple[str, psutil.Process, list[Future[httpx.Response]]]]:
    """A server whose model is halted, with as many requests as it takes; its address, the model, and the answers."""
    options = ("--threads", "1", "--batch", "1", "--queue", "2", "--timeout", "3")
    with serving(project, *options) as (url, process), ThreadPoolExecutor(8) as pool:
        [model] = models_of(process)
        model.suspend()  # the slowest model there is
        waiting = [pool.submit(ask, url) for _ in range(3)]
        wait_for(lambda: counter(url, "polm_requests_taken") == 3)
        yield url, model, waiting


def test_a_full_queue_says_when_to_ask_again(project: Path) -> None:
    with crowded(project) as (url, model, _):
        refused = ask(url)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert counter(url, 'polm_requests_total{status="429"') == 1
        model.resume()


def test_a_slow_answer_is_a_timeout_and_a_trace_and_leaves_room(project: Path) -> None:
    with crowded(project) as (url, model, waiting):
        late = [future.result() for future in waiting]
        assert [(a.status_code, a.json()["error"]["code"]) for a in late] == [(504, "timeout")] * 3
        assert counter(url, 'polm_requests_total{status="504",version="1"}') == 3
        model.resume()
        wait_for(lambda: counter(url, "polm_requests_taken") == 0)
        assert ask(url, max_tokens=1).status_code == 200, "room again"
        wait_for(lambda: counter(url, "polm_traces_written_total") == 4)  # each request is a trace, late ones too


def test_a_client_that_leaves_frees_its_place(project: Path) -> None:
    with serving(project, "--threads", "1", "--batch", "1") as (url, process):
        began = time.monotonic()
        assert ask(url, max_tokens=230).json()["usage"]["completion_tokens"] == 230
        one = time.monotonic() - began
        [model] = models_of(process)
        leave(url, model)
        left = counter(url, "polm_requests_taken")
        wait_for(lambda: counter(url, 'polm_requests_total{status="499"') >= left > 1)
        model.resume()
        began = time.monotonic()
        wait_for(lambda: counter(url, "polm_requests_taken") == 0)
        assert time.monotonic() - began < one * left / 2, "they were not answered to the end"


def test_a_promotion_loses_no_request(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, process), ThreadPoolExecutor(8) as pool:
        models: list[str] = []

        def ask_until_exchanged(number: int) -> list[int]:
            statuses = []
            while len(models) < 2000 and models[-20:].count(f"{NAME}/2") < 10:
                answer = ask(url, max_tokens=5 + number)
                statuses.append(answer.status_code)
                models.append(answer.json()["model"])
            return statuses

        asking = [pool.submit(ask_until_exchanged, number) for number in range(8)]
        wait_for(lambda: len(models) > 30)
        promote(fresh, "2")
        assert {status for future in asking for status in future.result(timeout=90)} == {200}
        assert set(models) == {f"{NAME}/1", f"{NAME}/2"}
        wait_for(lambda: counter(url, "polm_swaps_total") == 1)
        wait_for(lambda: len(models_of(process)) == 1)
        promote(fresh, "1")
        wait_for(lambda: ask(url).json()["model"] == f"{NAME}/1")


def test_a_version_that_drains_takes_cancels_and_keeps_no_promotion_waiting(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--batch", "1", "--poll", "0.1") as (url, process):
        [old] = models_of(process)

        def promote_three_times() -> None:
            for swaps, version in enumerate(("2", "1", "2"), 1):
                promote(fresh, version)
                wait_for(lambda swaps=swaps: counter(url, "polm_swaps_total") == swaps)

        leave(url, old, promote_three_times)
        left = counter(url, "polm_requests_taken")
        wait_for(lambda: counter(url, 'polm_requests_total{status="499"') >= left > 1)
        old.resume()
        wait_for(lambda: len(models_of(process)) == 1)
        assert ask(url).json()["model"] == f"{NAME}/2"


def test_a_broken_version_is_left_out(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, _):
        (fresh / "version2/artifacts/int8").unlink()
        source = client(fresh).get_model_version(NAME, "1").source
        client(fresh).create_model_version(NAME, source=source, tags={"model": "model3"})
        for failures, (version, message) in enumerate({"2": "no genai_config", "3": "has no tag 'form'"}.items(), 1):
            promote(fresh, version)
            wait_for(lambda failures=failures: counter(url, "polm_follow_failures_total") == failures)
            assert message in (fresh / "serve.log").read_text()
            assert ask(url).json()["model"] == f"{NAME}/1", "the old one goes on"


def test_a_model_that_dies_is_started_again(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, process):
        [model] = models_of(process)
        model.kill()
        wait_for(lambda: models_of(process) not in ([], [model]) and ask(url).status_code == 200)
        assert ask(url).json()["model"] == f"{NAME}/1" and not model.is_running()


def test_a_dead_mlflow_fails_no_request_and_loses_no_trace(fresh: Path) -> None:
    database = fresh / ".polm/mlflow.db"
    good = database.read_bytes()
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, _):
        database.write_bytes(b"no database" * 10_000)
        answers = [ask(url).json() for _ in range(3)]
        assert all(answer["choices"][0]["message"]["content"] for answer in answers)
        wait_for(lambda: counter(url, "polm_follow_failures_total") >= 1)
        assert counter(url, "polm_traces_written_total") == 0 < counter(url, "polm_traces_waiting_bytes")
        assert ask(url).status_code == 200
    database.write_bytes(good)
    with serving(fresh, "--threads", "1") as (url, _):
        wait_for(lambda: counter(url, "polm_traces_written_total") == 4 and not counter(url, "polm_traces_waiting"))
    traced = {trace.info.tags["request_id"] for trace in client(fresh).search_traces(["1"])}
    assert {answer["id"] for answer in answers} < traced


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_end_and_leaves_nothing_behind(project: Path, number: int) -> None:
    with serving(project, "--threads", "1") as (url, process):
        models = models_of(process)
        body = {"messages": MESSAGES, "max_tokens": 230, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            os.kill(process.pid, number)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        process.wait(timeout=60)
        with pytest.raises(httpx.ConnectError):
            ask(url)
        assert models and not any(model.is_running() for model in models)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_is_loaded_ends_it(project: Path, number: int) -> None:
    command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--port", "0"]
    path = {"PYTHONPATH": str(Path(__file__).parents[3])}
    server = subprocess.Popen(command, cwd=project, env=os.environ | path, stdout=subprocess.DEVNULL)
    process = psutil.Process(server.pid)
    wait_for(lambda: models_of(process))
    [model] = models_of(process)
    model.suspend()  # it would load for ever
    server.send_signal(number)
    assert server.wait(timeout=60) == 130
    wait_for(lambda: not model.is_running() or model.status() == psutil.STATUS_ZOMBIE)


def test_the_benchmark_outlives_a_process_that_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = psutil.Process(child.pid)
        assert _resident(process) > 0
        child.communicate(b"\n")
    assert _resident(process) == 0


def test_what_cannot_be_served_says_so(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tracking / "params").mkdir(exist_ok=True)
    (tracking / "params/recipe.yaml").write_text("recipe: tiny\n")
    monkeypatch.delenv(KEY, raising=False)

    def start(host: str, port: int) -> None:
        http_server.serve("champion", host, port, LIMITS, threads=1, poll=1.0, say=lambda _: None)

    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 can be reached by others: set POLM_API_KEY"):
        start("0.0.0.0", 0)
    with pytest.raises(GateError, match="no champion yet"):
        start("127.0.0.1", 0)
    with http_server._listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on 127"):
            start("127.0.0.1", taken.getsockname()[1])
