"""Property: PyTorch, ONNX Runtime, `polm chat` and `polm serve` give a model that sees the same greedy answers."""

import base64
import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from rich.console import Console

from bench.serve import NAME, make_registry, serving
from flows.serving import chat, talk
from flows.serving.seeing import SeeingConversation
from flows.serving.seeing_chat import SeeingChat
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tests.support.sight import evaluate, samples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_proxy")]
LONGEST = 16
"""Tokens of an answer."""
TASK = {"generation_kwargs": {"do_sample": False, "max_gen_toks": LONGEST, "until": []}}


@pytest.fixture(scope="module")
def case(
    lively_model: Path,
    pictures_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_artifact: Callable[..., artifact.Manifest],
) -> Iterator[dict[str, Any]]:
    """30 questions with pictures, the pictures as files, and the answers that PyTorch's evaluation gives to them."""
    root = tmp_path_factory.mktemp("case")
    archive = Archive(pictures_data)
    names = [row["images"][0] for row in artifact.read_jsonl(pictures_data / "eval/digits.jsonl")]
    rows = []
    for i in range(30):
        question = f"Which {'very ' * (i % 5)}digit is it, {i}? “é”"
        images = [names[(i + k) % len(names)] for k in range(1 + i % 2)]
        rows.append({"id": f"q{i}", "question": question, "answer": "-", "kind": "which", "images": images})
    with contextlib.chdir(root):
        artifact.write_jsonl(Path("data/eval/shown.jsonl"), rows)
        shutil.copy(pictures_data / "media.zip", "data")
        make_artifact(Path("data"), stage="data")
        for name in {name for row in rows for name in row["images"]}:
            (root / name).write_bytes(archive.read(name))
        yield {"root": root, "rows": rows, "pytorch": answers(evaluate(lively_model, Path("data"), TASK))}


def answers(out: Path) -> list[str]:
    return [row["response"] for row in samples(out)]


def test_the_answers_can_tell_a_difference(case: dict[str, Any]) -> None:
    assert len(case["pytorch"]) == 30 and len(set(case["pytorch"])) > 25


def test_onnx_evaluates_as_pytorch_does(case: dict[str, Any], seeing_onnx: Path) -> None:
    assert answers(evaluate(seeing_onnx / "fp32", Path("data"), TASK)) == case["pytorch"]


@pytest.mark.parametrize("exported", [False, True])
def test_polm_chat_answers_as_pytorch_does(
    case: dict[str, Any], lively_model: Path, seeing_onnx: Path, exported: bool
) -> None:
    folder = seeing_onnx / "fp32" if exported else lively_model
    conversation = talk.begin(folder, [], LONGEST, 0.0)
    assert isinstance(conversation, SeeingChat if exported else SeeingConversation)
    found = []
    for row in case["rows"]:
        conversation.forget()
        for name in row["images"]:
            conversation.show(case["root"] / name)
        found.append("".join(conversation.ask(row["question"])))
    assert found == case["pytorch"]
    console = Console(file=io.StringIO(), width=200)
    shown = [case["root"] / name for name in case["rows"][0]["images"]]
    chat.answer(folder, case["rows"][0]["question"], shown, max_new_tokens=LONGEST, temperature=0.0, console=console)
    assert console.file.getvalue() == case["pytorch"][0] + "\n"  # type: ignore[attr-defined]


def test_polm_serve_answers_as_pytorch_does(case: dict[str, Any], seeing_onnx: Path, mlflow_template: Path) -> None:
    """By the OpenAI client: pictures inside the request and as files, whole and streamed."""
    root = case["root"] / "project"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    make_registry(root, [seeing_onnx / "fp32"])
    with serving(root, "--threads", "1", "--allow-files", str(case["root"])) as (url, _process):
        client = OpenAI(base_url=url, api_key="none")
        found = []
        for number, row in enumerate(case["rows"]):
            inline = number % 3 > 0
            parts: list[Any] = [{"type": "text", "text": row["question"]}]
            for name in row["images"]:
                encoded = base64.b64encode((case["root"] / name).read_bytes()).decode()
                address = f"data:image/png;base64,{encoded}" if inline else name
                parts.append({"type": "image_url", "image_url": {"url": address}})
            asked: Any = {"model": NAME, "messages": [{"role": "user", "content": parts}]}
            options = {**asked, "max_tokens": LONGEST, "temperature": 0}
            if number % 2:
                chunks = client.chat.completions.create(**options, stream=True)
                found.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
            else:
                found.append(client.chat.completions.create(**options).choices[0].message.content)
    assert found == case["pytorch"]
