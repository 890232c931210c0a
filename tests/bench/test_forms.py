"""The table of all forms: what is measured, in whose process, and what is over its threshold."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.forms import __main__, children, gguf
from bench.forms import llama as llama_cpp
from bench.forms import table as forms_table
from bench.forms.engines import OnnxRuntime, Transformers, onnx_weight_bytes
from bench.forms.worker import compare, reference
from tasks.export import builder
from tasks.export_onnx import Config
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import ModelError
from tests.conftest import REPO

PARAMS = REPO / "params" / "tiny" / "export_onnx.yaml"
MEASURES: dict[str, Any] = {
    "chat_template_identical": True,
    "tokenizer_identical": True,
    "max_logprob_difference": 0.5,
    "kl_per_token": 0.01,
    "argmax_agreement": 0.97,
    "greedy_agreement": 0.9,
}


@pytest.fixture(scope="module")
def exported(chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat model as float32 and int8 ONNX folders."""
    folder = tmp_path_factory.mktemp("onnx")
    for name, form in load(PARAMS, Config).forms.items():
        if name != "int4":
            options = builder.prepare_options(chat_model, name, form.precision, form.weights)
            builder.build(chat_model, folder / name, precision=form.precision, options=options)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Held-out prompts, where the tiny recipe looks for them."""
    folder = tmp_path_factory.mktemp("data")
    asked = [f"What is {a} + {a + 7}? “é”" for a in range(8)]
    rows = [{"id": str(i), "prompt": [{"role": "user", "content": text}]} for i, text in enumerate(asked)]
    artifact.write_jsonl(folder / "prompts" / "validation.jsonl", rows)
    return folder


@pytest.mark.slow
def test_the_whole_table(
    chat_model: Path, exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"forms {chat_model} --onnx {exported} --data {data} --params {PARAMS} --out {tmp_path}/table.json"
    words += " --skip task --prompts 3 --new-tokens 5 --batches 1 3 --prompt-tokens 20 --speed-tokens 4 --turns 2"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--threads", "1"])
    __main__.main()
    table = json.loads((tmp_path / "table.json").read_text())
    rows = table["forms"]
    assert set(rows) == {"pytorch", "bf16", "onnx_fp32", "onnx_int8"}
    assert table["over"] is None
    assert rows["pytorch"]["max_logit_difference"] == 0 and rows["pytorch"]["greedy_agreement"] == 1
    assert rows["onnx_fp32"]["kl_per_token"] < 1e-6 < rows["onnx_int8"]["kl_per_token"]
    for row in rows.values():
        assert row["chat_template_identical"] and row["tokenizer_identical"]
        assert set(row["tokens_per_second"]) == {"prefill_1", "decode_1", "prefill_3", "decode_3"}
        assert row["peak_bytes_3"] >= row["peak_bytes"] > 20e6
    assert set(rows["pytorch"]["times_pytorch"].values()) == {1.0}
    assert rows["onnx_int8"]["peak_bytes"] < rows["pytorch"]["peak_bytes"], "no PyTorch in that process"
    page = (tmp_path / "table.md").read_text()
    assert all(line.count("|") == 6 for line in page.splitlines() if line)
    assert "| KL per token, nats " in page and "| decode, batch 3, x PyTorch " in page


def test_weights_read_per_token(chat_model: Path, exported: Path) -> None:
    dense = Transformers(chat_model, 1, "float32").weight_bytes()
    assert onnx_weight_bytes(exported / "fp32") == dense
    assert Transformers(chat_model, 1, "bfloat16").weight_bytes() == dense // 2
    norms = 4 * 64 * 5
    assert onnx_weight_bytes(exported / "int8") == norms + (dense - norms) // 4 * 36 // 32


@pytest.mark.slow
def test_an_adapter_unmerged_answers_like_the_model_it_was_merged_into(chat_model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    from tasks.models.folder import load_causal_lm, load_tokenizer, save_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        load_causal_lm(chat_model), LoraConfig(init_lora_weights=False, target_modules=["q_proj", "up_proj"])
    )
    adapted.save_pretrained(tmp_path / "merged" / "adapter")
    save_model(adapted.merge_and_unload(), load_tokenizer(chat_model), tmp_path / "merged")
    ids = list(range(4, 60))
    merged = Transformers(tmp_path / "merged", 1, "float32")
    unmerged = Transformers(chat_model, 1, "float32", tmp_path / "merged" / "adapter")
    np.testing.assert_allclose(unmerged.logits(ids), merged.logits(ids), atol=1e-4)
    assert np.abs(merged.logits(ids) - Transformers(chat_model, 1, "float32").logits(ids)).max() > 0.01
    assert unmerged.answer(ids, 4) == merged.answer(ids, 4)
    assert unmerged.weight_bytes() > merged.weight_bytes()


@pytest.mark.slow
def test_another_tokenizer_and_another_template_show_in_the_measures(
    chat_model: Path, exported: Path, data: Path, tmp_path: Path
) -> None:
    args = argparse.Namespace(
        model=chat_model, data=data, prompts=2, new_tokens=4, prompt_tokens=16, speed_tokens=4, threads=1
    )
    __main__.write_prompts(tmp_path, args, load(PARAMS, Config))
    reference(Transformers(chat_model, 1, "float32"), tmp_path, 4)
    engine = OnnxRuntime(exported / "fp32", 1)
    assert compare(engine, tmp_path)["tokenizer_identical"]
    encode = engine.encode
    engine.encode = lambda text: encode(text.replace("é", "e"))  # type: ignore[method-assign]
    engine.template += " "
    found = compare(engine, tmp_path)
    assert not found["tokenizer_identical"]
    assert not found["chat_template_identical"]
    assert found["kl_per_token"] < 1e-6 and found["tokens"] == compare(engine, tmp_path)["tokens"] > 0


def test_over_a_threshold() -> None:
    rows = {"pytorch": MEASURES, "gptq": MEASURES | {"tokenizer_identical": False}, "gguf_q8_0": MEASURES}
    said = forms_table.over(rows, {"gguf_q8_0": {"kl_per_token": 0.001, "argmax_agreement": 0.9}})
    assert said and "gguf_q8_0: kl_per_token is 0.01, must be at most 0.001" in said
    assert "gptq: tokenizer_identical is false" in said and "argmax" not in said
    assert forms_table.over({"pytorch": MEASURES}, {"pytorch": {"kl_per_token": 0.02}}) is None


@pytest.mark.parametrize("recipe", ["tiny", "smollm2", "qwen3"])
def test_the_recipes_have_bounds(recipe: str) -> None:
    bounds = load(REPO / "params" / recipe / "forms" / "bounds.yaml", __main__.Bounds)
    assert {"bf16", "unmerged", "gguf_q8_0"} <= set(bounds.forms)


def test_ratios_are_taken_turn_by_turn() -> None:
    speeds = {
        "pytorch": {"decode_1": [10.0, 100.0, 20.0]},
        "onnx_int8": {"decode_1": [30.0, 200.0, 60.0]},
        "gguf_q8_0": {"decode_1": [15.0, 400.0, 30.0]},
        "memory": {"read": [1e9, 2e9, 4e9]},
    }
    rows: forms_table.Rows = {name: {"weight_bytes": 10_000_000} for name in speeds if name != "memory"}
    forms_table.add_speeds(rows, speeds, {"onnx_int8": "int8"})
    int8 = rows["onnx_int8"]
    assert int8["times_pytorch"] == {"decode_1": 3.0} and int8["times_gguf_q8_0"] == {"decode_1": 2.0}
    assert int8["tokens_per_second"] == {"decode_1": 60.0}
    assert int8["memory_share"] == 0.3, "10 MB x 60 tokens/s of 2 GB/s"


def test_scores_are_paired() -> None:
    rows: forms_table.Rows = {"pytorch": {}, "bf16": {}}
    right = {"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0}
    forms_table.add_scores(
        rows, {"pytorch": {"sums": {"match": right}}, "bf16": {"sums": {"match": right | {"d": 0.0}}}}
    )
    found = rows["bf16"]["task"]["sums: match"]
    assert (found["value"], found["difference"]) == (0.5, -0.25)
    assert found["difference_high"] <= 0 <= found["high"] and "sums: match" in forms_table.markdown(rows)


def test_rows_of_a_batch_are_of_one_length_and_differ() -> None:
    rows = children.batch_of([[1, 2, 3], [4, 5], [6, 7, 8, 9]], 4, 5)
    assert rows == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 1], [2, 3, 4, 5, 6], [7, 8, 9, 1, 2]]


def test_a_gguf_file_is_the_model(chat_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tasks.models.folder import load_causal_lm, load_tokenizer

    sizes = []
    ids = torch.tensor([load_tokenizer(chat_model)("What is 12 + 34?")["input_ids"]])
    truth = load_causal_lm(chat_model)(ids).logits
    for kind, tolerance in (("F32", 1e-4), ("Q8_0", 0.05), ("Q4_0", 1.0)):
        gguf.write_gguf(chat_model, path := tmp_path / f"{kind}.gguf", kind)
        model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype="float32")
        torch.testing.assert_close(model(ids).logits, truth, atol=tolerance, rtol=0)
        sizes.append(gguf.weight_bytes(path))
    dense = Transformers(chat_model, 1, "float32").weight_bytes()
    assert sizes[0] == dense and sizes[1] < dense * 0.28 and sizes[2] < dense * 0.21


def test_another_architecture_is_not_written(chat_model: Path, tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tasks.models.folder import load_tokenizer, save_model

    small = Qwen2Config(
        vocab_size=320, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    save_model(Qwen2ForCausalLM(small), load_tokenizer(chat_model), tmp_path / "qwen")
    with pytest.raises(ModelError, match=r"only a Llama .* leave out --gguf"):
        gguf.write_gguf(tmp_path / "qwen", tmp_path / "x.gguf", "Q8_0")


@pytest.mark.slow
@pytest.mark.skipif(llama_cpp.missing() is not None, reason="llama_cpp is not installed")
def test_llama_cpp_answers_like_pytorch(chat_model: Path, data: Path, tmp_path: Path) -> None:
    gguf.write_gguf(chat_model, tmp_path / "F32.gguf", "F32")
    args = argparse.Namespace(model=chat_model, data=data, prompts=3, new_tokens=6, prompt_tokens=16, speed_tokens=4)
    __main__.write_prompts(tmp_path, args, load(PARAMS, Config))
    reference(Transformers(chat_model, 1, "float32"), tmp_path, 6)
    llama = llama_cpp.LlamaCpp(tmp_path / "F32.gguf", 1)
    found = compare(llama, tmp_path)
    assert found["chat_template_identical"] and found["tokenizer_identical"]
    assert found["kl_per_token"] < 1e-5 and found["argmax_agreement"] == 1
    assert len(llama.times(np.asarray(children.batch_of([list(range(4, 90))], 3, 20)), 5)) == 6


@pytest.mark.slow
@pytest.mark.skipif(llama_cpp.missing() is None, reason="llama_cpp is installed")
def test_without_llama_cpp_the_others_are_measured(chat_model: Path, tmp_path: Path) -> None:
    args = argparse.Namespace(model=chat_model, base=None, form=[], onnx=None, gguf=[])
    found, notes = __main__.forms_of(args, tmp_path)
    assert [form.name for form in found] == ["pytorch", "bf16"]
    assert len(notes) == 3 and all(llama_cpp.INSTALL in note for note in notes)
