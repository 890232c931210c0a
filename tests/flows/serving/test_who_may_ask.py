"""Property: where there is a key only who sends it may ask, and where there is none no foreign web page may."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.serve import client, serving
from flows.serving.application import KEY
from tests.support.serving import MESSAGES, ask, make, wait_for

SECRET = "open-sésame"
BODY = {"messages": MESSAGES, "max_tokens": 3}


@pytest.fixture(scope="module")
def guarded(
    chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """A project whose server asks for a key, and the server's address."""
    root = make(tmp_path_factory.mktemp("guarded"), chat_onnx, mlflow_template)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KEY, SECRET)
            url, _ = stack.enter_context(serving(root, "--threads", "1"))
        yield root, url


@pytest.fixture(scope="module")
def unguarded(chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that asks for no key."""
    with serving(make(tmp_path_factory.mktemp("open"), chat_onnx, mlflow_template), "--threads", "1") as (url, _):
        yield url


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {SECRET}".encode()},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Authorization": b"\xff"},
    ],
)
def test_a_request_without_the_key_is_refused(guarded: tuple[Path, str], headers: Any) -> None:
    answer = httpx.get(f"{guarded[1]}/models", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_no_question_is_answered_without_the_key(guarded: tuple[Path, str]) -> None:
    assert ask(guarded[1]).status_code == 401


def test_the_counters_are_not_shown_without_the_key(guarded: tuple[Path, str]) -> None:
    assert httpx.get(guarded[1].replace("/v1", "/metrics")).status_code == 401


def test_whether_it_lives_is_told_without_the_key(guarded: tuple[Path, str]) -> None:
    assert httpx.get(guarded[1].replace("/v1", "/health")).status_code == 200


def with_key(url: str) -> httpx.Response:
    """Ask with the key, from a page of another host."""
    headers = {b"Authorization": f"Bearer {SECRET}".encode(), b"Host": b"polm.example.org", b"Origin": b"null"}
    return httpx.post(f"{url}/chat/completions", json=BODY, headers=headers)


def test_who_has_the_key_may_come_from_anywhere(guarded: tuple[Path, str]) -> None:
    assert with_key(guarded[1]).status_code == 200


def test_the_key_is_written_neither_to_a_trace_nor_to_a_file(guarded: tuple[Path, str]) -> None:
    root, url = guarded
    assert with_key(url).status_code == 200
    wait_for(lambda: len(client(root).search_traces(["1"])) > 0)
    assert "12 + 345" in client(root).search_traces(["1"], include_spans=True)[0].to_json()
    files = [path.read_bytes() for path in root.rglob("*") if path.is_file() and "onnx" not in path.name]
    assert any(b"12 + 345" in content for content in files), "the trace is among them"
    for spelling in (SECRET.encode(), "sésame".encode(), b"sesame"):
        assert not any(spelling in content for content in files)


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_a_request_to_this_machine_is_answered(unguarded: str, host: str) -> None:
    port = unguarded.split(":")[2].removesuffix("/v1")
    headers = {"Host": f"{host}:{port}"}
    assert httpx.post(f"{unguarded}/chat/completions", json=BODY, headers=headers).status_code == 200


def test_a_web_page_of_this_machine_is_answered(unguarded: str) -> None:
    headers = {"Origin": "http://localhost:3000"}
    assert httpx.post(f"{unguarded}/chat/completions", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example.org"},
        {"Host": "evil.localhost.org:80"},
        {"Host": "["},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
    ],
)
def test_a_foreign_web_page_is_refused_and_told_why(unguarded: str, headers: dict[str, str]) -> None:
    answer = httpx.post(f"{unguarded}/chat/completions", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_request")
    assert f"'{next(iter(headers))}'" in answer.json()["error"]["message"]
    assert httpx.get(f"{unguarded}/models", headers=headers).status_code == 403


def test_a_request_that_names_no_host_is_refused(unguarded: str) -> None:
    """By the server, or by the HTTP parser below it."""
    assert httpx.post(f"{unguarded}/chat/completions", json=BODY, headers={"Host": ""}).status_code in (400, 403)
