"""ONNX Runtime GenAI models: build a folder from a Hugging Face one, load it, read its logits, let it answer.

A folder holds `model.onnx` with its weights, `genai_config.json`, the tokenizer and `chat_template.jinja`. Its bytes
depend on the model and the options alone: no path, time or host enters them; the thread count is set on loading.
"""

import contextlib
import io
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.models.checks import brief
from tasks.models.folder import load_tokenizer
from tasks.models.turn_ends import turn_end
from tasks.stage.errors import ConfigError, DataError, ModelError

log = logging.getLogger("polm")

PROVIDER = "cpu"
"""Execution provider the graphs are built for."""
BLOCKS = (16, 32, 64, 128, 256)
"""Weights that may share one scale. The builder takes any number, and fails on it halfway."""
SEARCH: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_length": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "diversity_penalty": 0.0,
}
"""Options of a search that takes the likeliest token, and, with `do_sample`, draws from the whole distribution. Every
search states all of them: ONNX Runtime GenAI takes what is left open from the folder's `genai_config.json`."""
LEFT_OPEN = {"top_k"}
"""Options that may have another value in `genai_config.json`: they decide nothing without `do_sample`."""
HEAD_MULTIPLE = 16
"""Width of attention heads is a multiple of this in ONNX Runtime; other models build, and fail when they run."""


