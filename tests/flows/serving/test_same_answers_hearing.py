"""Property: PyTorch, ONNX Runtime, `polm chat` and `polm serve` give a model that hears the same greedy answers.

The server also says what it does not take, and traces what it heard.
"""

import base64
import contextlib
import hashlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from rich.console import Console

from bench.serve import NAME, client, make_registry, promote, serving
from flows.serving import chat, talk
from flows.serving.hearing import HearingConversation
from flows.serving.hearing_chat import HearingChat
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.errors import DataError, ModelError
from tests.support.recordings import encoded, played
from tests.support.serving import ask, wait_for
from tests.support.sight import evaluate, samples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "no_proxy")]
LONGEST = 16
"""Tokens of an answer."""
TASK = {"generation_kwargs": {"do_sample": False, "max_gen_toks": LONGEST, "until": []}}
PLACE = "messages[0].content[1]"


@pytest.fixture(scope="module")
def case(
    lively_ears: Path,
    spoken_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
    make_artifact: Callable[..., artifact.Manifest],
) -> Iterator[dict[str, Any]]:
    """20 questions with a sound each, the sounds as files, and the answers that PyTorch's evaluation gives to them."""
    root = tmp_path_factory.mktemp("case")
    archive = Archive(spoken_data)
    names = [row["audio"][0] for row in artifact.read_jsonl(spoken_data / "eval/transcripts.jsonl")]
    rows = []
    for i in range(20):
        question = f"What do you {'really ' * (i % 4)}hear, {i}? “é”"
        audio = [names[i % len(names)]]
        rows.append({"id": f"q{i}", "question": question, "answer": "-", "kind": "which", "audio": audio})
    with contextlib.chdir(root):
        artifact.write_jsonl(Path("data/eval/shown.jsonl"), rows)
        shutil.copy(spoken_data / "media.zip", "data")
        make_artifact(Path("data"), stage="data")
        for name in names:
            (root / name).write_bytes(archive.read(name))
        yield {"root": root, "rows": rows, "pytorch": answers(evaluate(lively_ears, Path("data"), TASK))}


def answers(out: Path) -> list[str]:
    return [row["response"] for row in samples(out)]


def test_the_answers_can_tell_a_difference(case: dict[str, Any]) -> None:
    assert len(case["pytorch"]) == 20 and len(set(case["pytorch"])) > 15


def test_onnx_evaluates_as_pytorch_does(case: dict[str, Any], hearing_onnx: Path) -> None:
    assert answers(evaluate(hearing_onnx / "fp32", Path("data"), TASK)) == case["pytorch"]


@pytest.mark.parametrize("exported", [False, True])
def test_polm_chat_answers_as_pytorch_does(
    case: dict[str, Any], lively_ears: Path, hearing_onnx: Path, exported: bool
) -> None:
    folder = hearing_onnx / "fp32" if exported else lively_ears
    conversation = talk.begin(folder, [], LONGEST, 0.0)
    assert isinstance(conversation, HearingChat if exported else HearingConversation)
    found = []
    for row in case["rows"]:
        conversation.forget()
        conversation.hear(case["root"] / row["audio"][0])
        found.append("".join(conversation.ask(row["question"])))
    assert found == case["pytorch"]
    with pytest.raises(DataError, match="hears one recording in a conversation"):
        conversation.hear(case["root"] / case["rows"][0]["audio"][0])
    console = Console(file=io.StringIO(), width=200)
    heard = [case["root"] / case["rows"][0]["audio"][0]]
    chat.answer(
        folder, case["rows"][0]["question"], [], heard, max_new_tokens=LONGEST, temperature=0.0, console=console
    )
    assert console.file.getvalue() == case["pytorch"][0] + "\n"  # type: ignore[attr-defined]


def test_a_recording_that_is_too_short_for_a_token_is_refused_at_once(lively_ears: Path, tmp_path: Path) -> None:
    (tmp_path / "short.wav").write_bytes(encoded(played(1, 0.05)))
    said = r"short\.wav: its sound lasts 50 ms, too short to become a token .*; record it again"
    with pytest.raises(DataError, match=said):
        talk.begin(lively_ears, [], LONGEST, 0.0, [tmp_path / "short.wav"])


def test_an_export_that_hears_takes_no_pictures(hearing_onnx: Path) -> None:
    with pytest.raises(ModelError, match="this model takes no pictures"):
        talk.begin(hearing_onnx / "fp32", [Path("a.png")], LONGEST, 0.0)


