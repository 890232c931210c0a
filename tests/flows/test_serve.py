"""`polm serve`, as a process of its own on loopback, with the clients that people use."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from bench.serve import NAME, make_registry, promote, serving
from flows import serve
from flows._answer import Sampling
from flows._desk import Limits
from flows._engine import Engine
from tasks._errors import ConfigError, GateError

MESSAGES: Any = [{"role": "user", "content": "What is 12 + 345?"}]
LIMITS = Limits(queue=1, batch=1, timeout=1.0, max_new_tokens=8)


def make(folder: Path, chat_onnx: Path, database: Path) -> Path:
    root = folder / "project"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(database, root / ".polm/mlflow.db")
    make_registry(root, [chat_onnx / "fp32", chat_onnx / "int8"])
    return root


@pytest.fixture(scope="module")
def project(chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the chat model in fp32 as version 1, the champion, and in int8 as version 2."""
    return make(tmp_path_factory.mktemp("serve"), chat_onnx, mlflow_template)


@pytest.fixture
def fresh(chat_onnx: Path, mlflow_template: Path, tmp_path: Path) -> Path:
    """The same with a store of the test's own."""
    return make(tmp_path, chat_onnx, mlflow_template)


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    with serving(project, "--threads", "1", "--poll", "0.2") as (url, _):
        yield url


@pytest.fixture(scope="module")
def expected(chat_onnx: Path) -> str:
    """The likeliest 20 tokens."""
    engine, pieces, ended = Engine(chat_onnx / "fp32", batch=1, threads=1), [], threading.Event()

    def hear(piece: Any) -> None:
        pieces.append(piece.text)
        if piece.reason:
            ended.set()

    engine.submit(engine.encode(MESSAGES), Sampling(20, 0.0), hear)
    assert ended.wait(30)
    engine.close()
    return "".join(pieces)


def ask(url: str, **changes: Any) -> httpx.Response:
    body = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0, **changes}
    return httpx.post(f"{url}/chat/completions", json=body, timeout=60)


def counter(url: str, name: str) -> float:
    page = httpx.get(url.replace("/v1", "/metrics")).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_openai_client_gets_whole_and_streamed_answers(url: str, expected: str) -> None:
    client = OpenAI(base_url=url, api_key="none")
    assert [model.id for model in client.models.list()] == [NAME]
    options: Any = {"model": NAME, "messages": MESSAGES, "max_tokens": 20, "temperature": 0}
    answer = client.chat.completions.create(**options)
    assert answer.choices[0].message.content == expected
    assert (answer.choices[0].finish_reason, answer.model) == ("length", f"{NAME}/1")
    assert answer.system_fingerprint and answer.system_fingerprint.startswith(f"{NAME}/1-")
    assert answer.usage and answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == answer.usage and len(chunks) > 10, "it came piece by piece"
    stop = expected[5:9]
    stopped = client.chat.completions.create(**options, stop=[stop])
    assert stopped.choices[0].message.content == expected[: expected.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    with pytest.raises(BadRequestError, match="'n' is 2"):
        client.chat.completions.create(**options, n=2)


def test_many_clients_at_a_time_get_their_own_answers(url: str, expected: str) -> None:
    async def all_of_them() -> list[Any]:
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            options: Any = {"model": NAME, "messages": MESSAGES, "temperature": 0}
            return await asyncio.gather(
                *(client.chat.completions.create(**options, max_tokens=n) for n in range(1, 21))
            )

    answers = asyncio.run(all_of_them())
    assert [a.usage.completion_tokens for a in answers] == list(range(1, 21))
    assert all(expected.startswith(a.choices[0].message.content) for a in answers)
    assert answers[-1].choices[0].message.content == expected


def test_an_answer_can_be_sent_back_with_the_next_question(url: str) -> None:
    """As the client's own objects hold it, with the keys that are empty."""
    with OpenAI(base_url=url, api_key="none") as client:
        asked: list[Any] = [{"role": "user", "content": "What is 1 + 1?"}]
        asked.append(client.chat.completions.create(model=NAME, messages=asked, max_tokens=4).choices[0].message)
        asked.append({"role": "user", "content": "And 2 + 2?"})
        again = client.chat.completions.create(
            model=NAME, messages=asked, max_tokens=4, temperature=1.0, extra_body={"top_k": 10**9}
        )
    assert again.usage is not None and again.usage.completion_tokens > 0


def test_curl(url: str, expected: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl here")
    body = json.dumps({"messages": MESSAGES, "max_tokens": 20, "temperature": 0, "stream": True})
    command = [curl, "-sN", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    events = [line.removeprefix("data: ") for line in said.splitlines() if line]
    assert events[-1] == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta.get("content", "") for delta in deltas) == expected


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "hi"}, "messages", "should be a valid array"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "'system', 'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages[0].content", "empty"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "valid string"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "x"}]}, "messages", "to be answered"),
        ({"messages": [{"role": "user", "content": "1 " * 300}]}, "messages", "context of 256"),
        ({"n": 2}, "n", "should be 1"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1.5}, "max_tokens", "integer"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"stop": [""]}, "stop", "empty text"),
        ({"stop": 3}, "stop", "valid string"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"tools": []}, "tools", "not supported"),
        ({"presence_penalty": 0.5}, "presence_penalty", "less than or equal to 0"),
    ],
)
def test_what_cannot_be_answered_is_refused(url: str, changes: dict[str, Any], param: str, message: str) -> None:
    answer = ask(url, **changes)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert ask(url).status_code == 200, "still serving"