def builder_options(model: Path, form: str, precision: str, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Check one form's options against the builder's own schema and the model, and prepare them for `build`.

    Args:
        model: Hugging Face folder; only its config and tokenizer are read.
        form: name of the form, for the message.
        precision: `fp32`, `int8` or `int4`.
        weights: the builder's `target_options.quant_config.weights` (block_size, method, overrides, …), verbatim.
            This structured section refuses keys it does not know; the builder's flat `extra_options` ignore them.

    Raises:
        ConfigError: a key or value the builder refuses.
        ModelError: no readable model there, one with heads that ONNX Runtime cannot run, or one with a matrix that the
            builder would take for the head.
    """
    if not (model / "config.json").is_file():
        raise ModelError(f"{model}: no config.json; expected a Hugging Face model folder")
    builder = _builder()
    target = {"quant_config": {"weights": {**weights}}}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # hf_token=false: the folder is local, so no token of the user's is ever looked up.
            options: dict[str, Any] = builder.parse_extra_options(
                "", str(model), "", precision, PROVIDER, "", ["hf_token=false"], target_options=target
            )
    except (ValueError, TypeError, KeyError) as e:
        raise ConfigError(f"forms.{form}.weights: the ONNX model builder refuses it: {e}") from e
    if "block_size" in weights and weights["block_size"] not in BLOCKS:
        known = ", ".join(map(str, BLOCKS))
        raise ConfigError(f"forms.{form}.weights.block_size is {weights['block_size']}; it must be one of {known}")
    _check_heads(model, options["hf_details"]["hf_config"])
    _check_widths(model, options["hf_details"]["hf_config"])
    return options


def build(model: Path, out: Path, *, precision: str, options: dict[str, Any]) -> None:
    """Write the ONNX Runtime GenAI folder `out` for the Hugging Face folder `model`.

    Args:
        model: safetensors, tokenizer and chat template.
        out: folder to write.
        precision: `fp32`, `int8` or `int4`.
        options: what `builder_options` returned; used up by this call.

    Raises:
        ModelError: the builder does not know the architecture, or cannot map this model.
    """
    builder = _builder()
    said = io.StringIO()
    try:
        with (
            tempfile.TemporaryDirectory() as cache,
            contextlib.redirect_stdout(said),
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
        log.debug("%s", said.getvalue())
    end = turn_end(load_tokenizer(model))
    settle(out, [] if end is None else [end])


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


def settle(folder: Path, ends: Sequence[int]) -> None:
    """Add ends of an answer to `genai_config.json`, and make its search plain; a file that has both stays as it is.

    The builder copies penalties and temperatures from the model's `generation_config.json`, some of which PyTorch
    would follow otherwise, and takes the end of a text for the end of a turn.

    Args:
        folder: an ONNX Runtime GenAI folder.
        ends: tokens that end an answer, beside those that the builder found.
    """
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    listed = end_tokens(config)
    if is_plain(config) and set(ends) <= set(listed):
        return
    config["model"]["eos_token_id"] = sorted({*listed, *ends})
    config["search"] |= {key: value for key, value in SEARCH.items() if key not in LEFT_OPEN}
    path.write_text(json.dumps(config, indent=4), encoding="utf-8")


def end_tokens(config: Mapping[str, Any]) -> list[int]:
    """Return the tokens that end an answer by a `genai_config.json`, in ascending order."""
    ends = config["model"]["eos_token_id"]
    return sorted({int(token) for token in (ends if isinstance(ends, list) else [ends])})


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether the search of a `genai_config.json` changes no greedy answer."""
    return all(config["search"].get(key, value) == value for key, value in SEARCH.items() if key not in LEFT_OPEN)


def _check_heads(model: Path, config: Any) -> None:
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
        made = AutoModelForCausalLM.from_config(config)
    rows, ends = config.get_text_config().vocab_size, (made.get_input_embeddings(), made.get_output_embeddings())
    for name, module in made.named_modules():
        if module not in ends and _rows(module) == rows:
            raise ModelError(
                f"{model}: {name} has {rows} rows, as many as the vocabulary, and the ONNX builder would take it "
                f"for the embedding or the head; give the embedding another number of rows "
                f"(`model.resize_token_embeddings({rows + 1})`; in a recipe that trains from scratch, another "
                f"`vocab_size` or width)"
            )


def _rows(module: Any) -> int | None:
    import torch

    return len(module.weight) if isinstance(module, torch.nn.Linear | torch.nn.Embedding) else None


def load(folder: Path, threads: int | None = None) -> tuple[Any, Any]:
    """Load a model and its tokenizer.

    Args:
        folder: an ONNX Runtime GenAI folder.
        threads: of ONNX Runtime; None leaves it to ONNX Runtime, which takes every core.

    Returns:
        `(onnxruntime_genai.Model, onnxruntime_genai.Tokenizer)`

    Raises:
        ModelError: not such a folder, or its files cannot be loaded.
    """
    import onnxruntime_genai as og

    if not (folder / "genai_config.json").is_file():
        raise ModelError(f"{folder}: no genai_config.json; expected an ONNX Runtime GenAI folder (run `polm run`)")
    try:
        config = og.Config(str(folder))
        if threads is not None:
            session = {"intra_op_num_threads": threads}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
        model = og.Model(config)
        return model, og.Tokenizer(model)
    except RuntimeError as e:
        raise ModelError(f"{folder}: ONNX Runtime GenAI cannot load it ({e}); delete it and run `polm run`") from e


def context_length(folder: Path) -> int:
    """Most tokens, prompt and answer together, that the model takes."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return int(config["model"]["context_length"])


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """Text of a conversation by the folder's own chat template, up to where the assistant begins.

    Raises:
        DataError: a message holds a character that would not reach the model.
        ModelError: the template refuses these messages.
    """
    for message in messages:
        check_text(message["content"])
    try:
        return str(tokenizer.apply_chat_template(json.dumps(list(messages)), add_generation_prompt=True))
    except RuntimeError as e:
        raise ModelError(f"the chat template refuses these messages ({e})") from e


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text. Special tokens written out in it become special tokens, as in the trainers.

    Raises:
        DataError: the text holds a character that would not reach the model.
    """
    check_text(text)
    return [int(i) for i in tokenizer.encode(text)]


def drops_space(folder: Path) -> bool:
    """Whether transformers leaves out the space that a text's first token begins with, as Llama 2 and Mistral have it.

    It is a step of the decoder in `tokenizer.json`, which ONNX Runtime GenAI does not take.
    """
    path = folder / "tokenizer.json"
    decoder = json.loads(path.read_text(encoding="utf-8")).get("decoder") if path.exists() else None
    steps = (decoder or {}).get("decoders", [decoder] if decoder else [])
    return any(
        (step["type"] == "Strip" and step["content"] == " " and step["start"] > 0)
        or (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        for step in steps
    )


class Stream:
    """The text of one answer, token by token, as transformers makes it of all of them."""

    def __init__(self, tokenizer: Any, drops_space: bool) -> None:
        """Args: tokenizer: from `load`; drops_space: from the function of that name."""
        self._stream, self._at_start = tokenizer.create_stream(), drops_space

    def decode(self, token: int) -> str:
        """Return the text that a token adds; empty where it only begins a character."""
        text = str(self._stream.decode(token))
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of token ids."""
    import numpy as np

    return str(tokenizer.decode(np.asarray(ids, dtype=np.int32)))


def check_text(text: str) -> None:
    """Raise DataError for a NUL, at which ONNX Runtime GenAI cuts a text, and for half of a surrogate pair."""
    found = re.search("[\0\ud800-\udfff]", text)
    if found is None:
        return
    what = f"half a character (\\u{ord(found[0]):04x} alone)"
    if found[0] == "\0":
        what = "the character NUL"
    elif "\udc80" <= found[0] <= "\udcff":  # as Python keeps what it could not decode
        what = f"the byte 0x{ord(found[0]) - 0xDC00:02x}, which is no UTF-8"
    raise DataError(f"character {found.start() + 1} of the text is {what}; leave it out")


def logits(model: Any, ids: Sequence[int]) -> Any:
    """Logits of one sequence, unpadded: batches with padding are only right when padded on the right.

    Returns:
        float32 array `[len(ids), vocabulary]`.
    """
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(**SEARCH, max_length=len(ids) + 1)
    generator = og.Generator(model, params)
    generator.append_tokens(np.asarray(ids, dtype=np.int32))
    return np.asarray(generator.get_output("logits"), dtype=np.float32)[0]


def generate(
    model: Any, ids: Sequence[int], *, max_new_tokens: int, min_new_tokens: int = 0, temperature: float = 0.0
) -> Iterator[int]:
    """Yield the tokens of an answer as they come, the end token included.

    Args:
        model: from `load`.
        ids: the prompt.
        max_new_tokens: at most this many tokens.
        min_new_tokens: the end token is held back until then.
        temperature: 0 takes the likeliest token; above, samples from the whole distribution.
    """
    import numpy as np
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    limits = {"max_length": len(ids) + max_new_tokens, "min_length": len(ids) + min_new_tokens}
    drawing = {"do_sample": True, "temperature": temperature} if temperature > 0 else {}
    params.set_search_options(**SEARCH | drawing | limits)
    generator = og.Generator(model, params)
    generator.append_tokens(np.asarray(ids, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
        yield int(generator.get_next_tokens()[0])


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder, in bytes."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def _builder() -> Any:
    """The builder's module, made quiet. Importing it puts its folder at the end of `sys.path`; ours comes first."""
    os.environ["TQDM_DISABLE"] = "1"  # read once, when tqdm is first imported
    import onnxruntime_genai.models.builder as builder

    for name in ("onnxruntime.quantization", "neural_compressor", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return builder
