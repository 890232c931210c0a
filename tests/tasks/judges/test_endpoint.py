"""The endpoint judge, against a loopback server that speaks chat completions and has bad days."""

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.judges import endpoint as judge_endpoint
from tasks.judges.endpoint import Endpoint, EndpointJudge
from tasks.judges.protocol import Pair, figures, judge_pairs
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, DataError
from tests.support.judges import CONSTITUTION, Answer, said, serving

PARAMS = Path("params/test/label.yaml")
KEY = "sk-secret-0123456789"
Body = dict[str, Any]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, workspace: Path, no_proxy: None) -> str:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return KEY


def endpoint(url: str, **changes: Any) -> EndpointJudge:
    values = {
        "base_url": url,
        "model": "judge-1",
        "api_key_env": "JUDGE_KEY",
        "body": {"temperature": 0, "max_tokens": 4},
        "concurrency": 2,
        "timeout_seconds": 5,
        "attempts": 3,
        "backoff_seconds": 0.0,
        "max_wait_seconds": 1.0,
        "price_per_million": {"input": 1.0, "output": 10.0},
    }
    return EndpointJudge(parse(PARAMS, values | changes, Endpoint), ("A", "B"), PARAMS)


def test_an_endpoint_is_asked_once_and_its_replies_kept(key: str) -> None:
    def answer(number: int, body: Body) -> Answer:
        return said("B" if "B: right" in body["messages"][0]["content"] else "A")

    prompts = ["A: right B: wrong", "A: wrong B: right"]
    with serving(answer) as server:
        first = endpoint(server.url)
        assert first(prompts) == [1.0, 0.0]
        assert server.keys == [f"Bearer {KEY}"] * 2
        assert {k: server.bodies[0][k] for k in ("model", "temperature", "max_tokens")} == {
            "model": "judge-1",
            "temperature": 0,
            "max_tokens": 4,
        }
        assert first.usage() == {"prompt_tokens": 200, "completion_tokens": 4, "cost": 0.00024}
        again = endpoint(server.url)
        assert again(prompts) == [1.0, 0.0]
        assert (again.requests, again.cached, len(server.bodies)) == (0, 2, 2)
        assert again.usage() == first.usage()
        endpoint(server.url, body={"temperature": 1})(prompts[:1])
        assert len(server.bodies) == 3, "another request is another reply"


def test_a_busy_server_is_asked_again_and_waited_for(
    key: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tasks.judges.endpoint.time.sleep", waits.append)
    trouble: list[Answer] = [(429, {"Retry-After": "7"}, {}), (503, {}, {}), said("A")]
    with caplog.at_level(logging.INFO), serving(lambda number, body: trouble[number]) as server:
        judged = endpoint(server.url, backoff_seconds=0.5, max_wait_seconds=10)
        assert judged(["?"]) == [1.0]
    assert waits == [7.0, 1.0]
    assert judged.requests == 3
    assert "HTTP 429" in caplog.text
    assert KEY not in caplog.text


def test_the_key_is_written_nowhere(key: str, workspace: Path, caplog: pytest.LogCaptureFixture) -> None:
    refuse: Answer = (401, {}, {"error": f"Incorrect API key provided: {KEY}"})
    with caplog.at_level(logging.DEBUG), serving(lambda n, b: said("A") if n == 0 else refuse) as server:
        endpoint(server.url)(["one"])
        with pytest.raises(ConfigError, match=r"refuses the key in JUDGE_KEY \(HTTP 401\)") as error:
            endpoint(server.url)(["two"])
    assert KEY not in str(error.value)
    assert KEY not in caplog.text
    files = [path for path in workspace.rglob("*") if path.is_file()]
    assert len(files) == 1, "one reply was kept"
    assert KEY not in files[0].read_text()


def test_a_nonsense_reply_is_kept_as_no_verdict(key: str) -> None:
    with serving(lambda number, body: said("I like turtles")) as server:
        pairs = [Pair("q", ("x", "y"), (1.0, 0.0))]
        found = figures(
            pairs, judge_pairs(endpoint(server.url), CONSTITUTION, pairs), resamples=10, confidence=0.95, seed=0
        )
    assert (found["ties"], found["unreadable"], found["position_bias"]) == (1, 2, None)


def test_a_missing_key_is_found_beforeanything_is_sent(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"label.yaml: endpoint.api_key_env: .* JUDGE_KEY is not set; export it"):
        endpoint("http://127.0.0.1:9/v1")
    assert endpoint("http://127.0.0.1:9/v1", api_key_env=None).requests == 0


def test_an_endpoint_that_is_not_there(key: str) -> None:
    with serving(lambda number, body: said("A")) as server:
        gone = server.url
    with pytest.raises(
        DataError, match=r"endpoint.base_url: http://127.* cannot be reached \(ConnectError.*after 3 tri"
    ):
        endpoint(gone)(["?"])


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ((500, {}, {}), DataError, r"answers HTTP 500, after 3 tries"),
        ((429, {"Retry-After": "3600"}, {}), DataError, r"HTTP 429 and asks to wait 3600 s, .*after 1 tries"),
        ((400, {}, {"error": "no such model"}), ConfigError, r"HTTP 400: .*no such model.*check endpoint.model"),
        ((200, {}, {"answer": "A"}), DataError, r"does not speak the chat completions protocol"),
        ((200, {}, {"choices": []}), DataError, r"does not speak the chat completions protocol"),
    ],
)
def test_what_a_server_can_do_wrong(key: str, answer: Answer, kind: type[Exception], message: str) -> None:
    with serving(lambda number, body: answer) as server, pytest.raises(kind, match=message):
        endpoint(server.url)(["?"])


def test_a_stage_cut_short_pays_for_no_reply_twice(key: str) -> None:
    with serving(lambda number, body: said("A") if number < 2 else (400, {}, {})) as server:
        with pytest.raises(ConfigError):
            endpoint(server.url, concurrency=1)(["one", "two", "three"])
        rest = endpoint(server.url, concurrency=1)
        assert rest(["one", "two"]) == [1.0, 1.0]
        assert rest.requests == 0


def test_retry_after_is_seconds_or_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert judge_endpoint._retry_after("2.5") == 2.5
    assert 25 < judge_endpoint._retry_after(later) <= 30
    assert judge_endpoint._retry_after("soon") == judge_endpoint._retry_after("") == 0


@pytest.mark.parametrize("url", ["http://user:word@host/v1", "https://host/v1?key=x", "ftp://host"])
def test_secrets_in_an_address_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"'base_url'"):
        parse(PARAMS, {"base_url": url}, Endpoint)
