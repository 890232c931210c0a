"""The align_speech stage: ears learn to hear in the language model's terms, and the language model learns nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks import align_speech
from tasks.models.folder import load_causal_lm
from tasks.models.multimodal import load_multimodal
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, DataError
from tests.support.recordings import played
from tests.support.sounds import EARS, PARAMS, RATE, UNCHANGED, aligning, said, write_set

MakeRun = Callable[..., Any]
Change = Callable[[list[dict[str, Any]]], Any]

pytestmark = pytest.mark.usefixtures("one_thread")


def tone(number: int, seconds: float = 0.6) -> Any:
    """A chord that stands for a word; two words are two of them."""
    return played(number, seconds, RATE)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, make_artifact: Any) -> Path:
    """Four words, said alone and in pairs, as chords: twenty sounds, of which each is two rows."""
    spelt = [[a] for a in range(4)] + [[a, b] for a in range(4) for b in range(4)]
    gap = np.zeros(RATE // 5)
    sounds = {f"{n}.wav": np.concatenate([part for w in one for part in (tone(w), gap)]) for n, one in enumerate(spelt)}
    rows = [
        {"messages": said(ask, label), "audio": [f"{n}.wav"], "label": label}
        for n, one in enumerate(spelt)
        for ask, label in [("What?", " ".join(f"{3 * w}" for w in one))]
        for _ in range(2)
    ]
    return write_set(tmp_path_factory.mktemp("words") / "data", sounds, make_artifact, rows)


def test_the_ears_learn_and_the_language_model_keeps_its_bits(make_run: MakeRun, chat_model: Path, words: Path) -> None:
    run = make_run("hearing")
    config = aligning(steps=60, batch_size=20, augmentation=UNCHANGED)
    align_speech.main(config, run, model=chat_model, data=words)
    before, after = load_causal_lm(chat_model), load_multimodal(run.out)[0]
    language, kept = before.base_model.state_dict(), after.model.language_model.state_dict()
    assert set(language) == set(kept)
    assert [name for name in language if not torch.equal(language[name], kept[name])] == []
    figures = artifact.read_json(run.out / "metrics.json")
    assert (figures["units"], figures["sounds"]) == (4, 20)
    assert figures["validation_wer"] == 0.0
    assert 0 < figures["trainable_parameters"] < figures["parameters"]
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert [row["step"] for row in curve] == [10, 20, 30, 40, 50, 60]
    assert curve[-1]["loss"] < 0.2 * curve[0]["loss"]


@pytest.mark.parametrize(("trained", "units"), [("encoder", "words"), ("projector", "tokens")])
def test_the_parts_that_are_named_learn(
    make_run: MakeRun, chat_model: Path, words: Path, hearing_model: Path, trained: str, units: str
) -> None:
    """From a trained encoder: what is not named stays as it was there."""
    ears = EARS | {"audio": None, "features": None, "encoder": str(hearing_model)}
    run = make_run("hearing")
    config = aligning(steps=2, trained=[trained], units=units, architecture=ears)
    align_speech.main(config, run, model=chat_model, data=words)
    before, after = (load_multimodal(folder)[0].model.audio_tower.state_dict() for folder in (hearing_model, run.out))
    assert any(not torch.equal(before[name], after[name]) for name in before) == (trained == "encoder")
    assert artifact.read_json(run.out / "metrics.json")["units"] == (4 if units == "words" else 5), "the space is one"


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(
    make_run: MakeRun, chat_model: Path, spoken_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = aligning(steps=8, checkpoint_steps=3)
    whole = make_run("whole")
    align_speech.main(config, whole, model=chat_model, data=spoken_data)
    killed = make_run("killed")
    steps = 0
    step = torch.optim.AdamW.step

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 7:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        align_speech.main(config, killed, model=chat_model, data=spoken_data)
    align_speech.main(config, killed, model=chat_model, data=spoken_data)
    assert steps == 7 + 2, "from the checkpoint at step 6, and not from the beginning"
    files = sorted(path.name for path in whole.out.iterdir())
    assert sorted(path.name for path in killed.out.iterdir()) == files
    assert [name for name in files if (whole.out / name).read_bytes() != (killed.out / name).read_bytes()] == []


NEEDED = "alignment needs rows of one sound and a text `label`"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[2].pop("label"), NEEDED),
        (lambda rows: rows[2].update(label=7), NEEDED),
        (lambda rows: rows[2].update(label=" "), NEEDED),
        (lambda rows: rows[2].update(audio=["a.wav", "b.wav"]), NEEDED),
        (lambda rows: rows[2].update(audio=[]), NEEDED),
        (lambda rows: rows[2].pop("audio"), NEEDED),
        (lambda rows: rows[2].update(label="8"), "the label is '8', and another row of the same sound has '3'"),
        (lambda rows: rows[2].update(audio=["short.wav"]), "its sound lasts 50 ms, too short"),
        (lambda rows: rows[2].update(audio=["long.wav"]), "its sound lasts 3.2 s, and the encoder hears 3 s"),
        (lambda rows: rows[2].update(audio=["b.wav"], label="1 2 3 4 5 6 7"), "the label has 7 units, .* room for 6"),
        (lambda rows: rows[2].update(audio=["b.wav"], label="1 1 1 1"), "the label has 4 units, .* take 7 .* for 6"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_aligned_is_named(
    make_run: MakeRun, chat_model: Path, make_artifact: Any, workspace: Path, change: Change, message: str
) -> None:
    sounds = {"a.wav": tone(1), "b.wav": tone(2), "short.wav": tone(1, 0.05), "long.wav": tone(1, 3.2)}
    rows = [{"messages": said("What?", "3"), "audio": ["a.wav"], "label": "3"} for _ in range(5)]
    change(rows)
    data = write_set(workspace / "data", sounds, make_artifact, rows)
    with pytest.raises(DataError, match=rf"data/sft/train.jsonl:3: {message}"):
        align_speech.main(aligning(), make_run("hearing"), model=chat_model, data=data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blank": "<|nothing|>"}, r"params/test/hearing.yaml: blank is '<\|nothing\|>', no token of"),
        ({"architecture": EARS | {"features": EARS["features"] | {"hop": 190}}}, "choose the hop so that"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    make_run: MakeRun, chat_model: Path, words: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        align_speech.main(aligning(**changes), make_run("hearing"), model=chat_model, data=words)


def test_training_that_diverges_is_no_model(make_run: MakeRun, chat_model: Path, words: Path) -> None:
    run = make_run("hearing")
    with pytest.raises(DataError, match="training diverged"):
        config = aligning(steps=4, learning_rate={"muon": 1e38, "adamw": 1e38})
        align_speech.main(config, run, model=chat_model, data=words)
    assert not (run.out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("section", "key"), [("architecture", "encodr"), ("augmentation", "sped"), ("learning_rate", "muonn")]
)
def test_a_misspelt_key_of_a_section_is_found_before_anything_runs(section: str, key: str) -> None:
    values = aligning().model_dump()
    with pytest.raises(ConfigError, match=f"unknown key '{section}.{key}'"):
        parse(PARAMS, values | {section: values[section] | {key: 1}}, align_speech.Config)
