"""An exported model that sees or hears, on plain ONNX Runtime: what evaluation, parity and `polm serve` decode with.

ONNX Runtime GenAI builds the language model without its embedding, and has no way to be given embeddings instead of
tokens (onnxruntime-genai#1644), so the loop that it would run stands here. Three graphs answer:

    vision.onnx         pictures [pictures, 3, height, width]      ->  features [pictures x tokens, width of the model]
      or audio.onnx     sounds [chunks, bands, frames]             ->  features [chunks, tokens, width of the model]
    embed_tokens.onnx   tokens [1, length]                         ->  embeddings [1, length, width of the model]
    model.onnx          embeddings, keys and values so far         ->  logits [1, length, vocabulary], keys and values

The features take the places of the placeholders among the embeddings. One conversation at a time; keys and
values stay in ONNX Runtime's own memory between two tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.export import genai
from tasks.export.prompt_reader import MediaPrompt
from tasks.stage.artifact import read_json
from tasks.stage.errors import DataError, ModelError

VISION = "vision.onnx"
AUDIO = "audio.onnx"
EMBEDDING = "embed_tokens.onnx"
LANGUAGE = "model.onnx"
COLD = 1e-4
"""Temperature below which the likeliest token is taken: logits divided by less may overflow."""


def is_seeing(folder: Path) -> bool:
    """Whether a form of an export sees."""
    return (folder / VISION).is_file()


def is_hearing(folder: Path) -> bool:
    """Whether a form of an export hears."""
    return (folder / AUDIO).is_file()


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn."""

    temperature: float = 0.0
    """Temperature of the softmax; 0 takes the likeliest token."""
    top_p: float | None = None
    """Smallest mass of the likeliest tokens to draw from, above 0 and at most 1; None takes all."""
    top_k: int | None = None
    """Number of the likeliest tokens to draw from; None takes all."""
    seed: int | None = None
    """Seed of the draw; None draws anew each time."""


