"""Pruning: how much goes, that healing keeps it gone, that blocks go by influence, and what is written and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import prune
from tasks.compression import held_out, pruning
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage.config import read_yaml
from tasks.stage.errors import ConfigError, ModelError
from tasks.training import rows
from tasks.training import trainer as training
from tests.conftest import REPO, TRAINER
from tests.support.prune import configured

MakeRun = Callable[..., Any]
SHAPES = {"wanda": "0:0", "sparsegpt": "0:0", "wanda24": "2:4", "sparsegpt24": "2:4"}


def method(name: str, **changed: Any) -> dict[str, Any]:
    """`methods:` with one method of the tiny recipe, changed."""
    return {name: read_yaml(REPO / "params/tiny/prune.yaml")["methods"][name] | changed}


def pruned(make_run: MakeRun, config: prune.Config, name: str, chat_model: Path, data: Path) -> tuple[Path, Any]:
    run = make_run(f"pruned_{name}", name)
    prune.main(config, run, model=chat_model, data=data)
    return run.out, json.loads((run.out / "prune.json").read_text())


def fours_are_half_empty(matrix: torch.Tensor) -> bool:
    return bool(((matrix.reshape(-1, 4) == 0).sum(-1) == 2).all())


@pytest.mark.parametrize("name", ["magnitude", *SHAPES])
def test_half_of_each_matrix_goes_and_stays_away(
    name: str, make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    folder, report = pruned(make_run, configured(), name, chat_model, sums_data)
    assert set(report["sparsity"]["kinds"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert report["sparsity"]["matrices"] == pytest.approx(0.5, abs=0.01)
    assert report["parameters"]["before"] == report["parameters"]["after"]
    model, parent = load_causal_lm(folder), load_causal_lm(chat_model)
    found, before = pruning.matrices(model), pruning.matrices(parent)
    assert len(found) == 14
    for matrix in found.values():
        assert (matrix == 0).float().mean() == pytest.approx(0.5, abs=0.01)
        assert fours_are_half_empty(matrix) == (SHAPES.get(name) == "2:4")
    moved = [bool((matrix != before[name])[matrix != 0].any()) for name, matrix in found.items()]
    assert all(moved), "what is left was trained on"
    assert bool((model.get_input_embeddings().weight != 0).all()), "the embedding is not pruned"
    assert {"before", "pruned", "healed"} <= set(report)
    assert report["held_out"]["prompts"] == {"files": {"prompts/validation.jsonl": 4}, "rows": 4, "by_default": False}
    assert report["healed"]["nats_per_token"] < report["pruned"]["nats_per_token"]


def test_the_dense_model_teaches(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    """Taught by itself alone, a model that lost nothing has nothing to learn; by the rows it has."""
    moved = {}
    for weight in (1.0, 0.5):
        run = make_run(f"healed_{weight}")
        policy, dense = load_causal_lm(chat_model), load_causal_lm(chat_model)
        arguments = training.arguments(prune.trainer_class(), configured(teacher_weight=weight), run)
        tokenizer = load_tokenizer(chat_model)
        trainer = pruning.healer(run, arguments, "sft", policy, tokenizer, sums_data, dense, weight)
        batch = next(iter(trainer.get_train_dataloader()))
        trainer.compute_loss(trainer.model, batch).backward()
        moved[weight] = max(float(p.grad.abs().max()) for p in policy.parameters() if p.grad is not None)
    assert moved[1.0] < 1e-6 < 1e-3 < moved[0.5]


def test_the_healed_model_is_measured_in_float32(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    """Whatever it is trained in: the same folder, loaded again in float32, has the loss that was written."""
    trainer = TRAINER | {"assistant_only_loss": True, "max_steps": 3, "save_steps": 3, "bf16": True}
    folder, report = pruned(make_run, configured(trainer=trainer), "magnitude", chat_model, sums_data)
    answers = rows.read(sums_data, "sft", "validation")[:8]
    again = held_out.loss_per_token(load_causal_lm(folder), load_tokenizer(folder), answers)
    assert report["healed"]["nats_per_token"] == again["nats_per_token"]


def test_blocks_that_are_not_there_are_refused_before_anything_is_loaded(
    make_run: MakeRun, chat_model: Path, sums_data: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes((chat_model / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"pruned_depth\.yaml: methods\.depth\.drop_layers is 2, and the model has 2"):
        pruned(make_run, configured(methods=method("depth", drop_layers=2)), "depth", bare, sums_data)


def test_magnitude_cuts_the_smallest(chat_model: Path) -> None:
    matrix = torch.tensor([[0.1, -3.0, 0.2], [-0.05, 2.0, 1.0]])
    pruning.cut_smallest(matrix, 0.5)
    assert matrix.tolist() == [[0.0, -3.0, 0.0], [0.0, 2.0, 1.0]]


def test_a_block_that_does_nothing_has_no_influence(chat_model: Path) -> None:
    model = load_causal_lm(chat_model)
    idle = model.get_decoder().layers[1]
    with torch.no_grad():
        idle.self_attn.o_proj.weight.zero_()
        idle.mlp.down_proj.weight.zero_()
    influence = pruning.block_influence(model, [[5, 6, 7], [8, 9]])
    assert influence[1] == pytest.approx(0.0, abs=1e-6)
    assert influence[0] > 1e-4
    assert not any(block._forward_hooks for block in model.get_decoder().layers)


def test_depth_drops_the_blocks_of_least_influence(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    config = configured(methods=method("depth", drop_layers=1))
    folder, report = pruned(make_run, config, "depth", chat_model, sums_data)
    influence = report["blocks"]["influence"]
    assert report["blocks"]["kept"] == [influence.index(max(influence))]
    assert load_causal_lm(folder).config.num_hidden_layers == 1
    assert report["parameters"]["after"] < report["parameters"]["before"]


def test_without_healing_what_is_left_is_as_it_was(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    config = configured(methods=method("wanda", heal=False))
    folder, report = pruned(make_run, config, "wanda", chat_model, sums_data)
    assert "healed" not in report
    before = pruning.matrices(load_causal_lm(chat_model))
    for name, matrix in pruning.matrices(load_causal_lm(folder)).items():
        assert torch.equal(matrix, before[name] * (matrix != 0))


def test_the_same_settings_give_the_same_bytes(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    bytes_of = []
    for name in ("one", "two"):
        config = configured(methods={name: method("sparsegpt")["sparsegpt"]})
        folder, _ = pruned(make_run, config, name, chat_model, sums_data)
        bytes_of.append([(folder / file).read_bytes() for file in ("model.safetensors", "prune.json", "config.json")])
    assert bytes_of[0] == bytes_of[1]


@pytest.mark.parametrize(
    ("methods", "key"),
    [
        (method("wanda", modifiers={"WandaPruningModifier": {"sparsety": 0.5}}), "WandaPruningModifier.sparsety"),
        (method("wanda", modifiers={"WandaPruningModifier": {"sparsity": "half"}}), "WandaPruningModifier.sparsity"),
        (method("depth", drop_layers=2), "depth.drop_layers"),
    ],
)
def test_what_is_wrong_is_named(
    methods: dict[str, Any], key: str, make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    with pytest.raises(ConfigError, match=key) as e:
        pruned(make_run, configured(methods=methods), next(iter(methods)), chat_model, sums_data)
    assert "params/test/pruned_" in str(e.value)


def test_one_way_a_method() -> None:
    with pytest.raises(ConfigError, match="set exactly one of"):
        configured(methods=method("wanda", drop_layers=1))


def test_more_rows_than_there_are(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    few = {"dataset": "sft", "rows": 1000, "max_length": 64}
    with pytest.raises(ConfigError, match=r"calibration\.rows is 1000, and sft has 64"):
        pruned(make_run, configured(calibration=few), "wanda", chat_model, sums_data)


def test_a_quantised_model_is_refused(make_run: MakeRun, chat_model: Path, sums_data: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "packed"
    shutil.copytree(chat_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {}}))
    with pytest.raises(ModelError, match="its weights are quantised"):
        pruned(make_run, configured(), "wanda", folder, sums_data)
