"""Requests as clients write them: what is neutral changes nothing, what cannot be done is refused by its path."""

import json
import logging
import re
import shutil
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.serve import NAME, make_registry
from flows.serving import application
from flows.serving.answer import Sampling
from flows.serving.chat_parser import parse
from flows.serving.chat_request import EVERY, ChatRequest
from flows.serving.follower import Follower
from flows.serving.openai_api import RequestError
from flows.serving.requests import Admission, Limits
from flows.serving.traces import Traces

MESSAGES: list[Any] = [{"role": "user", "content": "What is 12 + 345?"}]
BODY: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 6, "temperature": 0}
DRAWN: dict[str, Any] = {"messages": MESSAGES, "max_tokens": 12, "temperature": 1.5, "seed": 7, "top_k": -1, "top_p": 1}
"""An answer by chance, the same each time: unlike the likeliest one of a random model, it shows the least change."""
PATH = "/v1/chat/completions"
PROPERTY = settings(
    derandomize=True, deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NEUTRAL: dict[str, list[Any]] = {
    "model": [None, NAME, f"{NAME}/1"],
    "tools": [None, []],
    "tool_choice": [None, "none", "auto"],
    "functions": [None, []],
    "function_call": [None, "none", "auto"],
    "parallel_tool_calls": [None, True, False],
    "logit_bias": [None, {}, {"50256": 0}],
    "logprobs": [None, False],
    "top_logprobs": [None, 0],
    "reasoning_effort": [None, "none"],
    "modalities": [None, ["text"]],
    "prediction": [None],
    "audio": [None],
    "web_search_options": [None],
    "verbosity": [None, "medium"],
    "response_format": [None, {"type": "text"}],
    "stop": [None, []],
    "stream": [None, False],
    "stream_options": [None, {}, {"include_usage": False}, {"include_usage": None, "include_obfuscation": False}],
    "n": [None, 1],
    "best_of": [None, 1],
    "echo": [None, False],
    "ignore_eos": [None, False],
    "min_tokens": [None, 0],
    "presence_penalty": [None, 0, 0.0, -0.0],
    "frequency_penalty": [None, 0, 0.0],
    "repetition_penalty": [None, 1, 1.0],
    "min_p": [None, 0, 0.0],
    "top_a": [None, 0],
    "typical_p": [None, 1.0],
    "repeat_penalty": [None, 1.0],
    "length_penalty": [None, 1],
    "use_beam_search": [None, False],
    "skip_special_tokens": [None, True],
    "add_generation_prompt": [None, True],
    "continue_final_message": [None, False],
    "cache_prompt": [None, True, False],
    "top_p": [None, 1, 1.0],
    "top_k": [None, -1, 0, 10**30],
    "seed": [None, -1, 0, 2**63],
    "max_completion_tokens": [None, -1, 6, 10**30],
    "user": [None, "u", "\0", "ü"],
    "metadata": [None, {}, {"a": "b", "c": {"d": [1]}}],
    "store": [None, True, False],
    "service_tier": [None, "auto"],
    "safety_identifier": [None, "x"],
    "prompt_cache_key": [None, "x"],
    "prompt_cache_retention": [None, "24h"],
    "a key that nobody knows": [None, [], {}],
}
"""Values of a greedy request of six tokens that change nothing."""
REFUSED: list[tuple[str, Any]] = [
    ("tools[]", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "f"}}}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("parallel_tool_calls", {"parallel_tool_calls": "no"}),
    ("logit_bias.50256", {"logit_bias": {"50256": -100}}),
    ("logprobs", {"logprobs": True}),
    ("top_logprobs", {"top_logprobs": 2}),
    ("reasoning_effort", {"reasoning_effort": "high"}),
    ("modalities[1]", {"modalities": ["text", "audio"]}),
    ("prediction", {"prediction": {"type": "content", "content": "5"}}),
    ("verbosity", {"verbosity": "low"}),
    ("response_format.type", {"response_format": {"type": "json_object"}}),
    ("response_format.type", {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
    ("stop[1]", {"stop": ["a", 3]}),
    ("stop", {"stop": [""]}),
    ("stop", {"stop": ["a"] * 17}),
    ("stream", {"stream": 1}),
    ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": True}}),
    ("stream_options.include_usge", {"stream_options": {"include_usge": True}}),
    ("n", {"n": 2}),
    ("best_of", {"best_of": 3}),
    ("echo", {"echo": True}),
    ("ignore_eos", {"ignore_eos": True}),
    ("min_tokens", {"min_tokens": 5}),
    ("repetition_penalty", {"repetition_penalty": 1.1}),
    ("min_p", {"min_p": 0.05}),
    ("top_k", {"top_k": -2}),
    ("top_k", {"top_k": True}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -2}),
    ("max_completion_tokens", {"max_completion_tokens": 1.5}),
    ("seed", {"seed": 2**64}),
    ("temperature", {"temperature": "0.5"}),
    ("temperature", {"temperature": True}),
    ("temperature", {"temperature": 10**400}),
    ("grammar", {"grammar": "root ::= [0-9]"}),
    ("chat_template", {"chat_template": "{{ messages }}"}),
    ("a key", {"a key": 1}),
    ("messages", {"messages": None}),
    ("messages", {"messages": {}}),
    ("messages[0]", {"messages": ["hi"]}),
    ("messages[0].role", {"messages": [{"role": None, "content": "x"}]}),
    ("messages[0].role", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": None}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": []}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": {"text": "x"}}]}),
    ("messages[0].content[0]", {"messages": [{"role": "user", "content": ["x"]}]}),
    ("messages[0].content[0].text", {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}),
    ("messages[0].content[0].text", {"messages": [{"role": "user", "content": [{"type": "text", "text": "a\0"}]}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": "a\0b"}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": "half \ud83d"}]}),
    ("messages[0].images", {"messages": [{"role": "user", "content": "x", "images": ["AA=="]}]}),
    ("messages[0].contnt", {"messages": [{"role": "user", "content": "x", "contnt": "y"}]}),
    ("messages[1].tool_calls", {"messages": [*MESSAGES, {"role": "assistant", "content": "5", "tool_calls": [{}]}]}),
    ("messages[1].prefix", {"messages": [*MESSAGES, {"role": "assistant", "content": "5", "prefix": True}]}),
    (
        "messages[1].reasoning_content",
        {"messages": [*MESSAGES, {"role": "assistant", "content": "5", "reasoning_content": "so"}]},
    ),
    ("messages", {"messages": [*MESSAGES, {"role": "assistant", "content": "5"}]}),
    ("user", {"user": "\udc80"}),
    ("metadata.a", {"metadata": {"a": float("inf")}}),
]


