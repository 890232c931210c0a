"""Talking to an exported model, in the terminal and over HTTP as `mlflow models serve` serves it."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows import chat
from flows._answer import Piece, Sampling
from flows._engine import Engine
from tasks import _onnx
from tasks._errors import DataError, ModelError
from tests.conftest import REPO

QUESTION = "What is 12 + 345?"


@pytest.fixture(scope="module")
def folder(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small chat model as an ONNX Runtime GenAI folder with a context of 256 tokens."""
    out = tmp_path_factory.mktemp("chat") / "fp32"
    options = _onnx.builder_options(chat_model, "fp32", "fp32", {})
    _onnx.build(chat_model, out, precision="fp32", options=options)
    return out


def greedy(folder: Path, messages: list[dict[str, str]], tokens: int) -> str:
    """The answer as the tokenizer decodes it in one go."""
    import numpy as np

    model, tokenizer = _onnx.load(folder)
    ids = _onnx.encode(tokenizer, _onnx.render(tokenizer, messages))
    answer = list(_onnx.generate(model, ids, max_new_tokens=tokens))
    return str(tokenizer.decode(np.asarray(answer, dtype=np.int32)))


def talk(folder: Path, lines: list[str | type[BaseException]], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a conversation of these inputs; an exception class is raised where the person would type."""
    said = iter(lines)

    def scripted(*_args: Any, **_kwargs: Any) -> str:
        line = next(said)
        if isinstance(line, str):
            return line
        raise line

    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(console, "input", scripted)
    chat.chat(folder, title="the [test] model", max_new_tokens=6, temperature=0.0, console=console)
    assert next(said, None) is None, "left before the last input"
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_one_question_prints_the_whole_answer_and_nothing_else(folder: Path) -> None:
    console = Console(file=io.StringIO(), width=20)
    chat.answer(folder, QUESTION, max_new_tokens=30, temperature=0.0, console=console)
    expected = greedy(folder, [{"role": "user", "content": QUESTION}], 30)
    assert console.file.getvalue() == expected + "\n"  # type: ignore[attr-defined]


def test_a_conversation_remembers_and_resets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, str]]] = []
    render = _onnx.render

    def noted(tokenizer: Any, messages: list[dict[str, str]]) -> str:
        asked.append([*messages])
        return render(tokenizer, messages)

    monkeypatch.setattr(_onnx, "render", noted)
    out = talk(folder, [QUESTION, "", "again", "/what", "/reset", "anew", "/quit"], monkeypatch)
    first = greedy(folder, [{"role": "user", "content": QUESTION}], 6)
    assert [m["content"] for m in asked[1]] == [QUESTION, first, "again"]
    assert [m["content"] for m in asked[2]] == ["anew"]
    assert "the [test] model" in out
    assert out.count(chat.HELP) == 2  # at the start, and for the command that there is not


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answers: list[Any] = []
    submit = Engine.submit

    def interrupted(engine: Engine, ids: list[int], sampling: Any, emit: Callable[[Piece], None]) -> Any:
        asked.append(len(ids))
        number = len(asked)

        def heard(piece: Piece) -> None:
            emit(piece)
            if piece.reason is None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                while len(answers) < number or not answers[-1].cancelled.wait(0.02):
                    pass

        answers.append(submit(engine, ids, sampling, heard))
        return answers[-1]

    monkeypatch.setattr(Engine, "submit", interrupted)
    out = talk(folder, [QUESTION, KeyboardInterrupt, "more", EOFError], monkeypatch)
    assert out.count(" [stopped]") == 2
    first = greedy(folder, [{"role": "user", "content": QUESTION}], 1)
    assert f"{first} [stopped]" in out
    assert asked[1] > asked[0] + 1, "what was said before Ctrl-C is part of the conversation"


def test_the_oldest_turns_go_when_the_context_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = chat.Conversation(folder, max_new_tokens=500, temperature=0.0)
    submit = Engine.submit

    def short(engine: Engine, ids: list[int], sampling: Sampling, emit: Callable[[Piece], None]) -> Any:
        return submit(engine, ids, replace(sampling, max_new_tokens=9), emit)

    monkeypatch.setattr(Engine, "submit", short)
    for number in range(12):
        list(conversation.ask(f"What is {number} + {number}?"))
    assert conversation.messages[0]["role"] == "user"
    assert conversation.messages[-2]["content"] == "What is 11 + 11?"
    assert 4 <= len(conversation.messages) < 24, "some turns are remembered, not all, however long an answer may be"
    with pytest.raises(DataError, match=r"tokens long, the context only 256"):
        list(conversation.ask("1 " * 300))
    assert list(conversation.ask(QUESTION)), "the conversation goes on after a question that did not fit"
    assert "the context only 256" in talk(folder, ["1 " * 300, "/quit"], monkeypatch)


@pytest.mark.parametrize(
    ("words", "piped", "expected"),
    [(["What", "is 2 + 3?"], "", "What is 2 + 3?"), ([], "What is 2 + 3?\n", "What is 2 + 3?")],
)
def test_the_question_comes_from_the_words_or_the_pipe(words: list[str], piped: str, expected: str) -> None:
    assert chat.question_from(words, io.StringIO(piped)) == expected


def test_no_question_means_talking_only_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert chat.question_from([], terminal) is None
    for words, piped in (([" "], ""), ([], " \n")):
        with pytest.raises(DataError, match="question is empty"):
            chat.question_from(words, io.StringIO(piped))


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no genai_config.json.*polm run"):
        chat.answer(tmp_path, QUESTION, max_new_tokens=4, temperature=0.0, console=Console(file=io.StringIO()))


def test_talking_imports_nothing_of_pytorch_and_the_folder_mlflow_hides_no_library(folder: Path) -> None:
    script = f"""
import io, sys
from pathlib import Path
from rich.console import Console
from flows import chat
chat.answer(Path({str(folder)!r}), "hi", max_new_tokens=2, temperature=0.0, console=Console(file=io.StringIO()))
heavy = {{"torch", "transformers", "mlflow", "prefect", "datasets"}} & set(sys.modules)
assert not heavy, heavy
import mlflow
assert mlflow.__file__, "the repository's folder mlflow/ hides the library; it must have no __init__.py"
assert not mlflow.__file__.startswith({str(REPO / "mlflow")!r}), mlflow.__file__
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPO, check=True, timeout=120)
    assert not (REPO / "mlflow" / "__init__.py").exists()


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
        ({"top_k": 0}, "'top_k' is 0"),
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
