"""The vlm stage: the parts that are named learn and the others keep their bits, and the loss is on the answer alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks import sft, vlm
from tasks.models.multimodal import load_model, load_multimodal, load_processor
from tasks.models.turn_ends import rendered_end
from tasks.multimodal.images import Archive
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tasks.training import audit, rows
from tasks.training import trainer as training
from tests.support import supervised
from tests.support.pictures import PARAMS, TOKENS, configured, write_set

MakeRun = Callable[..., Any]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*(q|v)_proj"}

pytestmark = pytest.mark.usefixtures("one_thread")


def moved(before: Path, after: Path) -> set[str]:
    """The parts of which some tensor, a statistic of normalisation included, is another one."""
    a, b = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert set(a) == set(b)
    return {vlm.part_of(name) for name in a if not torch.equal(a[name], b[name])}


def held(before: Path, after: Path, part: vlm.Part) -> list[str]:
    """The tensors of a part that are the same."""
    a, b = (load_file(folder / "model.safetensors") for folder in (before, after))
    return [name for name in a if vlm.part_of(name) == part and torch.equal(a[name], b[name])]


@pytest.mark.parametrize(
    ("trained", "peft"),
    [
        (["projector"], None),
        (["projector", "language_model"], None),
        (["encoder"], None),
        (["language_model"], LORA),
        (["projector", "language_model"], LORA),
        (["encoder", "projector", "language_model"], LORA),
    ],
)
def test_the_parts_that_are_named_learn_and_no_others(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, trained: list[str], peft: dict[str, Any] | None
) -> None:
    run = make_run("vlm")
    vlm.main(configured(vlm, peft, trained, max_steps=1), run, model=seeing_model, data=pictures_data)
    assert moved(seeing_model, run.out) == set(trained)
    if "projector" in trained:
        assert held(seeing_model, run.out, "projector") == [], "the gradient reaches all of it"
    statistics = [name for name in load_file(run.out / "model.safetensors") if "running_" in name]
    assert statistics and set(statistics) <= set(held(seeing_model, run.out, "encoder")), "also where weights learn"
    figures = artifact.read_json(run.out / "metrics.json")
    assert 0 < figures["trainable_parameters"] < figures["parameters"]
    assert (run.out / "adapter").exists() == (peft is not None)
    load_multimodal(run.out)


def test_it_learns_to_answer(make_run: MakeRun, seeing_model: Path, pictures_data: Path) -> None:
    run = make_run("vlm")
    vlm.main(configured(vlm, max_steps=8, learning_rate=5e-3), run, model=seeing_model, data=pictures_data)
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.5


def test_an_adapter_is_resumed_with_the_parts_that_learn_whole(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path
) -> None:
    """The checkpoint of an adapter holds what the adapter's configuration names: the projector too."""
    config = configured(vlm, LORA, ["projector", "language_model"], max_steps=4, save_steps=2)
    whole = make_run("whole")
    vlm.main(config, whole, model=seeing_model, data=pictures_data)
    resumed = make_run("resumed")
    resumed.checkpoints.mkdir(parents=True)
    (whole.checkpoints / "checkpoint-2").rename(resumed.checkpoints / "checkpoint-2")
    vlm.main(config, resumed, model=seeing_model, data=pictures_data)
    for name in ("model.safetensors", "curves.jsonl"):
        assert (resumed.out / name).read_bytes() == (whole.out / name).read_bytes(), name


@pytest.mark.parametrize(
    ("trained", "peft", "message"),
    [
        (["language_model"], {"target_modules": "all-linear"}, "target_modules reaches the projector, which `trained`"),
        (["projector"], LORA, "target_modules reaches the language_model, which `trained` does not name"),
        (["projector", "language_model"], {"target_modules": ["linear_1"]}, "names 'language_model', which peft"),
        (["language_model"], {"target_modules": ["qproj"]}, "target_modules reaches no layer of the model"),
        (["language_model"], {"r": 4}, "peft.target_modules has to name layers"),
    ],
)
def test_an_adapter_that_contradicts_the_parts_is_refused(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, trained: list[str], peft: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^params/test/vlm.yaml: .*{message}"):
        vlm.main(configured(vlm, peft, trained), make_run("vlm"), model=seeing_model, data=pictures_data)


def make_trainer(model: Path, data: Path, run: Any) -> Any:
    """The trainer as the stage makes it, before its first step."""
    from trl import SFTTrainer

    loaded, reader = load_model(model)
    return SFTTrainer(
        model=loaded,
        args=training.arguments(vlm.trainer_class(), configured(vlm), run),
        train_dataset=rows.examples(data, "sft", "train"),
        processing_class=reader,
    )


@pytest.fixture
def mixed(pictures_data: Path, workspace: Path, make_artifact: Any) -> Path:
    """Rows of one picture, of two and of none, one of them with two answers; the held-out row is of words alone."""
    names = [row["images"][0] for row in artifact.read_jsonl(pictures_data / "sft" / "train.jsonl")[:4]]

    def said(*turns: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, turns, strict=False)]

    made = [
        {"messages": said("Which digit?", "7.", "And the next?", "It is 8."), "images": names[:1]},
        {"messages": said("What is 1 + 1?", "2.")},
        {"messages": said("Add both digits.", "3 + 4 = 7."), "images": names[1:3]},
        {"messages": said("What is 2 + 1?", "3.")},
    ]
    return write_set(workspace / "mixed", pictures_data, make_artifact, sft=made)


