"""`polm chat` with a model that sees: pictures shown, remembered and refused."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from flows.serving import chat, talk
from flows.serving.seeing import SeeingConversation, read_image
from tasks.models.multimodal import load_multimodal
from tasks.stage import artifact
from tasks.stage.errors import DataError, ModelError
from tests.support import pictures

pytestmark = pytest.mark.slow
QUESTION = "Which digit is this?"


@pytest.fixture(scope="module")
def seeing(
    chat_model: Path, tmp_path_factory: pytest.TempPathFactory, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    return pictures.build_model(chat_model, tmp_path_factory.mktemp("seeing") / "seeing", make_artifact)


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A picture of stripes, stored on its side."""
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "digit.jpg", exif=exif, quality=95)
    return tmp_path / "digit.jpg"


def plain_answer(folder: Path, turns: list[tuple[int, str]], images: list[Any], tokens: int) -> str:
    """The greedy answer of plain transformers to turns of (pictures, text), of user and assistant in turn."""
    model, processor = load_multimodal(folder)
    messages = [
        {
            "role": "user" if i % 2 == 0 else "assistant",
            "content": [{"type": "image"}] * count + [{"type": "text", "text": text}],
        }
        for i, (count, text) in enumerate(turns)
    ]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[images], add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        output = model.eval().generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return str(processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_the_answer_to_a_picture_is_that_of_transformers(seeing: Path, digit: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    chat.answer(seeing, QUESTION, [digit], max_new_tokens=12, temperature=0.0, console=console)
    expected = plain_answer(seeing, [(1, QUESTION)], [read_image(digit)], 12)
    assert expected
    assert console.file.getvalue() == f"{expected}\n"  # type: ignore[attr-defined]


def test_a_conversation_remembers_its_pictures_until_it_is_reset(seeing: Path, digit: Path) -> None:
    conversation = SeeingConversation(seeing, [digit], max_new_tokens=8, temperature=0.0)
    first = "".join(conversation.ask(QUESTION))
    second = "".join(conversation.ask("Odd or even?"))
    turns = [(1, QUESTION), (0, first), (0, "Odd or even?")]
    assert second == plain_answer(seeing, turns, [read_image(digit)], 8)
    conversation.forget()
    conversation.show(digit)
    assert "".join(conversation.ask(QUESTION)) == first


def test_an_answer_that_is_stopped_stays_in_the_conversation(seeing: Path, digit: Path) -> None:
    conversation = SeeingConversation(seeing, [digit], max_new_tokens=64, temperature=0.0)
    answer = conversation.ask(QUESTION)
    piece = next(answer)
    answer.close()
    assert conversation.messages[-1] == {"role": "assistant", "content": [{"type": "text", "text": piece}]}
    assert "".join(conversation.ask("And now?")), "the model is free again"


def test_a_picture_is_turned_upright(digit: Path) -> None:
    assert read_image(digit).size == (20, 40)


@pytest.mark.parametrize(
    ("name", "content"), [("cut.jpg", b"\xff\xd8\xff\xe0 cut"), ("page.png", b"<html>"), ("empty.png", b"")]
)
def test_what_is_no_picture_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: the picture "):
        read_image(tmp_path / name)


def test_a_picture_is_what_the_data_stage_makes_of_it(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("I;16", (4, 4), 32768).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_a_missing_picture_and_a_large_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.png: cannot be read \(No such file"):
        read_image(tmp_path / "gone.png")
    Image.new("1", (8000, 8000)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"large\.png: the picture .* over the bound of this command"):
        read_image(tmp_path / "large.png")


def test_a_conversation_that_is_too_long_says_so(seeing: Path, digit: Path) -> None:
    conversation = SeeingConversation(seeing, [digit], max_new_tokens=8, temperature=0.0)
    with pytest.raises(DataError, match="the context only 256; /reset forgets it"):
        list(conversation.ask("digit " * 300))


def test_a_picture_for_a_model_without_eyes_is_refused(chat_onnx: Path, digit: Path) -> None:
    with pytest.raises(ModelError, match="this model takes no pictures"):
        talk.begin(chat_onnx / "fp32", [digit], 8, 0.0)


def test_the_terminal_shows_a_picture(seeing: Path, digit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter([f"/image {digit.name}", QUESTION, "/image gone.png", "/help", "/quit"])
    console = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(console, "input", lambda *args, **kwargs: next(lines))
    chat.chat(seeing, [], digit.parent, title="eyes", max_new_tokens=8, temperature=0.0, console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "/image FILE shows a picture" in text
    assert "shown with the next question" in text
    assert plain_answer(seeing, [(1, QUESTION)], [read_image(digit)], 8) in text
    assert "gone.png: cannot be read" in text
