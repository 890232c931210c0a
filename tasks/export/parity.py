"""How an exported model differs from the one it was made from, and how fast each of them is.

Both get the same held-out prompts. PyTorch in float32 answers them greedily; then, along that same answer (teacher
forcing), the exported model's distribution of each next token is held against PyTorch's:

    max_logprob_difference  largest |log p - log q| over all tokens of the vocabulary and all positions, in nats
    kl_per_token            mean over positions of KL(p || q), p PyTorch's, in nats
    argmax_agreement        share of positions at which both find the same token likeliest
    greedy_agreement        share of PyTorch's greedy tokens that the export, answering freely, gives before it differs

What is asked and what is read off must be identical, and is checked, not thresholded: the text of the chat template,
the tokenizer's ids, the text that the answer's tokens stand for, the tokens that end an answer, and a search without
settings of the folder's own.
"""

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tasks.export import genai
from tasks.models.turn_ends import NO_TEMPLATE, end_tokens
from tasks.stage.artifact import read_json
from tasks.stage.errors import ModelError, ParityError

LOWER_IS_BETTER = ("max_logprob_difference", "kl_per_token")
EXACT_ADVICE = (
    "the exporter has made another model of this one; no setting mends that, and the other forms inherit it: "
    "serve the PyTorch model, or export one of an architecture that the builder knows"
)
HIGHER_IS_BETTER = ("argmax_agreement", "greedy_agreement")
IDENTICAL = {
    "chat_template_identical": "the export would not read what the model was trained on",
    "tokenizer_identical": "the export would not read what the model was trained on",
    "decoding_identical": "the same tokens would be shown as another text",
    "end_tokens_identical": "the export would end its answers elsewhere",
    "search_plain": "the export's genai_config.json has settings of its own, which change even a greedy answer",
}
"""Measures that must be true, and what it would mean if they were not."""
TEXTUAL = {"chat_template_identical", "tokenizer_identical", "decoding_identical"}
TEXT_ADVICE = (
    "ONNX Runtime GenAI has a template engine and a tokenizer of its own, and they read these files otherwise; no "
    "setting of export_onnx.yaml mends that: write chat_template.jinja in plainer Jinja if it is the template, see "
    "whether `tokenizer_class` in tokenizer_config.json is the model family's own, or serve the PyTorch model"
)


@dataclass(frozen=True)
class Prompt:
    """A held-out prompt as PyTorch's tokenizer sees it."""

    messages: list[dict[str, str]]
    text: str
    """By the Hugging Face tokenizer's chat template, up to where the assistant begins."""
    ids: list[int]


