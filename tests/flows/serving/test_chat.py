"""`polm chat`: talking to an exported model in the terminal."""

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flows.serving import chat
from flows.serving.answer import Delta, Generation, Sampling
from flows.serving.conversation import Conversation
from flows.serving.engine import Engine
from tasks.export import genai
from tasks.stage.errors import DataError, ModelError
from tests.conftest import REPO
from tests.support.chatting import QUESTION, greedy


@pytest.fixture(scope="module")
def folder(chat_onnx: Path) -> Path:
    """The small chat model as an ONNX Runtime GenAI folder with a context of 256 tokens."""
    return chat_onnx / "fp32"


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
    render = genai.render

    def noted(tokenizer: Any, messages: list[dict[str, str]]) -> str:
        asked.append([*messages])
        return render(tokenizer, messages)

    monkeypatch.setattr(genai, "render", noted)
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

    def interrupted(engine: Engine, ids: list[int], sampling: Any, on_delta: Callable[[Delta], None]) -> Any:
        asked.append(len(ids))
        number = len(asked)

        def stop(delta: Delta) -> None:
            on_delta(delta)
            if delta.reason is None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                while len(answers) < number or not answers[-1].cancelled.wait(0.02):
                    pass

        answers.append(submit(engine, ids, sampling, stop))
        return answers[-1]

    monkeypatch.setattr(Engine, "submit", interrupted)
    out = talk(folder, [QUESTION, KeyboardInterrupt, "more", EOFError], monkeypatch)
    assert out.count(" [stopped]") == 2
    first = greedy(folder, [{"role": "user", "content": QUESTION}], 1)
    assert f"{first} [stopped]" in out
    assert asked[1] > asked[0] + 1, "what was said before Ctrl-C is part of the conversation"


def test_the_oldest_turns_go_when_the_context_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation(folder, max_new_tokens=500, temperature=0.0)
    submit = Engine.submit

    def short(engine: Engine, ids: list[int], sampling: Sampling, on_delta: Callable[[Delta], None]) -> Any:
        return submit(engine, ids, replace(sampling, max_new_tokens=9), on_delta)

    monkeypatch.setattr(Engine, "submit", short)
    for number in range(12):
        list(conversation.ask(f"What is {number} + {number}?"))
    assert conversation.messages[0]["role"] == "user"
    assert conversation.messages[-2]["content"] == "What is 11 + 11?"
    assert 4 <= len(conversation.messages) < 24, "some turns are remembered, not all, however long an answer may be"
    before = [*conversation.messages]
    with pytest.raises(DataError, match=r"tokens long, the context only 256"):
        list(conversation.ask("1 " * 300))
    assert conversation.messages == before
    assert list(conversation.ask(QUESTION)), "the conversation goes on after a question that did not fit"
    assert "the context only 256" in talk(folder, ["1 " * 300, "/quit"], monkeypatch)


def test_a_question_that_fails_leaves_the_conversation_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation(folder, max_new_tokens=4, temperature=0.0)
    list(conversation.ask(QUESTION))
    before = [*conversation.messages]

    def refuses(*_: Any) -> None:
        raise ModelError("the chat template refuses these messages")

    def fails(_engine: Engine, ids: list[int], sampling: Sampling, on_delta: Callable[[Delta], None]) -> Generation:
        failed = Generation(ids, sampling, on_delta, None)
        on_delta(Delta("half", 1))
        failed.end("failed")
        return failed

    for owner, name, broken, message in (
        (genai, "render", refuses, "template"),
        (Engine, "submit", refuses, "template"),
        (Engine, "submit", fails, "the model failed"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ModelError, match=message):
            patch.setattr(owner, name, broken)
            list(conversation.ask("more"))
        assert conversation.messages == before
    list(conversation.ask("again"))
    assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 2


@pytest.mark.parametrize(
    ("words", "piped", "expected"),
    [(["What", "is 2 + 3?"], "", "What is 2 + 3?"), ([], "What is 2 + 3?\n", "What is 2 + 3?")],
)
def test_the_question_comes_from_the_words_or_the_pipe(words: list[str], piped: str, expected: str) -> None:
    assert chat.question_from(words, io.StringIO(piped)) == expected


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("What\0 is 2 + 3?", "character 5 of the text is the character NUL"),
        ("half \ud83d", r"character 6 .* is half a character \(.ud83d alone\)"),
        ("caf\udce9", "character 4 .* is the byte 0xe9, which is no UTF-8"),
    ],
)
def test_what_would_not_reach_the_model_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, question: str, message: str
) -> None:
    conversation = Conversation(folder, max_new_tokens=4, temperature=0.0)
    with pytest.raises(DataError, match=message):
        list(conversation.ask(question))
    assert not conversation.messages and list(conversation.ask(QUESTION)), "the conversation goes on"
    assert "leave it out" in talk(folder, [question, QUESTION, "/quit"], monkeypatch)
    _, tokenizer = genai.load(folder)
    with pytest.raises(DataError, match=message):
        genai.encode(tokenizer, question)


def test_bytes_of_another_encoding_are_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe and a terminal that Python reads strictly, as in most locales."""
    piped = io.TextIOWrapper(io.BytesIO("café".encode("latin-1")), encoding="utf-8")
    with pytest.raises(DataError, match=r"byte 4 of the question is no utf-8 .*; convert it: iconv"):
        chat.question_from([], piped)
    console = Console(file=io.StringIO(), width=200)
    typed = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    chat.chat(folder, title="t", max_new_tokens=4, temperature=0.0, console=console)
    assert "is no utf-8" in console.file.getvalue()  # type: ignore[attr-defined]


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
from flows.serving import chat
chat.answer(Path({str(folder)!r}), "hi", max_new_tokens=2, temperature=0.0, console=Console(file=io.StringIO()))
heavy = {{"torch", "transformers", "mlflow", "prefect", "datasets"}} & set(sys.modules)
assert not heavy, heavy
import mlflow
assert mlflow.__file__, "the repository's folder mlflow/ hides the library; it must have no __init__.py"
assert not mlflow.__file__.startswith({str(REPO / "mlflow")!r}), mlflow.__file__
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPO, check=True, timeout=120)
    assert not (REPO / "mlflow" / "__init__.py").exists()
