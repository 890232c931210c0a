"""ONNX Runtime GenAI folders, built from Hugging Face ones by `onnxruntime_genai.models.builder`.

The bytes of a folder depend on the model and the options alone: no path, time or host enters them. Models that the
builder would export wrongly, or that ONNX Runtime could not run, are refused before anything is built.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.export import genai
from tasks.models.checks import brief, check_causal
from tasks.models.folder import load_tokenizer
from tasks.models.turn_ends import turn_end
from tasks.stage.errors import ConfigError, ModelError

log = logging.getLogger("polm")

PROVIDER = "cpu"
"""Execution provider that the graphs are built for."""
BLOCKS = (16, 32, 64, 128, 256)
"""Numbers of weights that may share one scale. The builder takes any other too, and fails on it halfway."""
HEAD_MULTIPLE = 16
"""Divisor that ONNX Runtime asks of the width of attention heads; other models build, and fail when they run."""


def prepare_options(
    model: Path, form: str, precision: str, weights: Mapping[str, Any], *, exclude_embeds: bool = False
) -> dict[str, Any]:
    """Check one form's options against the builder's own schema and the model, and prepare them for `build`.

    Args:
        model: Hugging Face folder; only its config and tokenizer are read.
        form: name of the form, for the message.
        precision: `fp32`, `int8` or `int4`.
        weights: the builder's `target_options.quant_config.weights` (block_size, method, overrides, …), verbatim.
            This structured section refuses keys it does not know; the builder's flat `extra_options` ignore them.
        exclude_embeds: leave the embedding out: the graph takes embeddings, and no tokens.

    Raises:
        ConfigError: a key or value the builder refuses.
        ModelError: no readable model there, one with heads that ONNX Runtime cannot run, or one with a matrix that the
            builder would take for the head.
    """
    if not (model / "config.json").is_file():
        raise ModelError(f"{model}: no config.json; expected a Hugging Face model folder")
    builder = _builder()
    target = {"quant_config": {"weights": {**weights}}}
    # hf_token=false: the folder is local, so no token of the user's is ever looked up.
    flat = ["hf_token=false", *(["exclude_embeds=true"] if exclude_embeds else [])]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options: dict[str, Any] = builder.parse_extra_options(
                "", str(model), "", precision, PROVIDER, "", flat, target_options=target
            )
    except (ValueError, TypeError, KeyError) as e:
        raise ConfigError(f"forms.{form}.weights: the ONNX model builder refuses it: {e}") from e
    if "block_size" in weights and weights["block_size"] not in BLOCKS:
        sizes = ", ".join(map(str, BLOCKS))
        raise ConfigError(f"forms.{form}.weights.block_size is {weights['block_size']}; it must be one of {sizes}")
    if hasattr(options["hf_details"]["hf_config"], "vision_config"):
        check_causal(model)
    _check_heads(model, options["hf_details"]["hf_config"])
    _check_widths(model, options["hf_details"]["hf_config"])
    return options


def build(model: Path, out: Path, *, precision: str, options: dict[str, Any]) -> None:
    """Write the ONNX Runtime GenAI folder `out` for the Hugging Face folder `model`.

    Args:
        model: safetensors, tokenizer and chat template.
        out: folder to write.
        precision: `fp32`, `int8` or `int4`.
        options: from `prepare_options`; used up by this call.

    Raises:
        ModelError: the builder does not know the architecture, or cannot map this model.
    """
    builder = _builder()
    output = io.StringIO()
    try:
        with (
            tempfile.TemporaryDirectory() as cache,
            contextlib.redirect_stdout(output),
            warnings.catch_warnings(),
            _without_git(),
        ):
            warnings.simplefilter("ignore", RuntimeWarning)  # k_quant: 0 / 0 in constant blocks
            builder.create_model("", str(model), str(out), precision, PROVIDER, cache, **options)
    except NotImplementedError as e:
        raise ModelError(f"{model}: the ONNX model builder cannot export it: {e}") from e
    except Exception as e:  # the builder raises every kind there is for a model of a shape that it does not expect
        raise ModelError(
            f"{model}: the ONNX model builder cannot export it ({brief(e)}); serve the PyTorch model, or export one of "
            f"an architecture that the builder knows"
        ) from e
    finally:
        log.debug("%s", output.getvalue())
    end = turn_end(load_tokenizer(model))
    _make_plain(out, [] if end is None else [end])


@contextlib.contextmanager
def _without_git() -> Iterator[None]:
    """Hide the working copy from git: the builder would write its commit into the graph, as if it were its own."""
    before = os.environ.get("GIT_DIR")
    os.environ["GIT_DIR"] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ["GIT_DIR"]
        else:
            os.environ["GIT_DIR"] = before


def _make_plain(folder: Path, ends: Sequence[int]) -> None:
    """Add ends of an answer to `genai_config.json`, and make its search plain; a file that has both stays as it is.

    The builder copies penalties and temperatures from the model's `generation_config.json`, some of which PyTorch
    would follow otherwise, and takes the end of a text for the end of a turn.

    Args:
        folder: an ONNX Runtime GenAI folder.
        ends: tokens that end an answer, beside those that the builder found.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    ends_in_config = genai.end_tokens(config)
    if genai.is_plain(config) and set(ends) <= set(ends_in_config):
        return
    config["model"]["eos_token_id"] = sorted({*ends_in_config, *ends})
    config["search"] |= {key: value for key, value in genai.SEARCH.items() if key not in genai.LEFT_OPEN}
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")


def _check_heads(model: Path, config: Any) -> None:
    """Refuse a model with heads of a width that ONNX Runtime cannot run."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head % HEAD_MULTIPLE:
        raise ModelError(
            f"{model}: its attention heads are {head} wide, and ONNX Runtime needs a multiple of {HEAD_MULTIPLE}; "
            f"choose another `hidden_size` or `num_attention_heads` in the recipe's base.yaml"
        )


def _check_widths(model: Path, config: Any) -> None:
    """Refuse a model with a matrix of as many rows as the vocabulary: the builder knows the two ends by that alone."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    rows = config.get_text_config().vocab_size
    ends = (skeleton.get_input_embeddings(), skeleton.get_output_embeddings())
    for name, module in skeleton.named_modules():
        if module not in ends and _rows(module) == rows:
            raise ModelError(
                f"{model}: {name} has {rows} rows, as many as the vocabulary, and the ONNX builder would take it "
                f"for the embedding or the head; give the embedding another number of rows "
                f"(`model.resize_token_embeddings({rows + 1})`; in a recipe that trains from scratch, another "
                f"`vocab_size` or width)"
            )


def _rows(module: Any) -> int | None:
    """Return the rows of a module's matrix; None of a module without one."""
    import torch

    return len(module.weight) if isinstance(module, torch.nn.Linear | torch.nn.Embedding) else None


def silence() -> None:
    """Keep the builder from drawing bars, which is possible only before anything else imports tqdm."""
    _builder()


def _builder() -> Any:
    """Return the builder's module, made quiet. Its import appends its folder to `sys.path`; ours comes first."""
    os.environ["TQDM_DISABLE"] = "1"  # read once, when tqdm is first imported
    import onnxruntime_genai.models.builder as builder

    for name in ("onnxruntime.quantization", "neural_compressor", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return builder
