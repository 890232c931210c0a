"""GPTQ on ONNX Runtime's grid: the rounding itself, and that the numbers reach the graph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.export import builder, genai, gptq, matmul_nbits
from tasks.export_onnx import Config, main
from tasks.models.folder import load_causal_lm
from tasks.stage import artifact
from tasks.stage.config import parse, read_yaml
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tests.conftest import REPO

BLOCK = 16
WEIGHTS = {"method": "rtn", "block_size": BLOCK, "symmetric": False, "op_types": ["MatMul"], "overrides": []}
FORM = gptq.Grid(bits=4, block=BLOCK, symmetric=False)
ROWS = [[5, 9, 17, 33, 60, 7], [8, 8, 100, 201, 44], [12, 50, 60, 70, 80, 90], [3, 200, 150, 31, 77]]


def correlated(tokens: int, width: int) -> torch.Tensor:
    """Inputs that have few directions, as those of a trained model do."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(tokens, 4, generator=generator) @ torch.randn(4, width, generator=generator)
    return few + 0.1 * torch.randn(tokens, width, generator=generator)


def meant(numbers: Any, width: int) -> np.ndarray:
    """The weights that codes, scales and zeros stand for."""
    codes, scales, zeros = numbers
    return np.asarray((codes.astype("f4") - zeros[..., None]) * scales[..., None]).reshape(len(codes), -1)[:, :width]


def test_weights_that_lie_on_a_grid_are_found_exactly() -> None:
    levels = torch.stack([torch.arange(16.0), torch.arange(16.0).flip(0)])
    scales, zeros = gptq.grid((levels - 5) * torch.tensor([[0.25], [0.5]]), FORM, torch.ones(16))
    assert scales.tolist() == pytest.approx([0.25, 0.5])
    assert zeros.tolist() == [5, 5]


@pytest.mark.parametrize("sign", [1, -1])
def test_symmetric_blocks_reach_further_on_the_longer_side(sign: int) -> None:
    """Levels -8 to 7, or -7 to 8: the longer side decides."""
    weights = torch.arange(-8.0, 8.0)[None] * sign * 0.25
    scales, zeros = gptq.grid(weights, FORM._replace(symmetric=True), torch.ones(16))
    assert zeros.tolist() == [8] and scales.tolist() == pytest.approx([sign * 0.25])


def test_by_the_definition_a_column_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inverse of what is left of the Hessian is made anew for each column, as equations 2 and 3 have it."""
    x = correlated(200, 40)
    weights, hessian = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)).double(), (x.T @ x).double()
    monkeypatch.setattr(gptq, "COLUMNS", BLOCK)
    (codes, scales, zeros), found = gptq.round_matrix(weights, hessian, FORM, 0.01)
    assert codes.shape == (6, 3, BLOCK)
    damped = hessian + 0.01 * torch.cat([hessian.diagonal(), torch.ones(8)]).mean() * torch.eye(40)
    rest = weights.clone()
    for j in range(40):
        scale, zero = torch.tensor(scales[:, j // BLOCK]), torch.tensor(zeros[:, j // BLOCK])
        level = ((rest[:, j] / scale).round() + zero).clamp(0, 15)
        assert level.tolist() == codes.reshape(6, -1)[:, j].tolist()
        inverse = torch.linalg.inv(damped[j:, j:])
        error = (rest[:, j] - (level - zero) * scale) / inverse[0, 0]
        rest[:, j:] -= error[:, None] * inverse[0]
    assert np.allclose(found, meant((codes, scales, zeros), 40), atol=1e-6)


def test_outputs_change_less_than_by_plain_rounding() -> None:
    x = correlated(400, 64)
    weights = torch.randn(32, 64, generator=torch.Generator().manual_seed(1))
    errors = []
    for hessian in (x.T @ x, torch.eye(64)):  # without inputs every column is rounded by itself
        _, rounded = gptq.round_matrix(weights, hessian, FORM, 0.01)
        errors.append(float(((rounded - weights) @ x.T).norm()))
    assert errors[0] < 0.5 * errors[1]


def test_an_input_that_is_always_zero_is_no_error() -> None:
    x = correlated(50, 32)
    x[:, 3] = 0
    (codes, _, _), rounded = gptq.round_matrix(torch.randn(4, 32), x.T @ x, FORM, 0.01)
    assert rounded.isfinite().all() and codes.max() <= 15


@pytest.fixture(scope="module", params=[False, True], ids=["zero points", "symmetric"])
def int4(chat_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The small chat model as the builder rounds it."""
    out = tmp_path_factory.mktemp("rounded") / "int4"
    weights = {**WEIGHTS, "accuracy_level": 1, "symmetric": request.param}
    options = builder.prepare_options(chat_model, "int4", "int4", weights)
    builder.build(chat_model, out, precision="int4", options=options)
    return out


def test_the_builders_numbers_are_read_as_it_meant_them(int4: Path, chat_model: Path) -> None:
    modules = dict(load_causal_lm(chat_model).named_modules())
    for product in matmul_nbits.products(int4):
        weights = np.concatenate([modules[name].weight.detach().numpy() for name in product.modules()])
        numbers = product.read()
        assert np.abs(meant(numbers, product.columns) - weights).max() <= 0.75 * np.abs(numbers[1]).max()