@pytest.fixture(scope="module")
def project(case: dict[str, Any], hearing_onnx: Path, chat_onnx: Path, mlflow_template: Path) -> Path:
    """A model that hears as version 1, the champion, and a model of words as version 2."""
    root: Path = case["root"] / "project"
    (root / ".polm").mkdir(parents=True)
    shutil.copyfile(mlflow_template, root / ".polm/mlflow.db")
    make_registry(root, [hearing_onnx / "fp32", chat_onnx / "fp32"])
    return root


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    with serving(project, "--threads", "1", "--poll", "0.1") as (url, _):
        yield url


def asked(content: bytes, question: str = "What is said?", count: int = 1, form: str = "wav") -> list[dict[str, Any]]:
    """A question of the user's with a sound, or with the same one several times."""
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(content).decode(), "format": form}}
    return [{"role": "user", "content": [{"type": "text", "text": question}, *[part] * count]}]


def test_polm_serve_answers_as_pytorch_does(case: dict[str, Any], url: str) -> None:
    """By the OpenAI client, whole and streamed."""
    openai = OpenAI(base_url=url, api_key="none")
    found = []
    for number, row in enumerate(case["rows"]):
        messages: Any = asked((case["root"] / row["audio"][0]).read_bytes(), row["question"], form="flac")
        options: dict[str, Any] = {"model": NAME, "messages": messages, "max_tokens": LONGEST, "temperature": 0}
        if number % 2:
            chunks = openai.chat.completions.create(**options, stream=True)
            found.append("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
        else:
            found.append(openai.chat.completions.create(**options).choices[0].message.content)
    assert found == case["pytorch"]


SOUND = encoded(played(1, 1.0))
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        (asked(b"no sound"), PLACE, "the sound is no sound of a kind that is read"),
        (asked(SOUND[:5000]), PLACE, "the sound is cut off"),
        (asked(encoded(played(1, 0.05))), PLACE, "too short to become a token"),
        (asked(encoded(played(1, 121.0))), PLACE, "lasts 121.0 s, over the bound of this server (120)"),
        (asked(SOUND, count=2), "messages[0].content[2]", "this model hears one sound in a conversation"),
        ([{"role": "user", "content": [PICTURE]}], "messages[0].content[0]", "this model has no eyes"),
        (asked(SOUND, "Is <audio> one?"), "messages", "a text has '<audio>'"),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "?", "format": "wav"}}]}],
            "messages[0].content[0]",
            "holds no valid base64",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"format": "wav"}}]}],
            "messages[0].content[0].input_audio.data",
            "is missing",
        ),
    ],
)
def test_what_cannot_be_heard_is_refused_by_its_place(
    url: str, messages: list[dict[str, Any]], param: str, message: str
) -> None:
    for stream in (False, True):
        response = ask(url, messages=messages, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
        assert message in error["message"]


def test_a_trace_has_the_hash_and_the_seconds_of_a_sound_and_not_its_bytes(url: str, project: Path) -> None:
    sent = ask(url, messages=asked(SOUND, "Traced?")).json()["id"]
    api = client(project)
    experiment = api.get_experiment_by_name(NAME).experiment_id
    wanted = f"tags.request_id = '{sent}'"
    wait_for(lambda: api.search_traces([experiment], wanted))
    [trace] = api.search_traces([experiment], wanted)
    heard, words = trace.data.spans[0].inputs["messages"][-1]["content"]
    digest = hashlib.sha256(SOUND).hexdigest()
    expected = {"type": "audio", "sha256": digest, "bytes": len(SOUND), "media_type": "audio/wav", "seconds": 1.0}
    assert heard == expected
    assert words == {"type": "text", "text": "Traced?"}
    spool = b"".join(path.read_bytes() for path in (project / ".polm").rglob("*") if path.is_file())
    assert base64.b64encode(SOUND)[200:300] not in spool


def test_a_champion_that_hears_and_one_of_words_are_exchanged(url: str, project: Path) -> None:
    """What the one takes, the other refuses. Comes last: it leaves the one that hears."""
    openai = OpenAI(base_url=url, api_key="none")
    options: Any = {"model": NAME, "messages": asked(SOUND), "max_tokens": 8, "temperature": 0}
    for version in ("2", "1"):
        promote(project, version)
        wait_for(lambda version=version: httpx.get(f"{url}/models/{NAME}").json()["version"] == version)
        if version == "1":
            assert openai.chat.completions.create(**options).model == f"{NAME}/1"
            continue
        with pytest.raises(BadRequestError, match="is a sound, and this model has no ears; send text") as refused:
            openai.chat.completions.create(**options)
        assert (refused.value.param, refused.value.code) == (PLACE, "unsupported_content")