class Reference:
    """The PyTorch model in float32, greedy, without the model's own sampling settings."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Args: model, tokenizer: from `load_causal_lm` and `load_tokenizer`."""
        self._model = model.eval()
        self.ends = end_tokens(model, tokenizer)
        self._tokenizer = tokenizer

    def generate(
        self, ids: Sequence[int], *, max_new_tokens: int, min_new_tokens: int = 0, streamer: Any = None
    ) -> list[int]:
        """Greedy answer to a prompt, the end token included."""
        import torch
        from transformers import GenerationConfig

        # Every value that a model's generation_config.json may set is set here, or generate() would take it from there.
        plain = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
        config = GenerationConfig(
            **plain,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            eos_token_id=self.ends,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        tokens = torch.tensor([list(ids)], device=self._model.device)
        out = self._model.generate(
            tokens, attention_mask=torch.ones_like(tokens), generation_config=config, streamer=streamer
        )
        return [int(i) for i in out[0, len(ids) :]]

    def text(self, answer: Sequence[int]) -> str:
        """Text of an answer, special tokens left out."""
        return str(self._tokenizer.decode(list(answer), skip_special_tokens=True))

    def log_probs(self, ids: Sequence[int], answer: Sequence[int]) -> Any:
        """Log-probabilities of each token of `answer` after `ids`: float64 array `[len(answer), vocabulary]`."""
        import torch

        with torch.inference_mode():
            logits = self._model(
                torch.tensor([[*ids, *answer]], device=self._model.device), logits_to_keep=len(answer) + 1
            ).logits[0, :-1]
        return _log_softmax(logits.float().cpu().numpy())


class Exported:
    """One exported form, loaded, with the measures of the prompts compared so far."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Args: folder: an ONNX Runtime GenAI folder; threads: of ONNX Runtime."""
        self.model, self.tokenizer = genai.load(folder, threads)
        self.bytes = genai.folder_bytes(folder)
        self._drops_space = genai.drops_space(folder)
        self._config = read_json(folder / "genai_config.json")
        self._templates_same = self._tokens_same = self._texts_same = self._ends_same = True
        self._max = self._kl = 0.0
        self._positions = self._argmax = self._greedy = 0

    def compare(self, prompt: Prompt, answer: Sequence[int], log_probs: Any, reference: Reference) -> None:
        """Take one prompt into the measures.

        Args:
            prompt: what was asked.
            answer: PyTorch's greedy answer.
            log_probs: float64 array `[len(answer), vocabulary]`, PyTorch's log-probabilities along the answer.
            reference: who answered.
        """
        import numpy as np

        self._templates_same &= genai.render(self.tokenizer, prompt.messages) == prompt.text
        self._tokens_same &= genai.encode(self.tokenizer, prompt.text) == prompt.ids
        said = [token for token in answer if token not in reference.ends]
        stream, theirs = genai.Stream(self.tokenizer, self._drops_space), reference.text(said)
        ours = "".join(stream.decode(token) for token in said)
        # Half of a character, where an answer is cut off, is written otherwise by each runtime.
        self._texts_same &= ours == theirs or "\ufffd" in theirs
        self._ends_same &= genai.end_tokens(self._config) == reference.ends
        start = len(prompt.ids) - 1
        exported = _log_softmax(genai.logits(self.model, [*prompt.ids, *answer])[start:-1])
        difference = log_probs - exported
        self._max = max(self._max, float(np.abs(difference).max()))
        self._kl += float((np.exp(log_probs) * difference).sum())
        self._argmax += int((log_probs.argmax(-1) == exported.argmax(-1)).sum())
        self._positions += len(answer)
        for expected, token in zip(
            answer, genai.generate(self.model, prompt.ids, max_new_tokens=len(answer)), strict=False
        ):
            if token != expected:
                break
            self._greedy += 1

    def measures(self) -> dict[str, float | int | bool]:
        """The measures over all prompts compared, rounded to what they can tell."""
        return {
            "max_logprob_difference": _rounded(self._max),
            "kl_per_token": _rounded(self._kl / self._positions),
            "argmax_agreement": round(self._argmax / self._positions, 6),
            "greedy_agreement": round(self._greedy / self._positions, 6),
            "tokens": self._positions,
            "bytes": self.bytes,
            "chat_template_identical": self._templates_same,
            "tokenizer_identical": self._tokens_same,
            "decoding_identical": self._texts_same,
            "end_tokens_identical": self._ends_same,
            "search_plain": genai.is_plain(self._config),
        }


def prompts(tokenizer: Any, conversations: Sequence[list[dict[str, str]]]) -> list[Prompt]:
    """Render and tokenize conversations with the Hugging Face tokenizer. Raises ModelError without a chat template."""
    if not tokenizer.chat_template:
        raise ModelError(f"the model has no chat template; {NO_TEMPLATE}")
    made = []
    for messages in conversations:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        made.append(Prompt(messages, text, tokenizer(text, add_special_tokens=False)["input_ids"]))
    return made


class Failure(NamedTuple):
    """One thing in which a form is not like its model."""

    form: str
    measure: str
    sentence: str
    """The form, the measure, and why it fails."""


def failures(
    forms: Mapping[str, Mapping[str, Any]],
    thresholds: Mapping[str, Mapping[str, float | None]],
) -> list[Failure]:
    """Hold the measures of every form against its thresholds; null means measured only.

    Args:
        forms: name to measures. What `IDENTICAL` names and they lack is not judged: see `unmeasured`.
        thresholds: name to bounds.
    """
    found = []
    for form, measures in forms.items():
        for name, why in IDENTICAL.items():
            if not measures.get(name, True):
                found.append(Failure(form, name, f"{form}: {name} is false; {why}"))
        for name in LOWER_IS_BETTER + HIGHER_IS_BETTER:
            value, limit = measures[name], thresholds[form][name]
            if limit is None:
                continue
            good = value <= limit if name in LOWER_IS_BETTER else value >= limit  # both are false for NaN
            if not good:
                bound = "at most" if name in LOWER_IS_BETTER else "at least"
                found.append(Failure(form, name, f"{form}: {name} is {value:.6g}, must be {bound} {limit:g}"))
    return found


def unmeasured(forms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say of each form which of `IDENTICAL` its measures lack, as those of an export by an older version do."""
    lacking = {form: [name for name in IDENTICAL if name not in measures] for form, measures in forms.items()}
    return [
        f"{form}: {', '.join(names)}: not measured when it was exported" for form, names in lacking.items() if names
    ]


def check(
    forms: Mapping[str, Mapping[str, Any]],
    thresholds: Mapping[str, Mapping[str, float | None]],
    exact: Collection[str],
) -> None:
    """Refuse forms that differ from their model.

    Args:
        forms: name to measures.
        thresholds: name to bounds.
        exact: forms whose weights are not rounded, so that no rounding explains a difference.

    Raises:
        ParityError: naming every form and measure that is over (or not a number), with its value and its threshold.
    """
    found = failures(forms, thresholds)
    if not found:
        return
    over = [failure.form for failure in found if failure.measure not in IDENTICAL]
    whole = sorted({form for form in over if form in exact})
    advice = []
    if whole:
        advice = [f"{', '.join(whole)}: not quantised, so that {EXACT_ADVICE}"]
    elif over:
        advice = ["change `forms.<form>.weights` to quantise less, or the thresholds beside it"]
    if {failure.measure for failure in found} & TEXTUAL:
        advice.append(TEXT_ADVICE)
    lines = "\n  ".join(failure.sentence for failure in found)
    raise ParityError("\n".join([f"the export does not answer like the PyTorch model:\n  {lines}", *advice]))


class _Clock:
    """A `generate` streamer that notes when each token came. It is called with the prompt first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _tokens: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def decode_speeds(
    reference: Reference, exported: Mapping[str, Exported], ids: Sequence[int], *, new_tokens: int, repeats: int
) -> dict[str, float]:
    """Decode tokens per second at batch 1, the prompt's own time left out, of PyTorch and each form.

    The engines take turns, so that whatever else the machine does falls on all of them alike.

    Returns:
        `{"pytorch": median, form: median, …}` over `repeats` turns; one more turn goes before, unmeasured.
    """
    rates: dict[str, list[float]] = {"pytorch": [], **{form: [] for form in exported}}
    for _ in range(repeats + 1):
        clock = _Clock()
        reference.generate(ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens, streamer=clock)
        rates["pytorch"].append(_rate(clock.times[1:]))
        for form, session in exported.items():
            tokens = genai.generate(session.model, ids, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
            rates[form].append(_rate([time.perf_counter() for _ in tokens]))
    return {name: round(statistics.median(values[1:]), 2) for name, values in rates.items()}


def _rate(times: Sequence[float]) -> float:
    """Tokens per second after the first token, which waits for the prompt."""
    return (len(times) - 1) / (times[-1] - times[0])


def _rounded(value: float) -> float:
    """Three significant digits, and none beyond the ninth decimal: below that, float32 has nothing to say."""
    return float(f"{round(value, 9):.3g}")


def _log_softmax(logits: Any) -> Any:
    """Log-probabilities in float64 of logits `[positions, vocabulary]`."""
    import numpy as np

    x = logits.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
