"""A vision-language model out of a language model of ours: an encoder in front, and a projector between.

FastVLM's architecture (arXiv:2412.13303; `fast_vlm` in transformers) is the one whose encoder may be any network that
ends in a feature map, small convolutional ones too, and whose text model may be any decoder. Each cell of the map
becomes one token: an encoder of 32 x 32 pixels and stride 8 gives 16 of them.
"""

from pathlib import Path
from typing import Any

from tasks.models.checks import brief
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.multimodal import encoders
from tasks.multimodal.settings import Architecture
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError

PLACEHOLDER = "<image>"
"""Token in whose place the features of a picture are put."""
FLATTENED = """\
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string or message['content'] is not sequence -%}
{%- set flat.messages = flat.messages + [message] -%}
{%- else -%}
{%- set written = namespace(text='') -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}{%- set written.text = written.text + '<image>' -%}
{%- elif part['type'] == 'text' -%}{%- set written.text = written.text + part['text'] -%}
{%- else -%}{{- raise_exception('this model takes text and images, and no part of type ' ~ part['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- set flat.messages = flat.messages + [dict(message, content=written.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages %}
"""
"""Opening of a chat template: messages whose content is a list of parts become text, then the old template follows.

Its last tag leaves white space alone, which may be the old template's.
"""


def build(
    text: Path, architecture: Architecture, where: Path, seed: int, weights: Path | None = None
) -> tuple[Any, Any]:
    """Put an encoder and an untrained projector in front of a language model, whose weights stay as they are.

    Args:
        text: folder of the language model.
        architecture: what is put in front.
        where: the recipe file, for messages.
        seed: of the new weights.
        weights: file of the encoder's; None leaves them untrained.

    Returns:
        The model and its processor.

    Raises:
        ConfigError: transformers does not know the encoder, one of its settings or the activation, or the encoder gives
            no square map of features, or the weights are not of such an encoder.
        ModelError: the language model cannot be loaded, or the file of the weights.
    """
    import torch
    from transformers import AddedToken, FastVlmConfig, FastVlmForConditionalGeneration
    from transformers.activations import ACT2FN

    language, tokenizer = load_causal_lm(text), load_tokenizer(text)
    torch.manual_seed(seed)
    tokenizer.add_tokens([AddedToken(PLACEHOLDER, special=True, normalized=False)], special_tokens=True)
    if len(tokenizer) > language.get_input_embeddings().num_embeddings:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    vision = _vision_config(architecture, where)
    vision.dtype = language.dtype
    if architecture.act not in ACT2FN:
        raise ConfigError(f"{where}: architecture.act is '{architecture.act}'{suggest(architecture.act, ACT2FN)}")
    config = FastVlmConfig(
        vision_config=vision.to_dict(),
        text_config=language.config.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDER),
        projector_hidden_act=architecture.act,
        tie_word_embeddings=language.config.tie_word_embeddings,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    config.vision_config._attn_implementation = "eager"
    model = FastVlmForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.base_model.state_dict())
    if not language.config.tie_word_embeddings:
        model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    if weights is not None:
        encoders.load(model.model.vision_tower, weights, where)
    side = _map_side(model, architecture.image_size, where)
    config.image_seq_length = side * side
    return model, _processor(tokenizer, architecture, architecture.image_size // side)


def _vision_config(architecture: Architecture, where: Path) -> Any:
    from transformers import AutoConfig

    settings = dict(architecture.vision)
    kind = settings.pop("model_type", None)
    try:
        known = AutoConfig.for_model(kind).to_dict()
        config = AutoConfig.for_model(kind, **settings)
    except Exception as e:  # configurations check their values by exceptions of every kind
        raise ConfigError(f"{where}: architecture.vision: {brief(e)}") from None
    for key in settings:
        if key not in known:  # it would be kept and never read
            raise ConfigError(f"{where}: unknown key 'architecture.vision.{key}'{suggest(key, known)} ({kind})")
    if not hasattr(config, "hidden_size"):  # the projector asks for it
        config.hidden_size = getattr(config, "hidden_sizes", [getattr(config, "hidden_dim", 0)])[-1]
    return config


def _map_side(model: Any, image_size: int, where: Path) -> int:
    """Return how many features a side of the encoder's map has."""
    import torch

    tower = model.model.vision_tower.eval()
    try:
        with torch.no_grad():
            shape = tower(torch.zeros(1, 3, image_size, image_size)).last_hidden_state.shape
    except Exception as e:  # whatever a network that is no encoder of pictures says to one
        raise ConfigError(f"{where}: architecture.vision takes no picture ({brief(e)}); take e.g. a resnet") from None
    if len(shape) != 4 or shape[2] != shape[3] or image_size % shape[2]:
        raise ConfigError(
            f"{where}: architecture.vision gives features of shape {list(shape[1:])} for {image_size} x {image_size} "
            f"pixels; expected a square map whose side divides image_size"
        )
    return int(shape[2])


def _processor(tokenizer: Any, architecture: Architecture, stride: int) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    size = {"height": architecture.image_size, "width": architecture.image_size}
    pixels = CLIPImageProcessorPil(
        size=size, crop_size=size, do_center_crop=False, image_mean=architecture.mean, image_std=architecture.std
    )
    tokenizer.chat_template = FLATTENED + tokenizer.chat_template
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer,
        patch_size=stride,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
