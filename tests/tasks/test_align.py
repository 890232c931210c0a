"""The align stage: eyes learn to see in the language model's terms, and the language model learns nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import align
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, DataError
from tests.support.pictures import EYES, PARAMS, write_set

MakeRun = Callable[..., Any]
Change = Callable[[dict[str, Any]], Any]


def configured(**changes: Any) -> align.Config:
    values: dict[str, Any] = {
        "seed": 1, "threads": 1, "device": "cpu", "dataset": "sft:labelled", "architecture": EYES, "steps": 80,
        "batch_size": 32, "learning_rate": 3e-2, "weight_decay": 0.01, "checkpoint_steps": 100,
        "augmentation": {"shift": 1, "scale": 0.05, "rotation": 5, "noise": 0.05},
    }  # fmt: skip
    return parse(PARAMS, values | changes, align.Config)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_eyes_learn_and_the_language_model_keeps_its_bits(
    make_run: MakeRun, chat_model: Path, pictures_data: Path
) -> None:
    run = make_run("sight")
    align.main(configured(), run, model=chat_model, data=pictures_data)
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, run.out))
    for name, tensor in before.items():
        assert torch.equal(after[name.replace("model.", "model.language_model.", 1)], tensor), name
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["labels"] == 10
    assert figures["validation_accuracy"] > 0.2, "twice chance, on digits it has not seen"
    assert 0 < figures["trainable_parameters"] < figures["parameters"]
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert [row["step"] for row in curve] == list(range(10, 90, 10))
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.3


def test_what_was_learnt_is_in_the_folder(make_run: MakeRun, chat_model: Path, pictures_data: Path) -> None:
    """The accuracy that is reported is that of the model as it is loaded, statistics of normalisation included."""
    from tasks.models.multimodal import load_multimodal
    from tasks.multimodal import alignment
    from tasks.multimodal.images import Archive

    run = make_run("sight")
    align.main(configured(steps=12), run, model=chat_model, data=pictures_data)
    model, processor = load_multimodal(run.out)
    rows = artifact.read_jsonl(pictures_data / "sft-labelled" / "validation.jsonl")
    labels = sorted({row["label"] for row in rows})
    pictures = [Archive(pictures_data).image(row["images"][0]) for row in rows]
    pixels = processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    vectors = alignment.class_vectors(model, processor.tokenizer, labels)
    with torch.no_grad():
        guessed = alignment.scores(model.train(), pixels, vectors).argmax(dim=1)
    right = sum(labels[guess] == row["label"] for guess, row in zip(guessed, rows, strict=True)) / len(rows)
    assert right == pytest.approx(artifact.read_json(run.out / "metrics.json")["validation_accuracy"], abs=1e-4)


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(steps=12, checkpoint_steps=4)
    whole = make_run("whole")
    align.main(config, whole, model=chat_model, data=pictures_data)
    killed = make_run("killed")
    steps = 0
    step = torch.optim.AdamW.step

    def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 10:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        align.main(config, killed, model=chat_model, data=pictures_data)
    assert steps == 10
    align.main(config, killed, model=chat_model, data=pictures_data)
    assert steps == 10 + 4, "from the checkpoint at step 8, and not from the beginning"
    files = sorted(path.name for path in whole.out.iterdir())
    assert sorted(path.name for path in killed.out.iterdir()) == files
    assert [name for name in files if (whole.out / name).read_bytes() != (killed.out / name).read_bytes()] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("label"),
        lambda row: row.update(label=7),
        lambda row: row.update(label=" "),
        lambda row: row.update(images=row["images"] * 2),
        lambda row: row.update(images=[]),
        lambda row: row.pop("images"),
    ],
)
def test_a_row_without_a_label_and_one_picture_is_named(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Any, workspace: Path, change: Change
) -> None:
    rows = artifact.read_jsonl(pictures_data / "sft-labelled" / "train.jsonl")[:6]
    change(rows[2])
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=rows)
    with pytest.raises(DataError, match=r"data/sft/train.jsonl:3: alignment needs rows of one picture and a text"):
        align.main(configured(dataset="sft"), make_run("sight"), model=chat_model, data=data)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["7", "7", "7", "7"], "only one label, \\['7'\\]"),
        (["3 5", "5 3", "3 5", "5 3"], "labels '3 5' and '5 3' are of the same tokens"),
    ],
)
def test_labels_that_cannot_be_told_apart_are_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Any, workspace: Path, labels: list[str],
    message: str,
) -> None:  # fmt: skip
    rows = artifact.read_jsonl(pictures_data / "sft-labelled" / "train.jsonl")[:4]
    labelled = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=labelled)
    with pytest.raises(DataError, match=message):
        align.main(configured(dataset="sft"), make_run("sight"), model=chat_model, data=data)


def test_training_that_diverges_is_no_model(make_run: MakeRun, chat_model: Path, pictures_data: Path) -> None:
    run = make_run("sight")
    with pytest.raises(DataError, match="training diverged"):
        align.main(configured(steps=4, learning_rate=1e38), run, model=chat_model, data=pictures_data)
    assert not (run.out / "model.safetensors").exists()


@pytest.mark.parametrize(("section", "key"), [("architecture", "image_sizes"), ("augmentation", "shfit")])
def test_a_misspelt_key_of_a_section_is_found_before_anything_runs(section: str, key: str) -> None:
    values = configured().model_dump()
    with pytest.raises(ConfigError, match=f"unknown key '{section}.{key}'"):
        parse(PARAMS, values | {section: values[section] | {key: 1}}, align.Config)
