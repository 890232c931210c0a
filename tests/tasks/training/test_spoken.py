"""Rows with sounds before and while they are learnt: what carries loss, what is changed, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.models.multimodal import load_processor
from tasks.models.turn_ends import rendered_end
from tasks.multimodal.speech_settings import SpeechAugmentation
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import DataError
from tasks.training import spoken
from tests.support.recordings import played
from tests.support.sounds import CHANGES, PARAMS, RATE, UNCHANGED, said, tuning, write_set

MakeRun = Callable[..., Any]
EVERY = parse(PARAMS, CHANGES, SpeechAugmentation)
SOUNDS = {
    "a.wav": played(1, 0.5, RATE), "b.wav": played(2, 1.0, RATE), "long.wav": played(3, 3.4, RATE),
    "tiny.wav": played(4, 0.0755, RATE), "short.wav": played(5, 0.07, RATE),
}  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {"messages": said("Which?", "7.", "And then?", "It is 8."), "audio": ["a.wav"]},
    {"messages": [{"role": "system", "content": "Be kind."}, *said("What?", "\n\n9")], "audio": ["long.wav"]},
    {"prompt": said("Say."), "completion": [{"role": "assistant", "content": "3 + 4 = 7."}], "audio": ["b.wav"]},
    {"messages": said("What?", "1."), "audio": ["tiny.wav"]},
    {"messages": said("Last?", "2."), "audio": ["b.wav"]},
]
"""Rows of every form; the last is to validate on."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    return write_set(tmp_path_factory.mktemp("rows") / "data", SOUNDS, make_artifact, ROWS)


@pytest.fixture(scope="module")
def processor(hearing_model: Path) -> Any:
    return load_processor(hearing_model)


def audited(make_run: MakeRun, data: Path, processor: Any, model: Path) -> dict[str, Any]:
    return spoken.audited(tuning(), make_run("speech"), data, processor, model)


def test_the_loss_is_on_the_answers_alone(
    make_run: MakeRun, data: Path, processor: Any, hearing_model: Path, workspace: Path
) -> None:
    """Several answers are several rows, each asked by all that stands before it."""
    splits = audited(make_run, data, processor, hearing_model)
    assert [len(splits[name]) for name in ("train", "validation")] == [5, 1]
    answers = spoken.Answers(splits["train"], processor, data, None, 1)
    batch = spoken.Collator(processor, None)([answers[i] for i in range(5)])
    tokenizer = processor.tokenizer
    end = rendered_end(tokenizer) or ""
    expected = ["7." + end, "It is 8." + end, "9" + end, "3 + 4 = 7." + end, "1." + end]
    for number, (ids, labels) in enumerate(zip(batch["input_ids"], batch["labels"], strict=True)):
        learnt = labels != -100
        assert tokenizer.decode(labels[learnt]).lstrip("\n") == expected[number]
        assert torch.equal(labels[learnt], ids[learnt])
        assert not (labels == processor.audio_token_id).any() and not (labels[learnt] == tokenizer.pad_token_id).any()
    placeholders = (batch["input_ids"] == processor.audio_token_id).sum(dim=1).tolist()
    assert placeholders == [5, 5, 34, 10, 1]
    second = tokenizer.decode(batch["input_ids"][1])
    assert second.index("<audio>") < second.index("Which?") < second.index("7.") < second.index("It is 8.")
    audit = spoken.supervision(answers, processor)
    assert audit["trained_tokens"] == int((batch["labels"] != -100).sum())
    assert audit["example"] == [
        {"text": "<|im_start|>user\n<audio>Which?<|im_end|>\n<|im_start|>assistant\n", "trained": False},
        {"text": "7." + end, "trained": True},
    ]
    record = artifact.read_json(workspace / "speech" / "audit.json")["train"]
    assert (record["rows"], record["used"]) == (4, 4)
    assert record["longest"]["tokens"] == int(batch["attention_mask"].sum(dim=1).max()), "its sound among them"