def test_the_loss_is_on_the_answers_alone(make_run: MakeRun, seeing_model: Path, mixed: Path) -> None:
    trainer = make_trainer(seeing_model, mixed, make_run("vlm"))
    tokenizer = trainer.processing_class.tokenizer
    end = rendered_end(tokenizer)
    assert end == "<|im_end|>\n"
    expected = ["7." + end, "It is 8." + end, "2." + end, "3 + 4 = 7." + end]
    pictures = [1, 1, 0, 2]
    assert len(trainer.train_dataset) == 4, "one row for each answer"
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    for ids, labels, text, count in zip(batch["input_ids"], batch["labels"], expected, pictures, strict=True):
        assert tokenizer.decode(labels[labels != -100]) == text
        assert int((ids == trainer.processing_class.image_token_id).sum()) == count * TOKENS
    first = tokenizer.decode(batch["input_ids"][1])
    assert first.index("<image>") < first.index("Which digit?") < first.index("7.") < first.index("It is 8.")
    assert len(batch["pixel_values"]) == sum(pictures)


def test_rows_of_words_train_among_rows_of_pictures(make_run: MakeRun, seeing_model: Path, mixed: Path) -> None:
    """In one batch, and in batches of their own; the held-out rows have no picture at all."""
    run = make_run("vlm")
    config = configured(vlm, max_steps=4, per_device_train_batch_size=1)
    vlm.main(config, run, model=seeing_model, data=mixed)
    assert moved(seeing_model, run.out) == {"projector", "language_model"}
    assert artifact.read_json(run.out / "metrics.json")["eval_loss"] > 0
    record = artifact.read_json(run.out / "audit.json")["train"]
    assert (record["rows"], record["used"]) == (3, 3)


def test_the_audit_counts_the_tokens_that_the_trainer_reads(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, mixed: Path
) -> None:
    for data in (pictures_data, mixed):
        run = make_run(f"vlm-{data.name}")
        reader = load_processor(seeing_model)
        audit.audited(configured(vlm), run, data, "sft", reader, vlm.trainer_class(), vlm.row_rule, seeing_model)
        trainer = make_trainer(seeing_model, data, run)
        read = [trainer.data_collator([row])["input_ids"].shape[1] for row in trainer.train_dataset]
        assert artifact.read_json(run.out / "audit.json")["train"]["longest"]["tokens"] == max(read)


def test_a_picture_is_decoded_when_it_is_read(pictures_data: Path) -> None:
    dataset = rows.examples(pictures_data, "sft", "train")
    row = artifact.read_jsonl(pictures_data / "sft" / "train.jsonl")[3]
    assert dataset[3]["images"][0].tobytes() == Archive(pictures_data).image(row["images"][0]).tobytes()
    assert dataset[3]["completion"] == row["messages"][1:]


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_length": 128}, "trainer.max_length is 128, which would cut pictures in two; set it to null"),
        ({"packing": True}, "trainer.packing is for rows of text alone"),
        ({"assistant_only_loss": True}, "trainer.assistant_only_loss is for rows of text alone"),
    ],
)
@pytest.mark.parametrize("stage", [vlm, sft])
def test_settings_for_text_alone_are_refused(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, stage: Any, trainer: dict[str, Any], message: str
) -> None:
    make = configured if stage is vlm else supervised.configured
    config = make(stage, **{"max_length": None, **trainer})
    with pytest.raises(ConfigError, match=message):
        stage.main(config, make_run("vlm"), model=seeing_model, data=pictures_data)


