"""Quantisation: what is written loads, answers nearly as its parent, is small, recorded, and refused elsewhere."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import quantize
from tasks.compression import calibration
from tasks.evaluation import harness
from tasks.export.reference import Prompt, render_prompts
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer, save_model
from tasks.stage import artifact
from tasks.stage.config import parse, read_yaml
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.progress import Progress
from tests.conftest import REPO

MakeRun = Callable[..., Any]
RECIPE = REPO / "params/tiny/quantize.yaml"
CALIBRATED = {"rtn4": False, "gptq": True, "awq": True, "rtn8": False, "w8a8": False}
CLOSE = {"rtn4": 2.0, "gptq": 2.0, "awq": 2.0, "rtn8": 0.02, "w8a8": 0.05}
"""Most KL in nats a token on the sharpened random model."""


def configured(**changed: Any) -> quantize.Config:
    """The tiny recipe's own settings, for a few rows."""
    values = read_yaml(RECIPE)
    values["calibration"]["rows"] = 8
    values["held_out"] |= {"answer_rows": 4, "prompt_rows": 4, "max_new_tokens": 8}
    return parse(RECIPE, values | changed, quantize.Config)


@pytest.fixture(scope="module")
def sharp(
    tmp_path_factory: pytest.TempPathFactory, chat_model: Path, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    """The random model with larger matrices, so that its answers depend on what is rounded."""
    model, folder = load_causal_lm(chat_model), tmp_path_factory.mktemp("sharp")
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() > 1):
            matrix.mul_(4)
    save_model(model, load_tokenizer(chat_model), folder)
    make_artifact(folder, stage="base")
    return folder


def quantized(
    make_run: MakeRun, config: quantize.Config, name: str, model: Path, data: Path
) -> tuple[Path, dict[str, Any]]:
    run = make_run(f"quant_{name}", name)
    quantize.main(config, run, model=model, data=data)
    return run.out, json.loads((run.out / "quantize.json").read_text())


def test_without_a_set_named_it_measures_and_calibrates_on_what_there_is(
    make_run: MakeRun, sharp: Path, sums_data: Path, tmp_path: Path
) -> None:
    """A recipe of conversations and an evaluation, and of no `prompts`."""
    data = tmp_path / "data"
    shutil.copytree(sums_data / "sft", data / "sft")
    shutil.copytree(sums_data / "eval", data / "eval")
    unnamed = read_yaml(RECIPE)["held_out"] | {"answers": None, "prompts": None}
    held_out = unnamed | {"answer_rows": 4, "prompt_rows": 4, "max_new_tokens": 8}
    calibration = {"dataset": None, "rows": 8, "max_length": 64}
    _, report = quantized(make_run, configured(held_out=held_out, calibration=calibration), "gptq", sharp, data)
    assert report["held_out"]["answers"]["files"] == {"sft/validation.jsonl": 4}
    assert report["held_out"]["prompts"]["by_default"] and report["held_out"]["prompts"]["rows"] == 4
    assert all(name.startswith("eval/") for name in report["held_out"]["prompts"]["files"])
    assert (report["calibration"]["files"], report["prompts"]) == ({"sft/train.jsonl": 8}, 4)


@pytest.mark.parametrize("name", CALIBRATED)
def test_it_is_small_and_answers_nearly_alike(name: str, make_run: MakeRun, sharp: Path, sums_data: Path) -> None:
    folder, report = quantized(make_run, configured(), name, sharp, sums_data)
    assert 1e-7 < report["kl_per_token"] < CLOSE[name], "rounded, and not by much"
    assert 0.0 <= report["greedy_agreement"] <= report["argmax_agreement"] <= 1.0
    assert report["bytes"]["quantized"] < 0.7 * report["bytes"]["parent"], "of the test's model half is embedding"
    assert report["bytes"]["quantized"] == (folder / "model.safetensors").stat().st_size
    record = report["calibration"]
    assert (record is not None) == CALIBRATED[name]
    if record:
        assert (record["dataset"], record["split"], record["rows"]) == ("sft", "train", 8)
        assert len(record["sha256"]) == 64
    used = report["modifiers"]
    assert list(used) == list(read_yaml(RECIPE)["methods"][name]["modifiers"])
    assert used[list(used)[-1]]["ignore"] == ["re:.*lm_head"]
    if name == "gptq":
        weights = used["GPTQModifier"]["config_groups"]["weights"]["weights"]
        assert (weights["num_bits"], weights["actorder"]) == (4, "static"), "what the recipe leaves open is there too"
    assert not list(folder.glob("*.yaml")), "llm-compressor's holds Python objects"
    method = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert method["quant_method"] == "compressed-tensors"
    assert method["ignore"] == ["lm_head"]


