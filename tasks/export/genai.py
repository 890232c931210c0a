"""ONNX Runtime GenAI models: load a folder, render and encode a prompt, read the logits, let the model answer.

A folder holds `model.onnx` with its weights, `genai_config.json`, the tokenizer and `chat_template.jinja`;
`tasks/export/builder.py` writes one. The thread count is set on loading.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.stage.errors import DataError, ModelError

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
search states all of them: ONNX Runtime GenAI takes missing ones from the folder's `genai_config.json`."""
LEFT_OPEN = {"top_k"}
"""Options that may have another value in `genai_config.json`: they decide nothing without `do_sample`."""


def end_tokens(config: Mapping[str, Any]) -> list[int]:
    """Return the tokens that end an answer by a `genai_config.json`, in ascending order."""
    ends = config["model"]["eos_token_id"]
    return sorted({int(token) for token in (ends if isinstance(ends, list) else [ends])})


def is_plain(config: Mapping[str, Any]) -> bool:
    """Whether the search of a `genai_config.json` changes no greedy answer."""
    return all(config["search"].get(key, value) == value for key, value in SEARCH.items() if key not in LEFT_OPEN)


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
    """Return the most tokens, prompt and answer together, that the model takes."""
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return int(config["model"]["context_length"])


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """Return the text of a conversation by the folder's own chat template, up to where the assistant begins.

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
    """Return the token ids of a text. Special tokens written out in it become special tokens, as in the trainers.

    Raises:
        DataError: the text holds a character that would not reach the model.
    """
    check_text(text)
    return [int(i) for i in tokenizer.encode(text)]


def drops_space(folder: Path) -> bool:
    """Whether transformers leaves out the space before a text's first token, as for Llama 2 and Mistral.

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
    """Text of one answer, token by token, the same as transformers decodes from all of them."""

    def __init__(self, tokenizer: Any, drops_space: bool) -> None:
        """Begin an answer.

        Args:
            tokenizer: from `load`.
            drops_space: from the function of that name.
        """
        self._stream = tokenizer.create_stream()
        self._at_start = drops_space

    def decode(self, token: int) -> str:
        """Return the text that a token adds; empty where it only begins a character."""
        text = str(self._stream.decode(token))
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of token ids."""
    import numpy as np

    return str(tokenizer.decode(np.asarray(ids, dtype=np.int32)))


def check_text(text: str) -> None:
    """Raise DataError for a NUL, at which ONNX Runtime GenAI cuts a text, and for half of a surrogate pair."""
    match = re.search("[\0\ud800-\udfff]", text)
    if match is None:
        return
    character = match[0]
    description = f"half a character (\\u{ord(character):04x} alone)"
    if character == "\0":
        description = "the character NUL"
    elif "\udc80" <= character <= "\udcff":  # as Python keeps a byte that it could not decode
        description = f"the byte 0x{ord(character) - 0xDC00:02x}, which is no UTF-8"
    raise DataError(f"character {match.start() + 1} of the text is {description}; leave it out")


def logits(model: Any, ids: Sequence[int]) -> Any:
    """Return the logits of one sequence, unpadded: batches are only right when padded on the right.

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
    """Return the size of all files of a folder, in bytes."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
