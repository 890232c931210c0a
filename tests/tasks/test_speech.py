"""The speech stage: the parts that are named learn and the others keep their bits, resumed or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import speech, vlm
from tasks.models.multimodal import load_multimodal
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.recordings import played
from tests.support.sounds import CHANGES, RATE, said, tuning, write_set

MakeRun = Callable[..., Any]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*(q|v)_proj"}

pytestmark = pytest.mark.usefixtures("one_thread")


def moved(before: Path, after: Path) -> set[str]:
    """The parts of which some tensor is another one."""
    a, b = (load_multimodal(folder)[0].state_dict() for folder in (before, after))
    assert set(a) == set(b)
    return {vlm.part_of(name) for name in a if not torch.equal(a[name], b[name])}


@pytest.mark.parametrize(
    ("trained", "peft"),
    [
        (["projector"], None),
        (["encoder", "projector", "language_model"], None),
        (["language_model"], LORA),
        (["projector", "language_model"], LORA),
    ],
)
def test_the_parts_that_are_named_learn_and_no_others(
    make_run: MakeRun, hearing_model: Path, spoken_data: Path, trained: list[str], peft: dict[str, Any] | None
) -> None:
    run = make_run("speech")
    speech.main(tuning(trained, peft, CHANGES, max_steps=1), run, model=hearing_model, data=spoken_data)
    assert moved(hearing_model, run.out) == set(trained)
    figures = artifact.read_json(run.out / "metrics.json")
    assert 0 < figures["trainable_parameters"] < figures["parameters"] or len(trained) == 3
    assert (run.out / "adapter").exists() == (peft is not None)


def test_it_learns_to_answer(make_run: MakeRun, hearing_model: Path, spoken_data: Path) -> None:
    run = make_run("speech")
    speech.main(tuning(max_steps=8, learning_rate=5e-3), run, model=hearing_model, data=spoken_data)
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    figures = artifact.read_json(run.out / "metrics.json")
    supervision = artifact.read_json(run.out / "supervision.json")
    assert figures["trained_tokens"] == supervision["trained_tokens"] > 0
    assert figures["eval_loss"] > 0
    record = artifact.read_json(run.out / "audit.json")["train"]
    assert record["rows"] == record["used"] == supervision["rows"]


@pytest.mark.parametrize("peft", [None, LORA])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(
    make_run: MakeRun, hearing_model: Path, spoken_data: Path, peft: dict[str, Any] | None
) -> None:
    """Over the end of an epoch, with random changes of the sounds."""
    rows = len(artifact.read_jsonl(spoken_data / "sft" / "train.jsonl"))
    size = rows // 2 + 1
    config = tuning(None, peft, CHANGES, max_steps=4, save_steps=1, per_device_train_batch_size=size)
    if peft:
        config = tuning(["projector", "language_model"], peft, CHANGES, max_steps=4, save_steps=1)
    whole = make_run("whole")
    speech.main(config, whole, model=hearing_model, data=spoken_data)
    resumed = make_run("resumed")
    resumed.checkpoints.mkdir(parents=True)
    (whole.checkpoints / "checkpoint-3").rename(resumed.checkpoints / "checkpoint-3")
    speech.main(config, resumed, model=hearing_model, data=spoken_data)
    for name in ("model.safetensors", "curves.jsonl", "supervision.json", "audit.json"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_an_adapter_on_the_encoder_too_is_named(make_run: MakeRun, hearing_model: Path, spoken_data: Path) -> None:
    """A pattern of short names reaches the encoder's attention."""
    adapter = LORA | {"target_modules": ["q_proj", "v_proj"]}
    with pytest.raises(ConfigError, match="target_modules reaches the encoder, which `trained` does not name"):
        speech.main(tuning(["language_model"], adapter), make_run("speech"), model=hearing_model, data=spoken_data)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("chat_model", "takes no sounds; a model without ears gets them by align_speech"),
        ("seeing_model", "takes no sounds; take a model that `align_speech` made"),
    ],
)
def test_a_model_without_ears_is_refused(
    make_run: MakeRun, spoken_data: Path, request: pytest.FixtureRequest, model: str, message: str
) -> None:
    folder = request.getfixturevalue(model)
    with pytest.raises(ConfigError, match=f"^params/test/speech.yaml: .*{message}"):
        speech.main(tuning(), make_run("speech"), model=folder, data=spoken_data)


def test_rows_of_words_or_beyond_the_context_stop_it_before_a_step(
    make_run: MakeRun, hearing_model: Path, sums_data: Path, make_artifact: Any, workspace: Path
) -> None:
    run = make_run("speech")
    with pytest.raises(DataError, match=r"sft/train.jsonl:1: has 0 sounds; `speech` needs one in each row"):
        speech.main(tuning(), run, model=hearing_model, data=sums_data)
    rows = [{"messages": said("What?", "3."), "audio": [name]} for name in ("short.wav", "long.wav", "short.wav")]
    sounds = {"short.wav": played(1, 1.0, RATE), "long.wav": played(1, 25.0, RATE)}
    data = write_set(workspace / "data", sounds, make_artifact, rows)
    with pytest.raises(DataError, match=r"rows of up to 2\d\d tokens .* is 256; leave longer sounds out of the data"):
        speech.main(tuning(), run, model=hearing_model, data=data)
    assert not (run.out / "curves.jsonl").exists()