@pytest.fixture(scope="module")
def http(chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The server in this process, with a model in its own; an error that it does not handle is raised here."""
    root = tmp_path_factory.mktemp("requests")
    (root / ".polm").mkdir()
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    make_registry(root, [chat_onnx / "fp32"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/.polm/mlflow.db")
        follower = Follower("tiny", "champion", batch=8, threads=1, seconds=60.0)
        traces = Traces("tiny")
        app = application.build(
            Admission(follower, traces, Limits(queue=8, batch=8, timeout=60.0, max_new_tokens=64)), None
        )
        with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
            yield client
        follower.close()
        traces.close()
        assert (traces.failed, traces.dropped) == (0, 0), "every trace could be written"


@contextmanager
def no_complaint() -> Iterator[None]:
    """Nothing is logged meanwhile that a person would have to look at."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("polm", "uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(listener)
    yield
    for logger in loggers:
        logger.removeHandler(listener)
    assert not said


def post(http: TestClient, body: Any) -> Any:
    """The answer to a body: bytes as they are, else JSON as a lax client writes it."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with no_complaint():
        answer = http.post(PATH, content=content)
    assert answer.status_code < 500, answer.text
    return answer


def said(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def stands_in(name: str, body: Any) -> bool:
    """Whether a path as the server writes it leads to something in the body."""
    for key, index, quoted in re.findall(r'(?:^|\.)([\w-]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]', name):
        part: Any = int(index) if index else json.loads(quoted) if quoted else key
        if (isinstance(body, dict) and part in body) or (isinstance(body, list) and part < len(body)):
            body = body[part]
        else:
            return False
    return True


def is_refusal(answer: Any, body: Any) -> str:
    """Check a 400: it names a path that is in the body, or what is missing there; returns the path."""
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), answer.text
    name = error["param"]
    if name is None:
        assert "the body" in error["message"]
    elif "is missing" in error["message"]:
        assert not stands_in(name, body) and stands_in(name.rpartition(".")[0], body), (name, body)
    else:
        assert stands_in(name, body) and f"'{name}'" in error["message"], (answer.text, body)
    return str(name)


def test_one_neutral_value_at_a_time(http: TestClient) -> None:
    plain, drawn = said(post(http, BODY)), said(post(http, DRAWN))
    assert plain and said(post(http, {**DRAWN, "seed": 8})) != drawn != said(post(http, {**DRAWN, "top_k": 3}))
    for key, values in NEUTRAL.items():
        for value in values:
            assert said(post(http, {**BODY, key: value})) == plain, (key, value)
            if key not in (*DRAWN, "max_completion_tokens"):
                assert said(post(http, {**DRAWN, key: value})) == drawn, (key, value)


@PROPERTY
@given(st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in NEUTRAL.items()}))
def test_neutral_values_together_change_nothing(http: TestClient, changes: dict[str, Any]) -> None:
    assert said(post(http, {**BODY, **changes})) == said(post(http, BODY))
    others = {key: value for key, value in changes.items() if key not in (*DRAWN, "max_completion_tokens")}
    assert said(post(http, {**DRAWN, **others})) == said(post(http, DRAWN))


@pytest.mark.parametrize(("name", "changes"), REFUSED)
def test_what_cannot_be_done_is_refused_by_its_path(http: TestClient, name: str, changes: dict[str, Any]) -> None:
    body = {**BODY, **changes}
    assert is_refusal(post(http, body), body) == name.replace("tools[]", "tools").replace("a key", '["a key"]')
    if name in NEUTRAL:
        key = name.split(".")[0].split("[")[0]
        wrong = {key: changes[key]}
        assert is_refusal(post(http, {**BODY, **wrong}), {**BODY, **wrong}).startswith(key)


def test_advice_stays_on_its_level(http: TestClient) -> None:
    def message(**changes: Any) -> str:
        return str(post(http, {**BODY, **changes}).json()["error"]["message"])

    assert "did you mean 'temperature'?" in message(temprature=1)
    assert "did you mean 'stream_options.include_usage'?" in message(stream_options={"include_usge": True})
    assert "did you mean 'messages[0].name'?" in message(messages=[{**MESSAGES[0], "nme": "x"}])
    for wrong in ({"messges": 1}, {"temperature_": 1}, {"model": "x"} | {"stop_": 1}):
        nested = {**MESSAGES[0], **{key: 1 for key in wrong if key != "model"}}
        assert "leave it out" in message(messages=[nested]), "these are right one level above"


@pytest.mark.parametrize(
    "echoed",
    [
        {"role": "assistant", "content": "5", "refusal": None, "annotations": [], "audio": None, "function_call": None},
        {"role": "assistant", "content": "5", "tool_calls": [], "reasoning_content": None, "reasoning": ""},
        {"role": "assistant", "content": "5", "provider_specific_fields": {}, "thinking_blocks": None, "images": []},
        {"role": "assistant", "content": [{"type": "text", "text": "5", "annotations": []}], "id": "msg_1"},
        {"role": "assistant", "content": "5", "name": "helper"},
    ],
)
def test_an_answer_that_is_sent_back_is_its_text(http: TestClient, echoed: dict[str, Any]) -> None:
    """The answers are kept by OpenAI's, LiteLLM's, LangChain's, DeepSeek's and vLLM's clients."""
    plain = [*MESSAGES, {"role": "assistant", "content": "5"}, *MESSAGES]
    assert said(post(http, {**DRAWN, "messages": [*MESSAGES, echoed, *MESSAGES]})) == said(
        post(http, {**DRAWN, "messages": plain})
    )


def test_messages_that_mean_the_same(http: TestClient) -> None:
    def answer(*messages: dict[str, Any]) -> str:
        return said(post(http, {**DRAWN, "messages": [*messages]}))

    [user] = MESSAGES
    system, empty = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": ""}
    assert answer({"role": "developer", "content": "Be brief."}, user) == answer(system, user) != answer(user)
    assert answer(user, {"role": "assistant", "content": None}, user) == answer(user, empty, user)
    part = {"type": "text", "text": user["content"], "cache_control": {"type": "ephemeral"}}
    assert answer({"role": "user", "content": [part]}) == answer(user)
    halves = [{"type": "text", "text": text} for text in ("What is ", "12 + 345?")]
    assert answer({"role": "user", "content": halves, "name": "a"}) == answer(user)
    assert answer(system, {"role": "system", "content": "Be kind."}, user) != answer(system, user)


@PROPERTY
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.integers(1, 12),
            "max_completion_tokens": st.integers(1, 12),
            "temperature": st.floats(0, 2),
            "top_p": st.floats(1e-9, 1),
            "top_k": st.integers(-1, 400),
            "seed": st.integers(-(2**63), 2**64 - 1),
            "stop": st.one_of(st.text(min_size=1), st.lists(st.text(min_size=1), max_size=16)),
            "stream": st.booleans(),
        },
    )
)
def test_what_is_accepted_is_honoured(http: TestClient, changes: dict[str, Any]) -> None:
    body = {"messages": MESSAGES, "max_tokens": 12, **changes}
    sampling = parse(json.dumps(body).encode()).sampling(64)
    seed = body.get("seed")
    assert sampling == Sampling(
        max_new_tokens=min(body["max_tokens"], body.get("max_completion_tokens", 64)),
        temperature=body.get("temperature", 1.0),
        top_p=body.get("top_p"),
        top_k=EVERY if body.get("top_k") in (0, -1) else body.get("top_k"),
        seed=None if seed in (None, -1) else seed % 2**31,
        stop=(body["stop"],) if isinstance(body.get("stop"), str) else tuple(body.get("stop", [])),
    )
    answer = post(http, body)
    if body.get("stream"):
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
        assert answer.text.rstrip().endswith("data: [DONE]")
    else:
        text = said(answer)
        assert answer.json()["usage"]["completion_tokens"] <= sampling.max_new_tokens
    assert not any(stop in text for stop in sampling.stop)
    if seed not in (None, -1) and not body.get("stream"):
        assert said(post(http, body)) == text, "a seed draws the same answer again"


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@PROPERTY
@given(st.data())
def test_any_value_anywhere_is_answered_or_refused_by_its_path(http: TestClient, data: st.DataObject) -> None:
    body: dict[str, Any] = {"messages": [dict(MESSAGES[0])], "max_tokens": 2, "temperature": 0}
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(["top", "message", "part", "whole"]))
        if place == "top":
            body[data.draw(st.sampled_from([*ChatRequest.model_fields]) | st.text(max_size=8))] = data.draw(JSON)
        elif isinstance(body.get("messages"), list) and body["messages"] and isinstance(body["messages"][0], dict):
            key = data.draw(st.sampled_from(["role", "content", "name", "id", "tool_calls"]) | st.text(max_size=8))
            value = data.draw(JSON)
            if place == "part":
                key, value = "content", [{"type": "text", "text": "a", key: value}]
            body["messages"][0][key] = value
    answer = post(http, body)
    if answer.status_code != 200 and answer.status_code != 404:
        is_refusal(answer, body)
    if answer.status_code == 404:
        assert answer.json()["error"]["param"] == "model"


