"""Property: `polm serve` with a model that sees, to the OpenAI client: what is shown, refused, traced and exchanged."""

import base64
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI

from bench.serve import NAME, client, make_registry, promote, serving
from tests.support.drawings import bomb, drawn, encoded
from tests.support.serving import ask, counter, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_proxy")]
PNG = encoded(drawn(1))


def data(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def shown(*urls: str, text: str = "Which digit is this?") -> list[dict[str, Any]]:
    """A question of the user's with pictures."""
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


def make(root: Path, folders: list[Path], database: Path) -> Path:
    (root / ".polm").mkdir(parents=True)
    (root / "pictures").mkdir()
    (root / "pictures/a.png").write_bytes(PNG)
    (root / "secret.png").write_bytes(PNG)
    shutil.copyfile(database, root / ".polm/mlflow.db")
    make_registry(root, folders)
    return root


@pytest.fixture(scope="module")
def project(
    seeing_onnx: Path, chat_onnx: Path, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model that sees as version 1, the champion, and a model of words as version 2."""
    root = tmp_path_factory.mktemp("serve") / "project"
    return make(root, [seeing_onnx / "fp32", chat_onnx / "fp32"], mlflow_template)


@pytest.fixture(scope="module")
def url(project: Path) -> Iterator[str]:
    options = ("--threads", "1", "--poll", "0.2", "--allow-files", str(project / "pictures"))
    with serving(project, *options) as (url, _):
        yield url


def answer(url: str, messages: list[dict[str, Any]], **changes: Any) -> httpx.Response:
    return ask(url, messages=messages, **changes)


def text(url: str, messages: list[dict[str, Any]]) -> str:
    response = answer(url, messages)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def test_a_picture_counts_its_tokens_and_its_place_among_the_parts_does_not_matter(url: str) -> None:
    with_one, without = answer(url, shown(data(PNG))).json(), answer(url, shown()).json()
    assert with_one["usage"]["prompt_tokens"] == without["usage"]["prompt_tokens"] + 16
    assert with_one["choices"] != without["choices"]
    turned = shown(data(PNG))
    turned[0]["content"].reverse()
    assert text(url, turned) == text(url, shown(data(PNG))) == text(url, shown("a.png"))
    assert text(url, shown(data(encoded(drawn(2))))) != text(url, turned)


def test_pictures_in_later_turns_are_seen(url: str) -> None:
    before: list[dict[str, Any]] = [*shown("a.png"), {"role": "assistant", "content": "7."}]
    later = [text(url, [*before, *shown(data(encoded(drawn(seed))), text="And this?")]) for seed in (2, 3)]
    assert later[0] != later[1]
    swapped = [*shown(data(encoded(drawn(4)))), before[1], *shown(data(encoded(drawn(2))), text="And this?")]
    assert text(url, swapped) != later[0], "the first picture is remembered"


IMAGE = {"type": "image_url", "image_url": {"url": data(PNG)}}


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        (shown("http://127.0.0.1:1/a.png"), "messages[0].content[1]", "which this server never fetches"),
        (shown("../secret.png"), "messages[0].content[1]", "outside of the folder"),
        (shown("nothing.png"), "messages[0].content[1]", "names no file below that folder"),
        (shown("a.png", data(b"no picture")), "messages[0].content[2]", "is no picture of a kind that is read"),
        (shown(data(PNG[:60])), "messages[0].content[1]", "cannot be decoded"),
        (
            shown(data(bomb("PNG"))),
            "messages[0].content[1]",
            "declares 900000000 pixels, over the bound of this server",
        ),
        (shown(*["a.png"] * 9), "messages[0].content[9]", "is one too many: 8 are taken"),
        (shown("a.png", text="Is <image> one?"), "messages", "a text has '<image>', which stands for a picture"),
        ([{"role": "system", "content": [IMAGE]}, *shown()], "messages[0].content[0]", "only the user shows something"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 7}}]}],
            "messages[0].content[0].image_url.url",
            "is 7: input should be a valid string",
        ),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].image_url", "is missing"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a", "detial": "low"}}]}],
            "messages[0].content[0].image_url.detial",
            "did you mean 'messages[0].content[0].image_url.detail'?",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}],
            "messages[0].content[0]",
            "this model has no ears; send text",
        ),
        ([{"role": "user", "content": [{"type": "video_url"}]}], "messages[0].content[0].type", "'text'"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_its_place(
    url: str, messages: list[dict[str, Any]], param: str, message: str
) -> None:
    for stream in (False, True):
        response = answer(url, messages, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
        assert message in error["message"]


def test_a_picture_alone_and_words_alone_are_answered(url: str) -> None:
    assert text(url, [{"role": "user", "content": [IMAGE]}])
    assert text(url, [{"role": "user", "content": "Hello!"}])


def test_a_request_may_be_larger_than_one_of_words_but_not_without_end(url: str) -> None:
    noise = encoded(drawn(5).resize((1400, 900)), "BMP")
    assert 1_000_000 < len(noise) < 10_000_000
    assert text(url, shown(data(noise)))
    assert answer(url, shown(data(b"x" * 16_000_000))).status_code == 413


def test_a_trace_has_the_hash_of_a_picture_and_not_its_bytes(url: str, project: Path) -> None:
    sent = answer(url, shown(data(PNG), text="Traced?")).json()["id"]
    api = client(project)
    experiment = api.get_experiment_by_name(NAME).experiment_id
    wanted = f"tags.request_id = '{sent}'"
    wait_for(lambda: api.search_traces([experiment], wanted))
    [trace] = api.search_traces([experiment], wanted)
    picture, words = trace.data.spans[0].inputs["messages"][-1]["content"]
    digest = hashlib.sha256(PNG).hexdigest()
    assert picture == {"type": "image", "sha256": digest, "bytes": len(PNG), "media_type": "image/png"}
    assert words == {"type": "text", "text": "Traced?"}
    spool = b"".join(path.read_bytes() for path in (project / ".polm").rglob("*") if path.is_file())
    assert base64.b64encode(PNG)[20:80] not in spool


def test_a_champion_of_words_and_one_that_sees_are_exchanged(
    seeing_onnx: Path, chat_onnx: Path, mlflow_template: Path, tmp_path: Path
) -> None:
    """What the one takes, the other refuses; nobody is left without an answer."""
    root = make(tmp_path / "project", [chat_onnx / "fp32", seeing_onnx / "fp32"], mlflow_template)
    with serving(root, "--threads", "1", "--poll", "0.1") as (url, _):
        openai = OpenAI(base_url=url, api_key="none")
        options: Any = {"model": NAME, "messages": shown(data(PNG)), "max_tokens": 8, "temperature": 0}
        with pytest.raises(BadRequestError, match=r"is a picture, and this model has no eyes; send text") as refused:
            openai.chat.completions.create(**options)
        assert (refused.value.param, refused.value.code) == ("messages[0].content[1]", "unsupported_content")
        words = answer(url, shown()).json()
        for version, sees in (("2", True), ("1", False), ("2", True)):
            promote(root, version)
            wait_for(lambda version=version: httpx.get(f"{url}/models/{NAME}").json()["version"] == version)
            assert answer(url, shown(data(PNG))).status_code == (200 if sees else 400)
            assert answer(url, shown()).status_code == 200
        assert openai.chat.completions.create(**options).model == f"{NAME}/2"
        assert words["model"] == f"{NAME}/1"
        assert counter(url, 'polm_requests_total{status="500"') == 0
