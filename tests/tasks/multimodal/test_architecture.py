"""A model that is given eyes: its language model stays what it was, its template renders as before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.models.chat_template import CHATML
from tasks.models.folder import load_tokenizer
from tasks.multimodal import architecture
from tasks.multimodal.settings import Architecture
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError
from tests.support.pictures import EYES, PARAMS, RESNET

SAID = [{"role": "user", "content": "What is 1 + 1? "}, {"role": "assistant", "content": " 2\n"}]
TEMPLATES = {
    "chatml": CHATML,
    "with a system message of its own": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}" + CHATML
    ),
    "that opens in white space": "\n  [{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}]",
    "that opens in an indented tag": "  {% for m in messages %}\n  {{ m['content'] }}\n  {% endfor %}\n",
    "that takes its first message away": (
        "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else 'none' %}"
        "{%- set messages = messages[1:] if messages[0]['role'] == 'system' else messages %}{{- system + '|' }}"
        "{%- for message in messages %}{{- message['content'] | trim + eos_token }}{%- endfor %}"
    ),
    "that reads other keys": (
        "{% for m in messages %}{{ m.name | default('nobody') }}{% for call in m.tool_calls or [] %}"
        "{{ call.function.name }}{% endfor %}{{ m['content'] or '' }};{% endfor %}"
    ),
}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    SAID,
    SAID[:1],
    [{"role": "system", "content": " Count.\n"}, *SAID, {"role": "user", "content": "<image>?"}],
    [*SAID, {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}],
    [{"role": "user", "name": "Ada", "content": ""}],
]


def shape(**changes: Any) -> Architecture:
    return parse(PARAMS, EYES | changes, Architecture)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_words_alone_are_rendered_as_by_the_old_template(chat_model: Path, template: str) -> None:
    tokenizer = load_tokenizer(chat_model)
    rendered = 0
    for said in CONVERSATIONS:
        for asking in (False, True):
            options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": asking}
            try:
                before = tokenizer.apply_chat_template(said, chat_template=template, **options)
            except TypeError:  # a message of no content, which this template never took
                assert said[-1]["content"] is None
                continue
            wrapped = architecture.FLATTENED + template
            assert tokenizer.apply_chat_template(said, chat_template=wrapped, **options) == before
            rendered += 1
    assert rendered >= 2 * (len(CONVERSATIONS) - 1)


def test_a_list_of_parts_is_the_text_with_placeholders(chat_model: Path) -> None:
    tokenizer = load_tokenizer(chat_model)
    parts = [{"type": "image"}, {"type": "text", "text": "One"}, {"type": "image"}, {"type": "text", "text": " two"}]
    template = architecture.FLATTENED + TEMPLATES["that reads other keys"]
    message = {"role": "user", "name": "Ada", "content": parts}
    rendered = tokenizer.apply_chat_template([message], chat_template=template, tokenize=False)
    assert rendered == "Ada<image>One<image> two;", "the other keys of a message stay"


def test_a_part_of_another_type_is_refused(chat_model: Path) -> None:
    said = [{"role": "user", "content": [{"type": "audio"}]}]
    with pytest.raises(Exception, match="this model takes text and images, and no part of type audio"):
        load_tokenizer(chat_model).apply_chat_template(said, chat_template=architecture.FLATTENED + CHATML)


def test_the_language_model_is_the_one_it_was(chat_model: Path, seeing_model: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (chat_model, seeing_model))
    language = {name.removeprefix("model."): tensor for name, tensor in before.items()}
    kept = {name.removeprefix("model.language_model."): t for name, t in after.items() if "language_model" in name}
    assert set(kept) == set(language)
    assert [name for name in language if not torch.equal(language[name], kept[name])] == []


def test_a_vocabulary_without_room_grows_by_the_placeholder(chat_model: Path, tmp_path: Path) -> None:
    """The other rows of the embedding keep their bits, and the model is the same for the same seed."""
    from tasks.models.folder import load_causal_lm, save_model

    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    tokenizer.add_tokens([f"<unused{i}>" for i in range(320 - len(tokenizer))])
    save_model(model, tokenizer, tmp_path)
    seeing = [architecture.build(tmp_path, shape(), PARAMS, seed)[0] for seed in (5, 5, 6)]
    table = seeing[0].get_input_embeddings().weight
    assert table.shape[0] == 321
    assert torch.equal(table[:320], model.get_input_embeddings().weight)
    weights = [dict(one.named_parameters()) for one in seeing]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    projector = "model.multi_modal_projector.linear_1.weight"
    assert not torch.equal(weights[0][projector], weights[2][projector])


def test_a_head_of_its_own_is_kept(chat_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    from tasks.models.folder import load_causal_lm, save_model

    tied = load_causal_lm(chat_model)
    tied.config.tie_word_embeddings = False
    torch.manual_seed(7)
    model = LlamaForCausalLM(tied.config)
    save_model(model, load_tokenizer(chat_model), tmp_path)
    seeing, _ = architecture.build(tmp_path, shape(), PARAMS, 1)
    assert torch.equal(seeing.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(seeing.lm_head.weight, seeing.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": RESNET | {"hidden_sizess": [8]}}, "unknown key 'architecture.vision.hidden_sizess'; did you mean"),
        ({"vision": {**RESNET, "model_type": "resnett"}}, "architecture.vision: .*resnett"),
        ({"vision": {"depths": [1]}}, "architecture.vision: .*Unrecognized model identifier: None"),
        ({"vision": {**RESNET, "layer_type": "round"}}, "architecture.vision: .*layer_type"),
        ({"vision": {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "intermediate_size": 16, "image_size": 32}}, r"features of shape \[5, 16\] for 32 x 32"),
        ({"vision": {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "intermediate_size": 16}}, "architecture.vision takes no picture"),
        ({"image_size": 33}, r"features of shape \[16, 5, 5\] for 33 x 33 pixels"),
        ({"act": "geluu"}, "architecture.act is 'geluu'; did you mean 'gelu'"),
    ],
)  # fmt: skip
def test_an_architecture_that_does_not_fit_is_named(chat_model: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{PARAMS}: .*{message}"):
        architecture.build(chat_model, shape(**changes), PARAMS, 1)


def test_a_misspelt_key_of_the_section_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown key 'image_sze'; did you mean 'image_size'"):
        shape(image_sze=3)


def test_each_cell_of_the_map_is_a_token(seeing_model: Path, pictures_data: Path) -> None:
    from tasks.models.multimodal import load_processor
    from tasks.multimodal.images import Archive, tokens

    processor, archive = load_processor(seeing_model), Archive(pictures_data)
    name = next(iter(_rows(pictures_data)))["images"][0]
    encoded = processor(text=["<image>?"], images=[[archive.image(name)]], return_tensors="pt")
    placeholders = int((encoded["input_ids"] == processor.image_token_id).sum())
    assert placeholders == tokens(processor, {"images": [name]}, archive) == 16
    assert tokens(processor, {"images": [name, name]}, archive) == 32
    assert tokens(processor, {}, archive) == 0


def _rows(data: Path) -> list[dict[str, Any]]:
    from tasks.stage import artifact

    return artifact.read_jsonl(data / "sft" / "train.jsonl")