@PROPERTY
@given(st.binary(max_size=40) | st.text(string.printable, max_size=40).map(str.encode))
def test_bytes_that_are_no_request(http: TestClient, body: bytes) -> None:
    assert post(http, body).status_code == 400


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"\xff\xfe{}", None, "not UTF-8: byte 0 is 0xff"),
        (json.dumps(BODY).encode("utf-16"), None, "not UTF-8"),
        (b"", None, "not JSON"),
        (b"[]", None, "must be a JSON object"),
        (b"[" * 500_000, None, "nested more than 32 levels deep"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "a", "nested more than 32 levels deep"),
        (b'{"messages": [{"role": "user", "role": "system", "content": "x"}]}', "messages[0].role", "stands twice"),
        (b'{"temperature": 0, "messages": [], "temperature": 2}', "temperature", "stands twice"),
        (b'{"messages": [], "temperature": NaN}', "temperature", "no finite number"),
        (b'{"messages": [], "temperature": 1e999}', "temperature", "no finite number"),
        (b'{"messages": [], "seed": ' + b"9" * 5000 + b"}", "seed", "no finite number"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "messages[0].content", "the surrogate \\ud83d"),
        (b'{"\\udc00": 1}', '["\\udc00"]', "half a character"),
        (b'{"messages": [{"role": "user", "content": "\\u0000"}]}', "messages[0].content", "the character NUL"),
    ],
)
def test_bodies_that_readers_understand_differently(
    http: TestClient, body: bytes, param: str | None, message: str
) -> None:
    answer = post(http, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param) and message in error["message"], answer.text


