"""What `polm serve` answers, as a process of its own on loopback, to the clients that people use."""

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from bench.serve import NAME, serving
from flows.serving.answer import Sampling
from flows.serving.engine import Engine
from tests.support.serving import MESSAGES, ask, make, wait_for


@pytest.fixture(scope="module")
def project(chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the chat model in fp32 as version 1, the champion, and in int8 as version 2."""
    return make(tmp_path_factory.mktemp("serve"), chat_onnx, mlflow_template)


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


def test_the_openai_client_gets_whole_and_streamed_answers(url: str, expected: str) -> None:
    client = OpenAI(base_url=url, api_key="none")
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == client.models.retrieve(f"{NAME}/1").id == NAME
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
    """The client's own objects hold the answer with the keys that are empty."""
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
        (
            {"messages": [{"role": "wizard", "content": "x"}]},
            "messages[0].role",
            "'system', 'developer', 'user' or 'assistant'",
        ),
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
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
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


def test_a_client_of_http_1_0_and_one_that_leaves_midway(url: str, project: Path) -> None:
    port, body = (
        int(url.split(":")[2].removesuffix("/v1")),
        json.dumps({"messages": MESSAGES, "max_tokens": 3}).encode(),
    )

    def talk(head: str, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as s:
            s.sendall(f"POST /v1/chat/completions {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + sent)
            if len(sent) < len(body):
                return b""
            with s.makefile("rb") as said:
                return said.read()

    assert talk("HTTP/1.0", body).startswith(b"HTTP/1.1 200")
    for header in ("Host: evil.example.org", "Origin: http://evil.example.org"):
        assert talk(f"HTTP/1.0\r\n{header}", body).startswith(b"HTTP/1.1 403")
    talk("HTTP/1.1\r\nHost: localhost", body[:10])
    assert talk("HTTP/1.0", body).startswith(b"HTTP/1.1 200")
    assert "Traceback" not in (project / "serve.log").read_text()


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
