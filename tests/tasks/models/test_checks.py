"""Model folders that are broken or contradict themselves: each is refused by name, or loaded with a warning.

Each row breaks a sound folder in one way. Without the check, most of them end in a traceback of another library, and
the gravest in a model with random weights that looks like any other.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.models import weights
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.stage import artifact
from tasks.stage.errors import ModelError
from tests.support.model_folders import INDEX, WEIGHTS, Break, MakeRun, change, cut, drop, logits, put, read


@pytest.fixture
def folder(chat_model: Path, workspace: Path) -> Path:
    """A copy of the chat model that a test may break, as if it came from elsewhere."""
    copied = Path(shutil.copytree(chat_model, workspace / "m", ignore=shutil.ignore_patterns("manifest.json")))
    for path in copied.rglob("*"):
        path.chmod(0o644)
    return copied


def tensors(edit: Callable[[dict[str, Any]], None]) -> Break:
    """Edit the weights by name."""

    def rewrite(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        held = load_file(folder / WEIGHTS)
        edit(held)
        save_file(held, folder / WEIGHTS, metadata={"format": "pt"})

    return rewrite


def sharded(edit: Break | None = None) -> Break:
    """Spread the weights over files, and break that."""

    def rewrite(folder: Path) -> None:
        load_causal_lm(folder).save_pretrained(folder / "parts", max_shard_size="100KB")
        (folder / WEIGHTS).unlink()
        for path in (folder / "parts").glob("*safetensors*"):
            path.rename(folder / path.name)
        shutil.rmtree(folder / "parts")
        if edit is not None:
            edit(folder)

    return rewrite


def link(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("../blobs/0123")


def become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("model")


def become_a_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def become_empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def index_one(folder: Path) -> None:
    """Name only the first file."""
    change(INDEX, weight_map={"model.norm.weight": min(folder.glob("model-*.safetensors")).name})(folder)


def fill(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def edit(held: dict[str, Any]) -> None:
        held[name][0, 0] = value

    return edit


def cast(name: str, dtype: str) -> Callable[[dict[str, Any]], None]:
    def edit(held: dict[str, Any]) -> None:
        import torch

        held[name] = held[name].to(getattr(torch, dtype))

    return edit


def untie(held: dict[str, Any]) -> None:
    held["lm_head.weight"] = held["model.embed_tokens.weight"].flip(0).clone()


def unembed(held: dict[str, Any]) -> None:
    del held["model.embed_tokens.weight"]


def add_value_head(held: dict[str, Any]) -> None:
    held["v_head.summary.weight"] = held["model.norm.weight"][None].clone()


def transpose(held: dict[str, Any]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    held[name] = held[name].T.contiguous()


def rename_all(held: dict[str, Any]) -> None:
    """Write the names as a wrapped module has them (`torch.compile`, DDP)."""
    for name in list(held):
        held[f"module.{name}"] = held.pop(name)


def add_tokens(folder: Path) -> None:
    """Two tokens more than the embedding has rows."""
    tokenizer = load_tokenizer(folder)
    spare = [f"<spare_{number}>" for number in range(320 - len(tokenizer))]
    tokenizer.add_tokens([*spare, "<think>", "</think>"], special_tokens=True)
    tokenizer.save_pretrained(folder)


def encode_twice(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps((folder / "config.json").read_text()))


def other_architecture(name: str, **values: Any) -> Break:
    """Write the folder of another model, of the same tokenizer."""

    def write(folder: Path) -> None:
        import transformers

        (folder / WEIGHTS).unlink()
        config = getattr(transformers, f"{name.partition('For')[0]}Config")(vocab_size=320, **values)
        getattr(transformers, name)(config).save_pretrained(folder)

    return write


SMALL_BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
SMALL_BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
SMALL_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
SMALL_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}

REFUSED: dict[str, tuple[Break, str]] = {
    "a file": (become_a_file, r"m: is a file; expected a Hugging Face model folder"),
    "a link to nowhere": (become_a_link, r"m: no such folder; expected"),
    "an empty folder": (become_empty, r"m: no config\.json; expected"),
    "weights are a link to nowhere": (link, r"model\.safetensors: a link to \.\./blobs/0123, which does not exist"),
    "config missing": (drop("config.json"), r"m: no config\.json; expected"),
    "config cut short": (cut("config.json", 100), r"config\.json: not JSON"),
    "config is a list": (put("config.json", "[]"), r"config\.json: holds a list; expected a JSON object"),
    "config is text": (encode_twice, r"config\.json: holds a str; expected a JSON object"),
    "config is no UTF-8": (put("config.json", b'{"a": "\xff"}'), r"config\.json: not JSON"),
    "config without a type": (put("config.json", "{}"), r"config\.json: transformers cannot read it .*model_type"),
    "unknown architecture": (change("config.json", model_type="lama"), r"config\.json: transformers cannot read it"),
    "remote code": (change("config.json", auto_map={"AutoModel": "x.Y"}), r"config\.json: 'auto_map' asks for remote"),
    "quantised": (
        change("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        r"its weights are quantised.* take the model that it was made from",
    ),
    "sizes are text": (change("config.json", hidden_size="wide"), r"config\.json: transformers cannot read it"),
    "heads do not divide": (change("config.json", num_attention_heads=7, head_dim=None), r"config\.json: transf"),
    "no layers of that count": (change("config.json", num_hidden_layers=-1), r"model\.layers.* no place for"),
    "encoder and decoder (T5)": (
        other_architecture("T5ForConditionalGeneration", **SMALL_T5),
        r"config\.json: 't5' is no causal language model",
    ),
    "encoder and decoder (BART)": (
        other_architecture("BartForConditionalGeneration", **SMALL_BART),
        r"config\.json: 'bart' is no causal language model",
    ),
    "masked language model": (
        other_architecture("BertForMaskedLM", **SMALL_BERT),
        r"config\.json: the folder holds BertForMaskedLM and no language model \(BertLMHeadModel\)",
    ),
    "a classifier": (
        other_architecture("LlamaForSequenceClassification", **SMALL_BERT, pad_token_id=3),
        r"config\.json: the folder holds LlamaForSequenceClassification",
    ),
    "weights missing": (drop(WEIGHTS), r"m: no model\.safetensors and no model\.safetensors\.index\.json; convert"),
    "weights cut short": (cut(WEIGHTS, 5000), r"model\.safetensors: cut short, or no safetensors"),
    "weights empty": (put(WEIGHTS, b""), r"model\.safetensors: cut short, or no safetensors"),
    "weights are a LFS pointer": (
        put(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        r"model\.safetensors: cut short, or no safetensors",
    ),
    "a pickle beside": (put("pytorch_model.bin", b"\x80\x04."), r"pytorch_model\.bin: a pickle can run code"),
    "code beside": (put("modeling_x.py", ""), r"modeling_x\.py: code inside a model folder is never run"),
    "a shard missing": (
        sharded(lambda folder: min(folder.glob("model-*.safetensors")).unlink()),
        r"index\.json: names model-00001-of-0\d+\.safetensors, which is not in the folder; fetch that file too",
    ),
    "a shard elsewhere": (
        sharded(change(INDEX, weight_map={"model.norm.weight": "../model.safetensors"})),
        r"index\.json: names \.\./model\.safetensors, which is not in the folder",
    ),
    "an index of nothing": (sharded(change(INDEX, weight_map={})), r"index\.json: no 'weight_map'"),
    "an index cut short": (sharded(cut(INDEX, 50)), r"index\.json: not JSON"),
    "an index of a part": (
        sharded(index_one),
        r"in none of its files and would be random",
    ),
    "an index beside whole weights": (
        put(INDEX, json.dumps({"weight_map": {"a": WEIGHTS}})),
        r"index\.json: names other files than model\.safetensors, which is there too",
    ),
    "a weight missing": (
        tensors(lambda held: held.pop("model.layers.1.mlp.up_proj.weight")),
        r"m: model\.layers\.1\.mlp\.up_proj\.weight of LlamaForCausalLM is in none of its files and would be random",
    ),
    "the embedding missing": (tensors(unembed), r"embed_tokens\.weight.* in none of its files and would be random"),
    "every weight under another name": (tensors(rename_all), r"and 18 more of LlamaForCausalLM are in none"),
    "an untied head missing": (
        change("config.json", tie_word_embeddings=False),
        r"m: lm_head\.weight of LlamaForCausalLM is in none of its files and would be random",
    ),
    "more layers than weights": (
        change("config.json", num_hidden_layers=3, layer_types=None),
        r"model\.layers\.2\..*and 6 more of LlamaForCausalLM are in none of its files and would be random",
    ),
    "fewer layers than weights": (
        change("config.json", num_hidden_layers=1, layer_types=None),
        r"model\.layers\.1\..*and 6 more are in its files, and LlamaForCausalLM by config\.json has no place for them",
    ),
    "a value head": (tensors(add_value_head), r"m: v_head\.summary\.weight is in its files, .* no place for them"),
    "a weight transposed": (
        tensors(transpose),
        r"m: model\.layers\.0\.mlp\.up_proj\.weight is \[64, 128\] in the files and \[128, 64\] by config\.json \(1 ",
    ),
    "vocab_size of another model": (
        change("config.json", vocab_size=400),
        r"m: model\.embed_tokens\.weight is \[320, 64\] in the files and \[400, 64\] by config\.json",
    ),
    "not a number": (
        tensors(fill("model.layers.0.mlp.up_proj.weight", float("nan"))),
        r"m: model\.layers\.0\.mlp\.up_proj\.weight holds numbers that are not finite in torch\.float32",
    ),
    "infinite": (tensors(fill("model.embed_tokens.weight", float("inf"))), r"embed_tokens\.weight holds numbers that"),
    "8-bit floats without scales": (
        tensors(cast("model.layers.0.mlp.up_proj.weight", "float8_e4m3fn")),
        r"model\.safetensors: model\.layers\.0\.mlp\.up_proj\.weight is of type F8_E4M3, .*in 16 or 32 bits",
    ),
    "8-bit integers without scales": (
        tensors(cast("model.layers.0.mlp.up_proj.weight", "int8")),
        r"model\.safetensors: model\.layers\.0\.mlp\.up_proj\.weight is of type I8",
    ),
    "tokenizer missing": (drop("tokenizer.json"), r"m: (its tokenizer cannot be read|the tokenizer has no vocabulary)"),
    "no tokenizer at all": (
        drop("tokenizer.json", "tokenizer_config.json"),
        r"m: (its tokenizer cannot be read|the tokenizer has no vocabulary)",
    ),
    "tokenizer cut short": (cut("tokenizer.json", 500), r"tokenizer\.json: not JSON"),
    "tokenizer of another form": (put("tokenizer.json", "{}"), r"m: its tokenizer cannot be read"),
    "tokenizer_config is a list": (put("tokenizer_config.json", "[]"), r"tokenizer_config\.json: holds a list"),
    "no end token": (change("tokenizer_config.json", eos_token=None), r"m: the tokenizer has no eos_token"),
    "tokens beyond the embedding": (
        add_tokens,
        r"m: the tokenizer has 322 tokens and the embedding 320 rows, so that <think>, </think> would read past its",
    ),
    "an end token that is no token": (
        change("tokenizer_config.json", eos_token="<|nowhere|>"),
        r"tokenizer_config\.json: eos_token is '<\|nowhere\|>', which is no token of tokenizer\.json; name",
    ),
    "pad_token_id beyond the vocabulary": (
        change("config.json", pad_token_id=999),
        r"config\.json: pad_token_id is 999, and the model has 320 tokens; correct it",
    ),
    "eos_token_id beyond the vocabulary": (
        change("generation_config.json", eos_token_id=[2, 999]),
        r"generation_config\.json: eos_token_id is 999, and the model has 320 tokens",
    ),
    "a template that is no Jinja": (
        put("chat_template.jinja", "{% for m in messages %}{{ m['content'] }}"),
        r"m: the chat template .*chat_template\.jinja",
    ),
    "a template of other messages": (
        put("chat_template.jinja", "{% for m in messages %}{{ m['content']['text']['x'] }}{% endfor %}"),
        r"m: the chat template .*chat_template\.jinja",
    ),
    "generation_config cut short": (cut("generation_config.json", 20), r"generation_config\.json: not JSON"),
    "generation_config is a list": (put("generation_config.json", "[]"), r"generation_config\.json: holds a list"),
    "generation_config of other types": (
        change("generation_config.json", temperature="hot", do_sample=True),
        r"generation_config\.json: .*correct the file or remove it",
    ),
    "several answers of a greedy search": (
        change("generation_config.json", num_return_sequences=4, do_sample=False),
        r"generation_config\.json: ValueError: Greedy methods .*correct the file or remove it",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_broken_folder_is_refused_by_name(kind: str, folder: Path, make_run: MakeRun, tmp_path: Path) -> None:
    breaking, message = REFUSED[kind]
    breaking(folder)
    with pytest.raises(ModelError, match=message) as error:
        read(folder, make_run, tmp_path)
    assert ";" in str(error.value) or ":" in str(error.value), "it says what to do"


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "max_length": 4096, "length_penalty": 0.5},
        {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.5},
    ],
)
def test_settings_are_left_out_with_a_warning_whether_they_contradict_each_other_or_not(
    settings: dict[str, Any], folder: Path, make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change("generation_config.json", **settings)(folder)
    out = read(folder, make_run, tmp_path)
    [warning] = [message for message in caplog.messages if "generation_config.json" in message]
    assert all(f"{key}: {value}" in warning for key, value in settings.items() if value is not False)
    assert not artifact.read_json(out / "generation_config.json").keys() & settings.keys()


def test_a_head_beside_the_embedding_it_is_tied_to_is_kept_and_untied(
    folder: Path, make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors(untie)(folder)
    out = read(folder, make_run, tmp_path)
    assert any("config.json ties the head to the embedding" in message for message in caplog.messages)
    assert artifact.read_json(out / "config.json")["tie_word_embeddings"] is False
    caplog.clear()
    model = load_causal_lm(out)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (model.lm_head.weight == model.model.embed_tokens.weight.flip(0)).all()


def test_a_padded_embedding_and_several_files_are_read_as_they_are(
    folder: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    sharded()(folder)
    out = read(folder, make_run, tmp_path)
    ids = [5, 6, 7]
    assert (logits(load_causal_lm(out), ids) == logits(load_causal_lm(folder), ids)).all()
    model = load_causal_lm(folder)
    for path in folder.glob("*safetensors*"):
        path.unlink()
    model.resize_token_embeddings(384)
    model.save_pretrained(folder, max_shard_size="10GB")
    assert load_causal_lm(folder).config.vocab_size == 384
    assert len(load_tokenizer(folder)) < 384


def test_a_reward_model_may_have_a_new_head_and_no_new_body(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification as Classifier

    options: dict[str, Any] = {"num_labels": 1, "use_safetensors": True, "pad_token_id": 3}
    assert weights.load_whole(Classifier, folder, new_head=True, **options).score.out_features == 1
    with pytest.raises(ModelError, match=r"score\.weight of LlamaForSequenceClassification is in none of its files"):
        weights.load_whole(Classifier, folder, **options)
    tensors(lambda held: held.pop("model.layers.1.mlp.up_proj.weight"))(folder)
    with pytest.raises(ModelError, match=r"up_proj\.weight of LlamaForSequenceClassification is in none of its files"):
        weights.load_whole(Classifier, folder, new_head=True, **options)