def test_the_evaluation_loads_it_and_nothing_else_does(make_run: MakeRun, sharp: Path, sums_data: Path) -> None:
    folder, _ = quantized(make_run, configured(), "gptq", sharp, sums_data)
    lm = harness.load(folder, "cpu", "float32", 4, {}, "error", Progress(None))
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        ours, parents = lm.model(ids).logits, load_causal_lm(sharp)(ids).logits
    assert torch.isfinite(ours).all()
    assert not torch.equal(ours, parents)
    for read in (check_folder, load_causal_lm):
        with pytest.raises(ModelError, match="neither trained further, pruned, merged nor exported"):
            read(folder)


def test_gptq_rounds_better_than_to_the_nearest_on_what_it_saw(make_run: MakeRun, sharp: Path, sums_data: Path) -> None:
    """Along the columns' inputs, which is what GPTQ minimises, and not in the weights themselves."""
    config = configured()
    inputs = []
    parent = load_causal_lm(sharp)
    first = parent.get_decoder().layers[0].self_attn.q_proj
    first.register_forward_hook(lambda _module, args, _out: inputs.append(args[0].reshape(-1, args[0].shape[-1])))
    tokenizer = load_tokenizer(sharp)
    seen, _ = calibration.draw(config.calibration, tokenizer, sums_data, config.seed, RECIPE)
    with torch.inference_mode():
        for ids in seen:
            parent(torch.tensor([ids]))
    errors = {}
    for name in ("rtn4", "gptq"):
        folder, _ = quantized(make_run, config, name, sharp, sums_data)
        rounded = load_causal_lm(folder, quantized=True).get_decoder().layers[0].self_attn.q_proj
        errors[name] = float(((first.weight - rounded.weight) @ torch.cat(inputs).T).detach().pow(2).sum())
    assert errors["gptq"] < 0.9 * errors["rtn4"]


def test_the_same_settings_give_the_same_bytes(make_run: MakeRun, sharp: Path, sums_data: Path) -> None:
    found = []
    for name in ("one", "two"):
        config = configured(methods={name: read_yaml(RECIPE)["methods"]["awq"]})
        folder, _ = quantized(make_run, config, name, sharp, sums_data)
        found.append({p.name: artifact.sha256(p) for p in folder.iterdir()})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("modifiers", "key"),
    [
        ({"GPTQModifier": {"blok_size": 64}}, r"GPTQModifier\.blok_size.*did you mean 'block_size'"),
        ({"GPTQModifier": {"block_size": "many"}}, r"GPTQModifier\.block_size"),
        ({"QuantizationModifier": {"targets": ["Linear"], "scheme": "W3A16X"}}, "QuantizationModifier|W3A16X"),
    ],
)
def test_what_is_wrong_is_named(
    modifiers: dict[str, Any], key: str, make_run: MakeRun, sharp: Path, sums_data: Path
) -> None:
    config = configured(methods={"gptq": {"modifiers": modifiers}})
    with pytest.raises(ConfigError, match=key) as e:
        quantized(make_run, config, "gptq", sharp, sums_data)
    assert "params/test/quant_gptq.yaml: " in str(e.value)
    assert "methods.gptq.modifiers" in str(e.value)


def test_a_group_that_does_not_divide_a_matrix_is_refused(make_run: MakeRun, sharp: Path, sums_data: Path) -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 48}
    groups = {"weights": {"targets": ["Linear"], "weights": weights}}
    modifiers = {"QuantizationModifier": {"ignore": ["re:.*lm_head"], "config_groups": groups}}
    with pytest.raises(ConfigError, match="48"):
        quantized(make_run, configured(methods={"odd": {"modifiers": modifiers}}), "odd", sharp, sums_data)


def test_the_chat_template_gets_its_arguments(sharp: Path) -> None:
    """What an answer is to begin with belongs to the prompt that is measured, e.g. Qwen3's closed thinking block."""
    tokenizer = load_tokenizer(sharp)
    tokenizer.chat_template += "{%- if add_generation_prompt and not think %}{{- 'No thoughts.' }}{%- endif %}"
    asked = [[{"role": "user", "content": "What is 1 + 2?"}]]
    texts = [tokenizer.decode(render_prompts(tokenizer, asked, {"think": think})[0].ids) for think in (True, False)]
    assert texts == [
        "<|im_start|>user\nWhat is 1 + 2?<|im_end|>\n<|im_start|>assistant\n" + t for t in ("", "No thoughts.")
    ]


def test_the_recipe_hands_them_on(make_run: MakeRun, sharp: Path, sums_data: Path, monkeypatch: Any) -> None:
    seen: list[Any] = []

    def spy(tokenizer: Any, asked: Any, chat_template_args: dict[str, Any]) -> list[Prompt]:
        seen.append(chat_template_args)
        return render_prompts(tokenizer, asked, chat_template_args)

    monkeypatch.setattr(quantize, "render_prompts", spy)
    held = read_yaml(RECIPE)["held_out"] | {"answer_rows": 2, "prompt_rows": 2, "max_new_tokens": 2}
    config = configured(held_out=held | {"chat_template_args": {"enable_thinking": False}})
    quantized(make_run, config, "rtn8", sharp, sums_data)
    assert seen == [{"enable_thinking": False}]
