"""Property: the chat model that MLflow logs answers alike loaded and over HTTP, as `mlflow models serve` serves it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.export import genai
from tests.conftest import REPO
from tests.support.chatting import QUESTION, greedy


@pytest.fixture(scope="module")
def folder(chat_onnx: Path) -> Path:
    """The small chat model as an ONNX Runtime GenAI folder with a context of 256 tokens."""
    return chat_onnx / "fp32"


@pytest.fixture(scope="module")
def logged(folder: Path, tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[tuple[str, str]]:
    """The model logged to a store of its own: `(tracking URI, model URI)`."""
    import mlflow

    store = tmp_path_factory.mktemp("store")
    shutil.copyfile(mlflow_template, store / "mlflow.db")
    uri = f"sqlite:///{store / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        patch.setenv("MLFLOW_TRACKING_URI", uri)  # set_tracking_uri would outlive this module
        mlflow.set_experiment("served")
        with mlflow.start_run():
            info = mlflow.pyfunc.log_model(
                name="chat",
                python_model=str(REPO / "mlflow" / "chat_model.py"),
                artifacts={"onnx": str(folder)},
                pip_requirements=["mlflow", "onnxruntime-genai"],
                model_config={"threads": 1},
            )
        yield uri, info.model_uri


@pytest.fixture(scope="module")
def served(logged: tuple[str, str]) -> Any:
    """The logged model, loaded from the store."""
    import mlflow

    return mlflow.pyfunc.load_model(logged[1])


def request(**changes: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, "temperature": 0.0, **changes}


def test_the_logged_model_answers_as_the_export_does_whole_and_streamed(served: Any, folder: Path) -> None:
    response = served.predict(request())
    [choice] = response["choices"]
    expected = greedy(folder, request()["messages"], 12)
    assert choice["message"] == {"role": "assistant", "content": expected}
    assert choice["finish_reason"] == "length"
    assert response["object"] == "chat.completion"
    usage = response["usage"]
    assert usage["completion_tokens"] == 12
    assert usage["total_tokens"] == usage["prompt_tokens"] + 12
    chunks = list(served.predict_stream(request()))
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == expected
    assert [c["choices"][0].get("finish_reason") for c in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_a_stop_string_ends_the_answer_before_it_also_across_tokens(served: Any) -> None:
    module = sys.modules[type(served.get_raw_model()).__module__]
    whole = served.predict(request(max_tokens=40))["choices"][0]["message"]["content"]
    stop = whole[5:9]
    response = served.predict(request(max_tokens=40, stop=[stop]))
    assert response["choices"][0]["message"]["content"] == whole[: whole.index(stop)]
    assert response["choices"][0]["finish_reason"] == "stop"
    assert module._overlap("a sto", ["stop", "x"]) == 3
    assert module._overlap("a stop", ["y"]) == 0


def test_sampling_differs_from_the_likeliest_and_top_k_of_one_does_not(served: Any) -> None:
    likeliest = served.predict(request(max_tokens=40))["choices"][0]["message"]["content"]
    sampled = {served.predict(request(max_tokens=40, temperature=2.0))["choices"][0]["message"]["content"]}
    assert sampled != {likeliest}
    one = served.predict(request(max_tokens=40, temperature=2.0, top_k=1))["choices"][0]["message"]["content"]
    assert one == likeliest


def test_its_plain_search_is_that_of_the_other_engines(served: Any) -> None:
    """The file imports nothing of this repository, so it has a copy, which must stay one."""
    assert sys.modules[type(served.get_raw_model()).__module__].SEARCH == genai.SEARCH


def test_what_changes_nothing_is_taken(served: Any) -> None:
    plain = served.predict(request())["choices"]
    neutral: list[dict[str, Any]] = [{"tools": []}, {"top_k": -1}, {"top_k": 0}, {"stop": []}, {"n": 1}]
    for changes in [*neutral, {"presence_penalty": 0.0}]:
        assert served.predict(request(**changes))["choices"] == plain
    unlimited = request()
    del unlimited["max_tokens"]
    longest = served.predict(unlimited)["choices"]
    assert served.predict(request(max_tokens=-1))["choices"] == longest != plain
    system, question = {"role": "system", "content": "Be brief."}, request()["messages"]
    as_system = served.predict(request(messages=[system, *question]))["choices"]
    assert served.predict(request(messages=[system | {"role": "developer"}, *question]))["choices"] == as_system


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": []}, "'messages' is empty"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, r"messages\[0\].role is 'wizard'"),
        ({"messages": [{"role": "user", "content": " "}]}, r"messages\[0\].content must be a text"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "last message has the role 'assistant'"),
        ({"messages": [{"role": "user", "content": "1 " * 300}]}, r"tokens long, and the model's context of 256"),
        ({"n": 2}, "'n' is 2"),
        ({"stream": True}, "'stream' is true"),
        ({"max_tokens": 0}, "'max_tokens' is 0"),
        ({"temperature": -1.0}, "'temperature' is -1.0"),
        ({"top_p": 0.0}, "'top_p' is 0.0"),
        ({"top_k": -2}, "'top_k' is -2"),
        ({"max_tokens": -2}, "'max_tokens' is -2"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, r"messages\[0\].content holds the character NUL"),
        ({"stop": [""]}, "'stop' holds an empty text"),
        ({"presence_penalty": 0.5}, "'presence_penalty' is not supported"),
    ],
)
def test_what_cannot_be_answered_is_refused(served: Any, changes: dict[str, Any], message: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=message) as caught:
        served.predict(request(**changes))
    assert caught.value.get_http_status_code() == 400


@pytest.fixture(scope="module")
def url(logged: tuple[str, str]) -> Iterator[str]:
    """`mlflow models serve` on a free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", logged[1], "--env-manager", "local"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": logged[0]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout
    try:
        said = []
        for line in server.stdout:
            said.append(line)
            if "Uvicorn running" in line:
                break
        else:
            pytest.fail("the server ended:\n" + "".join(said))
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
        server.stdout.close()


def post(url: str, body: Any) -> tuple[int, Any]:
    """Status and decoded body."""
    sent = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(sent, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def test_mlflow_serves_chat_completions(url: str, folder: Path, served: Any) -> None:
    status, body = post(url, request())
    assert status == 200
    assert body["object"] == "chat.completion"
    assert body["choices"] == served.predict(request())["choices"]
    assert post(url, request(temperature=0))[1]["choices"] == body["choices"], "0 is as good as 0.0"
    refusals: list[tuple[Any, str]] = [
        (request(messages=[]), "'messages' is empty"),
        (request(messages=[{"role": "wizard", "content": "x"}]), "role is 'wizard'"),
        (request(messages=[{"role": "user", "content": "1 " * 300}]), "context of 256"),
        ({"max_tokens": 3}, "input"),
    ]
    for bad, message in refusals:
        status, body = post(url, bad)
        assert status == 400, body
        assert message in body["message"]
    assert post(url, request())[0] == 200, "still serving after bad requests"