class Session:
    """The three graphs of a folder, loaded."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        """Load the graphs.

        Args:
            folder: a form of an export that sees or hears.
            threads: of ONNX Runtime; None leaves it to ONNX Runtime, which takes every core.

        Raises:
            ModelError: no such folder, or its files cannot be loaded.
        """
        import onnxruntime as ort

        encoder = AUDIO if is_hearing(folder) else VISION
        for name in (encoder, EMBEDDING, LANGUAGE, "genai_config.json"):
            if not (folder / name).is_file():
                raise ModelError(f"{folder}: no {name}; expected the export of a model that sees (run `polm run`)")
        self._kind, self._unit = ("sound", "chunk") if encoder == AUDIO else ("picture", "picture")
        self.config = read_json(folder / "genai_config.json")
        self.context = int(self.config["model"]["context_length"])
        self.ends = genai.end_tokens(self.config)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._encoder, self._embedding, self._language = (
                ort.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
                for name in (encoder, EMBEDDING, LANGUAGE)
            )
        except Exception as e:  # ONNX Runtime has a class for each of its codes, and no base of them
            raise ModelError(f"{folder}: ONNX Runtime cannot load it ({e}); delete it and run `polm run`") from e
        self._inputs = {value.name: value for value in self._language.get_inputs()}
        self._cache = {
            name: f"present{name.removeprefix('past_key_values')}" for name in self._inputs if "past" in name
        }

    def embeddings(self, prompt: MediaPrompt) -> Any:
        """Return a prompt's embeddings, float32 `[1, length, width]`, with the features of its pictures or sounds.

        Raises:
            DataError: the prompt has another number of placeholders than these have features.
        """
        import numpy as np

        ids = np.asarray([prompt.ids], dtype=np.int64)
        embeddings = self._embed(ids)
        places = ids == prompt.placeholder_id
        count = len(prompt.media)
        if count or places.any():
            features = prompt.features(self._encoded(prompt.media)) if count else []
            if int(places.sum()) != len(features):
                raise DataError(
                    f"the messages have {int(places.sum())} places for features of {self._kind}s, and {count} "
                    f"{self._unit}s with {len(features)}; each {self._kind} has to stand in a message"
                )
            embeddings[places] = features
        return embeddings

    def logits(self, embeddings: Any, answer: Sequence[int]) -> Any:
        """Return the logits behind a prompt and along an answer to it, float32 `[1 + len(answer), vocabulary]`."""
        import numpy as np

        if answer:
            embeddings = np.concatenate([embeddings, self._embed(np.asarray([answer], dtype=np.int64))], axis=1)
        values, _ = self._step(embeddings, self._empty(), 0)
        return values[0, -1 - len(answer) :]

    def generate(
        self, embeddings: Any, *, max_new_tokens: int, min_new_tokens: int = 0, drawing: Drawing | None = None
    ) -> Iterator[int]:
        """Yield the tokens of an answer as they come, the end token included.

        Args:
            embeddings: of the prompt.
            max_new_tokens: at most this many tokens.
            min_new_tokens: the end tokens are held back until then.
            drawing: how each token is drawn; None takes the likeliest.
        """
        import numpy as np

        drawing = drawing or Drawing()
        rng = np.random.default_rng(drawing.seed)
        cache, length = self._empty(), 0
        for number in range(max_new_tokens):
            values, cache = self._step(embeddings, cache, length)
            length += embeddings.shape[1]
            last = values[0, -1]
            if number < min_new_tokens:
                last[self.ends] = -np.inf
            token = draw(last, drawing, rng)
            yield token
            if token in self.ends:
                return
            embeddings = self._embed(np.asarray([[token]], dtype=np.int64))

    def _encoded(self, media: Any) -> Any:
        return self._encoder.run(None, {self._encoder.get_inputs()[0].name: media})[0]

    def _embed(self, ids: Any) -> Any:
        return self._embedding.run(None, {"input_ids": ids})[0]

    def _empty(self) -> dict[str, Any]:
        """Return the keys and values of no token."""
        import numpy as np
        import onnxruntime as ort

        decoder = self.config["model"]["decoder"]
        nothing = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), dtype=np.float32)
        return {name: ort.OrtValue.ortvalue_from_numpy(nothing) for name in self._cache}

    def _step(self, embeddings: Any, cache: dict[str, Any], length: int) -> tuple[Any, dict[str, Any]]:
        """Read embeddings behind `length` tokens; return their logits, and the keys and values of all."""
        import numpy as np
        import onnxruntime as ort

        total = length + embeddings.shape[1]
        feeds = {
            "inputs_embeds": embeddings.astype(np.float32, copy=False),
            "attention_mask": np.ones((1, total), dtype=np.int64),
            "position_ids": np.arange(length, total, dtype=np.int64)[None],
        }
        values = {
            name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in feeds.items() if name in self._inputs
        }
        names = ["logits", *self._cache.values()]
        logits, *present = self._language.run_with_ort_values(names, {**values, **cache})
        return logits.numpy().astype(np.float32), dict(zip(self._cache, present, strict=True))


def draw(logits: Any, drawing: Drawing, rng: Any) -> int:
    """Draw one token.

    Args:
        logits: float32 `[vocabulary]`.
        drawing: how.
        rng: a `numpy.random.Generator`; not asked where the likeliest token is taken.
    """
    import numpy as np

    if drawing.temperature < COLD:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: drawing.top_k]
    scaled = logits[order].astype(np.float64) / drawing.temperature
    shares = np.exp(scaled - scaled[0])
    shares /= shares.sum()
    if drawing.top_p is not None:
        kept = int(np.searchsorted(shares.cumsum(), drawing.top_p)) + 1  # the token that reaches it belongs to it
        order, shares = order[:kept], shares[:kept] / shares[:kept].sum()
    return int(order[rng.choice(len(order), p=shares)])