def test_whole_pairs_of_surrogates_and_a_byte_order_mark_are_text(http: TestClient) -> None:
    body = {**DRAWN, "messages": [{"role": "user", "content": "🎉 ü \t\n"}]}
    raw = json.dumps(body, ensure_ascii=False).encode()
    assert said(post(http, raw)) == said(post(http, body)) == said(post(http, b"\xef\xbb\xbf" + raw))


def test_a_long_flat_body_is_read_quickly(http: TestClient) -> None:
    body = {**BODY, "metadata": {"x": [{}] * 200_000}}
    assert said(post(http, body)) == said(post(http, BODY))


def test_the_model_as_clients_ask_for_it(http: TestClient) -> None:
    [listed] = http.get("/v1/models").json()["data"]
    assert http.get(f"/v1/models/{NAME}").json() == listed and listed["id"] == NAME
    assert http.get(f"/v1/models/{NAME}%2F1").json() == http.get(f"/v1/models/{NAME}/1").json() == listed
    for name in ("gpt-4o", f"{NAME}/2", "a%00b", "%F0%9F%8E%89"):
        missing = http.get(f"/v1/models/{name}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_paths_and_methods(http: TestClient) -> None:
    plain = said(post(http, BODY))
    for path in (f"{PATH}/", "/v1//chat/completions", "/v1/chat///completions//"):
        assert said(http.post(path, json=BODY)) == plain
    for path in ("/v1/models", "/v1/models/", f"/v1/models/{NAME}/", "/health", "/metrics"):
        head = http.head(path)
        assert (head.status_code, http.get(path).status_code) == (200, 200), path
    assert http.post("/chat/completions", json=BODY).json()["error"]["message"].endswith("ask /v1/chat/completions")
    assert "/v1/models" in http.get("/models").json()["error"]["message"]
    for method in ("GET", "OPTIONS", "DELETE", "HEAD"):
        answer = http.request(method, PATH)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    for path in ("/v1/completions", "/v1/responses", "/v1/embeddings", "/", "/v1"):
        assert http.post(path, json=BODY).status_code == 404


def test_the_content_type_is_not_looked_at_and_encodings_are_refused(http: TestClient) -> None:
    plain, body = said(post(http, BODY)), json.dumps(BODY)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""):
        assert said(http.post(PATH, content=body, headers={"Content-Type": kind})) == plain
    assert http.post(PATH, content=body, headers={"Content-Encoding": "gzip"}).status_code == 415
    assert said(http.post(PATH, content=body, headers={"Content-Encoding": "identity"})) == plain


def test_two_limits_and_numbers_with_equal_meaning() -> None:
    def limit(**given: Any) -> int:
        return parse(json.dumps({"messages": MESSAGES, **given}).encode()).sampling(64).max_new_tokens

    assert limit(max_tokens=3, max_completion_tokens=5) == limit(max_tokens=5, max_completion_tokens=3) == 3
    assert limit(max_tokens=-1) == limit(max_tokens=None) == limit(max_tokens=10**30) == limit() == 64
    assert limit(max_tokens=-1, max_completion_tokens=5) == 5
    with pytest.raises(RequestError, match="'max_tokens' is 0"):
        limit(max_tokens=0)