def test_the_model_is_given_the_sounds_of_the_rows(
    make_run: MakeRun, data: Path, processor: Any, hearing_model: Path
) -> None:
    """A batch of several lengths and chunks is what each row is alone, and a model takes it."""
    from tasks.models.multimodal import load_multimodal

    rows = audited(make_run, data, processor, hearing_model)["train"]
    answers, collate = spoken.Answers(rows, processor, data, None, 1), spoken.Collator(processor, None)
    model = load_multimodal(hearing_model)[0].eval()
    with torch.no_grad():
        together = model(**collate([answers[i] for i in range(5)])).logits
        for i in range(5):
            alone = collate([answers[i]])
            width = alone["input_ids"].shape[1]
            assert torch.allclose(model(**alone).logits[0], together[i, :width], atol=1e-4)


def test_changes_hang_on_seed_epoch_and_row_and_validation_has_none(
    make_run: MakeRun, data: Path, processor: Any, hearing_model: Path
) -> None:
    rows = audited(make_run, data, processor, hearing_model)["train"]

    def batch(augmentation: Any, epoch: int = 0, seed: int = 1, rng: Any = EVERY) -> Any:
        answers = spoken.Answers(rows, processor, data, augmentation, seed)
        answers.begin(epoch)
        return spoken.Collator(processor, rng)([answers[0], answers[3]])["input_features"]

    first = batch(EVERY)
    assert torch.equal(first, batch(EVERY)), "a resumed run hears what it would have heard"
    assert not torch.equal(first, batch(EVERY, epoch=1)) and not torch.equal(first, batch(EVERY, seed=2))
    plain = batch(None)
    assert torch.equal(plain, batch(None, epoch=3)) and torch.equal(plain, batch(None, rng=None)), "not masked either"
    assert not torch.equal(first, plain)


def test_a_sound_of_one_token_is_not_changed_into_none(
    make_run: MakeRun, data: Path, processor: Any, hearing_model: Path
) -> None:
    rows = [row for row in audited(make_run, data, processor, hearing_model)["train"] if row["audio"] == ["tiny.wav"]]
    faster = parse(PARAMS, UNCHANGED | {"speed": 0.5}, SpeechAugmentation)
    answers = spoken.Answers(rows, processor, data, faster, 1)
    lengths = set()
    for epoch in range(20):
        answers.begin(epoch)
        item = answers[0]
        lengths.add(len(item["sound"]))
        batch = spoken.Collator(processor, faster)([item])
        assert (batch["input_ids"] == processor.audio_token_id).sum() >= 1
    assert len(lengths) > 3 and min(lengths) > 1_200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio": []}, "has 0 sounds; `speech` needs one in each row"),
        ({"audio": None}, "has 0 sounds; `speech` needs one in each row"),
        ({"audio": ["a.wav", "b.wav"]}, "has 2 sounds; `speech` needs one in each row"),
        ({"audio": ["short.wav"]}, "its sound lasts 70 ms, too short to become a token of what the model reads"),
        ({"messages": said("<audio> Which?", "7.")}, "a text has '<audio>', which stands for a sound"),
        ({"messages": said("Which?", "An <audio>.")}, "a text has '<audio>', which stands for a sound"),
    ],
)
def test_a_row_that_cannot_be_learnt_is_named(
    make_run: MakeRun, processor: Any, hearing_model: Path, workspace: Path, make_artifact: Any,
    change: dict[str, Any], message: str,
) -> None:  # fmt: skip
    rows = [dict(row) for row in ROWS]
    rows[3] |= change
    data = write_set(workspace / "data", SOUNDS, make_artifact, rows)
    with pytest.raises(DataError, match=rf"data/sft/train.jsonl:4: {message}"):
        audited(make_run, data, processor, hearing_model)


def test_a_sound_is_decoded_when_its_item_is_read(
    make_run: MakeRun, data: Path, processor: Any, hearing_model: Path
) -> None:
    rows = audited(make_run, data, processor, hearing_model)["train"]
    item = spoken.Answers(rows, processor, data, None, 1)[0]
    assert np.allclose(item["sound"], SOUNDS["a.wav"], atol=1e-4)
    assert item["rng"] is None