def test_what_is_written_is_what_onnx_runtime_multiplies_by(int4: Path, chat_model: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "int4"
    shutil.copytree(int4, folder)
    model = load_causal_lm(chat_model)
    products = matmul_nbits.decoder_products(folder, model)
    grids = {name: gptq.Grid(p.bits, p.block, p.symmetric) for p in products for name in p.modules()}
    fitted = gptq.fit(model, ROWS, grids, 0.01, Progress(None))
    for product in products:
        product.write_parts([fitted[name] for name in product.modules()])
        again = product.read()
        assert all(
            np.array_equal(np.concatenate([fitted[n][i] for n in product.modules()]), again[i]) for i in range(3)
        )
    for product in matmul_nbits.products(folder):  # the head too, which stays the builder's
        if product.modules() == ["lm_head"]:
            model.lm_head.weight = torch.nn.Parameter(torch.tensor(meant(product.read(), product.columns)))
    theirs = genai.logits(genai.load(folder, threads=1)[0], ROWS[0])
    with torch.no_grad():
        ours = model(torch.tensor([ROWS[0]])).logits[0].numpy()
    assert np.abs(ours - theirs).max() < 1e-3
    before = genai.logits(genai.load(int4, threads=1)[0], ROWS[0])
    assert np.abs(ours - before).max() > 1e-2


def test_each_layer_sees_what_the_rounded_ones_before_it_put_out(chat_model: Path) -> None:
    """The last layer's rounding depends on the first one's: not so if both were fed by the whole model."""
    names = [f"model.layers.{i}.mlp.down_proj" for i in (0, 1)]
    alone, both = (
        gptq.fit(load_causal_lm(chat_model), ROWS, dict.fromkeys(chosen, FORM), 0.01, Progress(None))
        for chosen in (names[1:], names)
    )
    assert not np.array_equal(alone[names[1]][0], both[names[1]][0])


def stage(tmp_path: Path, model: Path, **int4: Any) -> dict[str, Any]:
    """Run the export of the small chat model with the int4 form changed; returns `parity.json`."""
    data = tmp_path / "data"
    turns = [("What is 12 + 345?", "357"), ("What is 1 + 2?", "Sure! 3"), ("What is 5 + 5?", "10"), ("Add 7", "7")]
    rows = [
        {"id": str(i), "source": "sums", "messages": [
            {"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for i, (q, a) in enumerate(turns)
    ]  # fmt: skip
    for split in ("train", "validation"):
        artifact.write_jsonl(data / "sft" / f"{split}.jsonl", rows)
    raw = read_yaml(REPO / "params" / "tiny" / "export_onnx.yaml")
    raw["forms"]["int4"] |= int4
    raw["forms"]["int4"]["gptq"]["calibration"]["rows"] = 4
    rounded = raw["forms"]["int4"] | {"gptq": None}
    raw["forms"] = {"rounded": rounded, "int4": raw["forms"]["int4"]}
    raw["parity"] = {"rows": "sft/validation.jsonl", "prompts": 4, "max_new_tokens": 12}
    raw["speed"] = {"new_tokens": 2, "repeats": 1}
    out = tmp_path / "onnx" / "sft"
    out.mkdir(parents=True)
    run = Run(
        out=out, params_file=Path("params/tiny/export_onnx.yaml"), name="sft", checkpoints=out / "none", manifests={},
        progress=Progress(None), main_process=True,
    )  # fmt: skip
    main(parse(Path("params/tiny/export_onnx.yaml"), raw, Config), run, model=model, data=data)
    found: dict[str, Any] = artifact.read_json(out / "parity.json")
    return found


FREE = {"thresholds": dict.fromkeys(("max_logprob_difference", "kl_per_token", "argmax_agreement", "greedy_agreement"))}


def test_the_form_is_nearer_to_its_model_and_says_what_calibrated_it(chat_model: Path, tmp_path: Path) -> None:
    parity = stage(tmp_path, chat_model, **FREE)
    rounded, fitted = (parity["forms"][name] for name in ("rounded", "int4"))
    assert fitted["kl_per_token"] < rounded["kl_per_token"]
    assert fitted["bytes"] == rounded["bytes"]
    record = parity["calibration"]["int4"]
    assert (record["dataset"], record["split"], record["rows"]) == ("sft", "train", 4)
    assert "rounded" not in parity["calibration"]


def test_whole_weights_have_nothing_to_round(chat_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"params/tiny/export_onnx\.yaml: .forms\.int4..*gptq: null"):
        stage(tmp_path, chat_model, precision="fp32", weights={}, **FREE)


def test_a_matrix_that_is_not_the_models_is_named(int4: Path, chat_model: Path) -> None:
    model = load_causal_lm(chat_model)
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(64, 96)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj is no matrix of LlamaForCausalLM.*gptq: null"):
        matmul_nbits.decoder_products(int4, model)


def test_a_graph_without_rounded_weights_has_none_to_fit(chat_model: Path, tmp_path: Path) -> None:
    builder.build(
        chat_model, tmp_path / "f", precision="fp32", options=builder.prepare_options(chat_model, "f", "fp32", {})
    )
    with pytest.raises(ModelError, match=r"no weights of the decoder are rounded.*gptq: null"):
        matmul_nbits.decoder_products(tmp_path / "f", load_causal_lm(chat_model))
