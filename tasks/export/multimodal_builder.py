"""The parts of a model that sees or hears, each as an exporter takes it: language model, embedding, eyes or ears.

The language model becomes a folder of its own, which `tasks/export/builder.py` builds without the embedding; embedding,
encoder and projector are traced by PyTorch and stay in float32 in every form. The processor's files go beside them.
"""

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.export.encoders import ADVICE, Encoder, encoder_of
from tasks.export.multimodal_session import EMBEDDING
from tasks.export.prompt_reader import PROCESSOR
from tasks.models.checks import brief
from tasks.models.folder import save_model
from tasks.stage.errors import ModelError

OPSET = 18
"""Version of ONNX's operators that the traced graphs use."""
CLOSE = 1e-4
"""Largest difference between a feature of a traced encoder and the model's own, as a share of the largest feature."""


@contextlib.contextmanager
def language_model(model: Any, processor: Any, folder: Path) -> Iterator[Path]:
    """Write the language model of a larger model as a folder of its own, which is there while the block runs.

    Args:
        model: from `load_multimodal`.
        processor: its processor.
        folder: where the model came from, for messages.

    Raises:
        ModelError: no language model can be taken out of it.
    """
    from transformers import AutoModelForCausalLM

    try:
        config = model.config.get_text_config()
        text = AutoModelForCausalLM.from_config(config)
        text.base_model.load_state_dict(model.model.language_model.state_dict())
        if not config.tie_word_embeddings:
            text.lm_head.load_state_dict(model.lm_head.state_dict())
        text.generation_config = model.generation_config
    except Exception as e:  # of whatever shape the model is
        raise ModelError(f"{folder}: its language model cannot be exported apart ({brief(e)}); {ADVICE}") from e
    with tempfile.TemporaryDirectory(prefix="polm-text-") as temp:
        save_model(text, processor.tokenizer, Path(temp))
        yield Path(temp)


def write_parts(model: Any, folder: Path, out: Path) -> None:
    """Write all but the language model: `vision.onnx` or `audio.onnx`, `embed_tokens.onnx`, and the processor's file.

    Args:
        model: from `load_multimodal`, in evaluation mode.
        folder: where it came from.
        out: a form that holds the language model already.

    Raises:
        ModelError: a part cannot be traced, or gives other numbers than the model's own.
    """
    import torch

    if not (folder / PROCESSOR).is_file():
        raise ModelError(f"{folder}: no {PROCESSOR}; write the processor again (`save_pretrained`)")
    shutil.copyfile(folder / PROCESSOR, out / PROCESSOR)
    encoder = encoder_of(model, folder)
    try:
        # In evaluation mode, wrapper and all: the exporter puts back the mode of the outermost module.
        _trace(
            encoder.module.eval(), encoder.sample, out / encoder.file, encoder.input, encoder.free, "features",
            encoder.free_out,
        )  # fmt: skip
        tokens = torch.zeros((1, 2), dtype=torch.long)
        embedding = model.get_input_embeddings().eval()
        lengths = {0: "batch", 1: "length"}
        _trace(embedding, tokens, out / EMBEDDING, "input_ids", lengths, "inputs_embeds", lengths)
    except Exception as e:  # tracing raises every kind there is
        raise ModelError(f"{folder}: its {encoder.what} cannot be exported ({brief(e)}); {ADVICE}") from e
    _check(encoder, folder, out / encoder.file)


def _trace(
    module: Any, value: Any, path: Path, name: str, free: dict[int, str], output: str, free_out: dict[int, str]
) -> None:
    """Write a module of one input and one output as ONNX, with dimensions that may vary."""
    import torch

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one of two, and of shapes that are fixed
        torch.onnx.export(
            module, (value,), str(path), dynamo=False, opset_version=OPSET, do_constant_folding=True,
            input_names=[name], output_names=[output], dynamic_axes={name: free, output: free_out},
        )  # fmt: skip


def _check(encoder: Encoder, folder: Path, path: Path) -> None:
    """Hold a traced encoder against the model's own features, of one picture or chunk and of several."""
    import numpy as np
    import onnxruntime as ort
    import torch

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for count in (1, len(encoder.sample)):
        sample = encoder.sample[:count]
        with torch.no_grad():
            expected = encoder.expected(sample).numpy()
        found = session.run(None, {encoder.input: sample.numpy()})[0]
        if found.shape != expected.shape or np.abs(found - expected).max() > CLOSE * np.abs(expected).max():
            raise ModelError(f"{folder}: its {encoder.what} give other features once they are exported; {ADVICE}")
