"""Folders of models that see or hear beside reading: how one is known, loaded and written.

One Auto class of transformers loads them all, `AutoModelForMultimodalLM`, and a processor (`AutoProcessor`) turns
pictures and words into tensors. A name of an architecture stands in `tasks/multimodal/architecture.py` alone.
"""

import json
import logging
from pathlib import Path
from typing import Any

from tasks.models import checks, weights
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer
from tasks.models.turn_ends import settle
from tasks.stage.errors import ModelError

log = logging.getLogger("polm")

CONFIGS = ("processor_config.json", "preprocessor_config.json")
"""Files of which a processor needs one."""


def is_multimodal(folder: Path) -> bool:
    """Whether a model folder holds a model that takes more than text. Raises ModelError where it has no config.

    A few architectures (Gemma 3, Qwen 3.5) count as language models too; of these the processor tells.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MULTIMODAL_LM_MAPPING

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; expected a Hugging Face model folder")
    config = checks.read_config(folder)
    if type(config) not in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return False
    has_processor = any((folder / name).exists() for name in CONFIGS)
    return has_processor or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING


def load_processor(folder: Path) -> Any:
    """Load a processor, with the tokenizer as `load_tokenizer` leaves it.

    Raises:
        ModelError: it has none, one that transformers cannot read, or one without a chat template.
    """
    from transformers import AutoProcessor

    if not any((folder / name).exists() for name in CONFIGS):
        raise ModelError(f"{folder}: neither {' nor '.join(CONFIGS)}; put there the one that the model came with")
    tokenizer = load_tokenizer(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:  # whatever a folder from outside provokes
        raise ModelError(f"{folder}: its processor cannot be read ({checks.brief(e)})") from e
    processor.tokenizer = tokenizer
    if not processor.chat_template:
        raise ModelError(f"{folder}: the processor has no chat template; put chat_template.jinja beside it")
    return processor


def load_multimodal(folder: Path, dtype: str = "float32") -> tuple[Any, Any]:
    """Load a model that sees or hears, and its processor.

    Batch normalisation keeps the statistics that it has, also while the model is trained: `Trainer` puts a model into
    training mode before each step, and a frozen encoder would drift with every batch.

    Args:
        folder: model folder.
        dtype: of the weights, a torch dtype's name.

    Raises:
        ModelError: as `check_folder`, weights missing or left over, or a processor that does not fit.
    """
    from transformers import AutoModelForMultimodalLM

    check_folder(folder)
    processor = load_processor(folder)
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False, "use_safetensors": True}
    model = weights.load_whole(AutoModelForMultimodalLM, folder, **options, **attention(folder))
    keep_statistics(model)
    settle(model, processor.tokenizer, folder)
    return model, processor


def attention(folder: Path) -> dict[str, Any]:
    """Return what `from_pretrained` has to be told of attention: of a convolutional encoder `eager`, else nothing.

    Such encoders have no attention, and refuse the name of any other.
    """
    vision = checks.read_object(folder / "config.json").get("vision_config") or {}
    has_convolutions = "embedding_size" in vision or vision.get("model_type") == "timm_wrapper"
    return {"attn_implementation": {"vision_config": "eager"}} if has_convolutions else {}


def keep_statistics(model: Any) -> None:
    """Hold every batch normalisation of a model in evaluation mode, in place."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module


def load_model(folder: Path) -> tuple[Any, Any]:
    """Load a model to be trained and what reads its rows: a tokenizer, or the processor of one that sees or hears.

    Raises:
        ModelError: as `load_causal_lm` and `load_multimodal`.
    """
    if is_multimodal(folder):
        return load_multimodal(folder)
    return load_causal_lm(folder), load_tokenizer(folder)


def tokenizer_of(reader: Any) -> Any:
    """Return the tokenizer of a processor, or the tokenizer itself."""
    return getattr(reader, "tokenizer", reader)


def save_multimodal(model: Any, processor: Any, out: Path) -> None:
    """Write a model folder: safetensors, processor, tokenizer, `chat_template.jinja`.

    The bytes depend on the weights and settings alone.
    """
    out.mkdir(parents=True, exist_ok=True)
    settle(model, processor.tokenizer, out)
    model.config._name_or_path = ""
    for part in ("text_config", "vision_config", "audio_config"):
        if (config := getattr(model.config, part, None)) is not None:
            config._name_or_path = ""
    model.save_pretrained(out, safe_serialization=True)
    processor.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("name_or_path", "_commit_hash", "is_local", "local_files_only"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    check_folder(out)
