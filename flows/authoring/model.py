"""A look at a model before anything of it is downloaded but its configuration and tokenizer."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.check.absent import absent
from tasks.check.base_model import check_base, check_kind
from tasks.models import checks
from tasks.models.chat_template import CHATML, mark_generation, marks_generation
from tasks.models.turn_ends import turn_end
from tasks.stage.errors import ModelError

SMALL_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt"]
"""What is fetched of a hub model; its weights are fetched by the run."""


@dataclass(frozen=True)
class Model:
    """What a recipe has to know of a model."""

    name: str
    """Hub id or folder."""
    source: dict[str, Any]
    """The `source:` of base.yaml."""
    family: str
    """Name of the architecture, e.g. `LlamaForCausalLM`."""
    parameters: int
    """Weights, all of them; 0 where the hub does not tell."""
    layers: int
    hidden: int
    """Width of the residual stream."""
    vocabulary: int
    """Tokens that the model can give."""
    context: int
    """Tokens that it can read at once."""
    dtype: str
    """Data type of the published weights, by its configuration."""
    media: bool
    """Whether it sees or hears."""
    template: str
    """Where its chat template comes from, in words."""
    given: str | None
    """Text of the template that base.yaml gives it, where it has none of its own."""
    template_args: dict[str, Any]
    """What its template is passed where answers are asked for: no thinking aloud, where it knows of that."""
    end: str
    """Token that ends an answer."""
    special: str
    """End-of-text and padding token, in words."""
    tokenizer: Any
    """Its tokenizer, whose template marks what the assistant wrote."""


def look(name: str, licence: str) -> Model:
    """Read the configuration and the tokenizer of a hub model or of a folder.

    Args:
        name: hub id, or a folder, which stands in for a hub id of that relative path.
        licence: of a local model; that of a hub model stands in its card.

    Raises:
        ModelError: there is no such model, its folder is one that the stage `base` refuses (a pickle, missing or cut
            weights, packed ones), or it is no decoder that answers in chats.
    """
    place = Path(name)
    local = place.is_dir()
    folder, revision, card = (place, None, licence) if local else _fetched(name)
    with absent("sklearn"):
        from transformers import AutoTokenizer

    if local:
        check_base(folder)
    elif not (folder / "config.json").is_file():
        raise ModelError(f"{name}: no config.json; name a model in the format of transformers")
    else:
        check_kind(folder)
    config = checks.read_config(folder)
    tokenizer = checks.read_tokenizer(AutoTokenizer, folder)
    words = config.get_text_config()
    family = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    if tokenizer.eos_token is None:
        raise ModelError(f"{name}: the tokenizer has no eos_token, so that no answer would ever end; give it one")
    own = str(tokenizer.chat_template or "")
    template = _template(tokenizer, name)
    end = turn_end(tokenizer)
    hub = {"hub": name, "revision": revision, "adapter": None, "licence": card}
    pad = tokenizer.pad_token
    return Model(
        name=name,
        source={"folder": name, "adapter": None, "licence": card} if local else hub,
        family=str(family),
        parameters=_stored(folder) if local else _published(name),
        layers=int(words.num_hidden_layers),
        hidden=int(words.hidden_size),
        vocabulary=int(words.vocab_size),
        context=_context(words, tokenizer),
        dtype=str(getattr(words, "dtype", None) or getattr(config, "dtype", None) or "float32").removeprefix("torch."),
        media=any(hasattr(config, key) for key in ("vision_config", "audio_config")),
        template=template,
        given=None if own else tokenizer.chat_template,
        template_args={"enable_thinking": False} if "enable_thinking" in own else {},
        end=tokenizer.convert_ids_to_tokens(end) if end is not None else tokenizer.eos_token,
        special=f"ends texts with {tokenizer.eos_token}, pads with {pad if pad is not None else 'the same'}",
        tokenizer=tokenizer,
    )


def _template(tokenizer: Any, name: str) -> str:
    """Give the tokenizer a template that marks the assistant's tokens, and say in words where it comes from.

    Raises:
        ModelError: its own marks nothing, and no marked one is known that renders the same.
    """
    if not tokenizer.chat_template:
        known = "<|im_end|>" in {token.content for token in tokenizer.added_tokens_decoder.values()}
        tokenizer.chat_template = CHATML if known else CHATML.replace("<|im_end|>", tokenizer.eos_token)
        return "none of its own: base.yaml gives it ChatML, which marks the assistant's tokens"
    if marks_generation(tokenizer):
        return "its own, which marks the assistant's tokens"
    mark_generation(tokenizer, name)
    return "its own, marked anew: the same text, with the assistant's tokens marked"


def _context(words: Any, tokenizer: Any) -> int:
    known = [getattr(words, "max_position_embeddings", None), tokenizer.model_max_length]
    return min([int(size) for size in known if size and size < 10**9], default=2048)


def _fetched(name: str) -> tuple[Path, str, str]:
    """Fetch the small files of a hub model. Returns their folder, the commit, and the licence of the card."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    unreachable = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)
    try:
        info = HfApi().model_info(name, timeout=10)
        folder = snapshot_download(name, revision=info.sha, allow_patterns=SMALL_FILES)
    except unreachable as e:
        raise ModelError(
            f"{name}: no such folder here, and the hub does not give it ({type(e).__name__}); check the path or the "
            f"id, the network and your hub login, or put the model's folder at {name}"
        ) from None
    return Path(folder), str(info.sha), str(getattr(info.card_data, "license", None) or "unknown")


def _published(name: str) -> int:
    """Count the parameters of a hub model by the headers of its safetensors; 0 where it has none."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError

    try:
        return sum(get_safetensors_metadata(name).parameter_count.values())
    except (HfHubHTTPError, NotASafetensorsRepoError, OSError):
        return 0


def _stored(folder: Path) -> int:
    """Count the numbers in a folder's safetensors by their headers."""
    shapes = [checks.check_numbers(path, quantized=False) for path in checks.weight_files(folder)]
    return sum(math.prod(shape) for tensors in shapes for shape in tensors.values())