@pytest.mark.parametrize(("stage", "trained"), [(vlm, ["language_model"]), (sft, None)])
def test_a_text_model_given_pictures_is_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path, stage: Any, trained: list[str] | None
) -> None:
    config = configured(vlm, None, trained) if stage is vlm else supervised.configured(sft, max_length=None)
    message = r"params/test/run.yaml: the rows of .*sft/train.jsonl have pictures, and the model takes none"
    with pytest.raises(ConfigError, match=message):
        stage.main(config, make_run("run"), model=chat_model, data=pictures_data)


def test_a_part_that_the_model_has_not_is_named(make_run: MakeRun, chat_model: Path, pictures_data: Path) -> None:
    with pytest.raises(ConfigError, match="trained names 'projector', and the model has language_model; a model with"):
        vlm.main(configured(vlm), make_run("vlm"), model=chat_model, data=pictures_data)


def test_a_model_that_sees_is_trained_on_words_by_sft(
    make_run: MakeRun, seeing_model: Path, sums_data: Path, pictures_data: Path
) -> None:
    """All its weights but those of the eyes move, and it still sees."""
    run = make_run("sft")
    config = supervised.configured(sft, assistant_only_loss=True)
    sft.main(config, run, model=seeing_model, data=sums_data)
    assert moved(seeing_model, run.out) == {"language_model"}
    before, after = (_logits(folder, pictures_data) for folder in (seeing_model, run.out))
    assert not torch.allclose(before, after)


def _logits(folder: Path, data: Path) -> torch.Tensor:
    model, processor = load_multimodal(folder)
    row = artifact.read_jsonl(data / "sft" / "train.jsonl")[0]
    picture = Archive(data).image(row["images"][0])
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(
            **processor(text=["<image>?"], images=[[picture]], return_tensors="pt")
        ).logits
    return logits


def test_rows_beyond_the_context_are_refused_before_training(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, make_artifact: Any, workspace: Path
) -> None:
    """It is the pictures that make the row too long: its words would fit."""
    row = artifact.read_jsonl(pictures_data / "sft" / "train.jsonl")[0]
    made = [{**row, "images": row["images"] * count} for count in (1, 15, 1)]
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=made)
    run = make_run("vlm")
    with pytest.raises(DataError, match=r"rows of up to 2\d\d tokens .* is 256: leave longer rows out of the data, or"):
        vlm.main(configured(vlm), run, model=seeing_model, data=data)
    assert not (run.out / "curves.jsonl").exists()


def test_a_text_that_spells_the_placeholder_is_named(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, make_artifact: Any, workspace: Path
) -> None:
    """Texts of LLaVA's data sets spell it, and the processor would look for a second picture."""
    made = artifact.read_jsonl(pictures_data / "sft" / "train.jsonl")[:4]
    made[1]["messages"][0]["content"] = "<image>\nWhich digit is this?"
    data = write_set(workspace / "data", pictures_data, make_artifact, sft=made)
    with pytest.raises(DataError, match=r"sft/train.jsonl:2: a text has '<image>', which stands for a picture"):
        vlm.main(configured(vlm), make_run("vlm"), model=seeing_model, data=data)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.language_model.layers.0.mlp.up_proj.weight", "language_model"),
        ("lm_head.weight", "language_model"),
        ("model.vision_tower.embedder.weight", "encoder"),
        ("model.visual.blocks.0.attn.qkv.weight", "encoder"),
        ("model.visual.merger.mlp.0.weight", "projector"),
        ("model.connector.modality_projection.proj.weight", "projector"),
        ("model.multi_modal_projector.linear_1.weight", "projector"),
        ("model.audio_tower.layers.0.fc1.weight", "encoder"),
        ("model.text_model.layers.0.self_attn.q_proj.weight", "language_model"),
    ],
)
def test_the_part_of_a_weight(name: str, part: str) -> None:
    """Names of FastVLM, LLaVA, Qwen-VL, SmolVLM and Qwen-Audio."""
    assert vlm.part_of(name) == part


def test_the_outermost_modules_of_a_part(seeing_model: Path) -> None:
    model, _ = load_multimodal(seeing_model)
    assert vlm.roots(model, "projector") == ["model.multi_modal_projector"]
    assert vlm.roots(model, "encoder") == ["model.vision_tower"]


def test_the_parts_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=f"{PARAMS}: .*trained"):
        configured(vlm, None, ["eyes"])