def test_other_wrong_requests(url: str) -> None:
    assert httpx.post(f"{url}/chat/completions", content=b"{").json()["error"]["message"].startswith("the body is not")
    assert httpx.post(f"{url}/chat/completions", content=b"[]").status_code == 400
    assert httpx.post(f"{url}/chat/completions", content=b"1" * 1_000_001).status_code == 413
    missing = ask(url, model="gpt-4")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert httpx.get(f"{url}/nothing").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{url}/chat/completions").status_code == 405


def test_an_answer_leads_to_its_trace(url: str, project: Path) -> None:
    from mlflow import MlflowClient

    answer = ask(url)
    assert answer.headers["x-model-version"] == "1"
    api = MlflowClient(f"sqlite:///{project / '.polm/mlflow.db'}")
    experiment = api.get_experiment_by_name(NAME).experiment_id
    found: list[Any] = []

    def traced() -> bool:
        found[:] = api.search_traces([experiment], f"tags.request_id = '{answer.json()['id']}'")
        return bool(found)

    wait_for(traced)
    assert found[0].info.tags["model_version"] == "1"
    span = found[0].data.spans[0]
    assert span.inputs["messages"] == MESSAGES
    assert span.outputs["content"] == answer.json()["choices"][0]["message"]["content"]
    assert span.attributes["completion_tokens"] == 20


def test_the_key_is_asked_for_and_never_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(serve.KEY, "open-sesame")
    with serving(project, "--threads", "1") as (url, _):
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic open-sesame"}):
            answer = httpx.get(f"{url}/models", headers=header)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(url.replace("/v1", "/metrics")).status_code == 401
        assert ask(url).status_code == 401
        assert httpx.get(url.replace("/v1", "/health")).status_code == 200
        assert OpenAI(base_url=url, api_key="open-sesame").models.list().data[0].id == NAME
    assert "sesame" not in (project / "serve.log").read_text()


def test_a_full_queue_and_a_slow_answer_are_said(project: Path) -> None:
    options = ("--threads", "1", "--batch", "1", "--queue", "2", "--timeout", "0.15")
    with serving(project, *options) as (url, _), ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(url, max_tokens=230), range(48)))
        assert {a.status_code for a in answers} <= {200, 429, 504}
        full = [a for a in answers if a.status_code == 429]
        assert full and all(a.headers["Retry-After"] == "1" for a in full)
        assert full[0].json()["error"]["type"] == "rate_limit_error"
        for late in (a for a in answers if a.status_code == 504):
            assert late.json()["error"]["code"] == "timeout"
        wait_for(lambda: counter(url, "polm_requests_taken") == 0)
        assert ask(url, max_tokens=1).status_code == 200, "room again"


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


def models_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes that hold a model."""
    return [p for p in process.children() if "spawn_main" in " ".join(p.cmdline())]


def test_a_broken_version_and_a_dead_model_do_not_end_the_service(fresh: Path) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, process):
        (fresh / "version2/artifacts/int8").unlink()
        promote(fresh, "2")
        wait_for(lambda: counter(url, "polm_follow_failures_total") >= 1)
        assert ask(url).json()["model"] == f"{NAME}/1", "the old one goes on"
        promote(fresh, "1")
        [model] = models_of(process)
        model.kill()
        wait_for(lambda: ask(url).status_code == 200)
        assert models_of(process) != [model]


def test_a_dead_mlflow_fails_no_request(fresh: Path, expected: str) -> None:
    with serving(fresh, "--threads", "1", "--poll", "0.1") as (url, _):
        (fresh / ".polm/mlflow.db").write_bytes(b"no database" * 10_000)
        for _ in range(3):
            assert ask(url).json()["choices"][0]["message"]["content"] == expected
        wait_for(lambda: counter(url, "polm_follow_failures_total") >= 1)
        assert ask(url).status_code == 200


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


def test_what_cannot_be_served_says_so(tracking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tracking / "params").mkdir(exist_ok=True)
    (tracking / "params/recipe.yaml").write_text("recipe: tiny\n")
    monkeypatch.delenv(serve.KEY, raising=False)

    def start(host: str, port: int) -> None:
        serve.serve("champion", host, port, LIMITS, threads=1, poll=1.0, say=lambda _: None)

    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0 can be reached by others: set POLM_API_KEY"):
        start("0.0.0.0", 0)
    with pytest.raises(GateError, match="no champion yet"):
        start("127.0.0.1", 0)
    with serve._listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen on 127"):
            start("127.0.0.1", taken.getsockname()[1])
