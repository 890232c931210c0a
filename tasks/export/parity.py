"""Whether an exported model is still the one it was made from.

Both get the same held-out prompts. PyTorch in float32 answers them greedily, the export is measured along those answers
(`tasks/export/divergence.py` defines the measures), and the measures are compared with the bounds of the recipe.

The prompt and the answer as text must be identical, and are checked without a bound: the text of the chat template, the
tokenizer's ids, the text of the answer's tokens, the tokens that end an answer, and a search without settings of the
folder's own.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.export import genai
from tasks.export.divergence import Divergence, Measures, log_softmax
from tasks.export.reference import Prompt, Reference
from tasks.stage.artifact import read_json
from tasks.stage.errors import ParityError

LOWER_IS_BETTER = ("max_logprob_difference", "kl_per_token")
HIGHER_IS_BETTER = ("argmax_agreement", "greedy_agreement")
EXACT_ADVICE = (
    "the exporter has made another model of this one; no setting mends that, and the other forms inherit it: "
    "serve the PyTorch model, or export one of an architecture that the builder knows"
)
IDENTICAL = {
    "chat_template_identical": "the export would not read what the model was trained on",
    "tokenizer_identical": "the export would not read what the model was trained on",
    "decoding_identical": "the same tokens would be shown as another text",
    "end_tokens_identical": "the export would end its answers elsewhere",
    "search_plain": "the export's genai_config.json has settings of its own, which change even a greedy answer",
}
"""Measures that must be true, each with the consequence if it is not."""
PICTURED = {"pictures_identical": "the export would be shown other numbers than the model learnt from"}
"""The same, of models that see."""
HEARD = {"sounds_alike": "the export would be played another spectrogram than the model learnt from"}
"""The same, of models that hear: spectrograms may differ by rounding."""
TEXTUAL = {"chat_template_identical", "tokenizer_identical", "decoding_identical"}
TEXT_ADVICE = (
    "ONNX Runtime GenAI has a template engine and a tokenizer of its own, and they read these files otherwise; no "
    "setting of export_onnx.yaml mends that: write chat_template.jinja in plainer Jinja if it is the template, see "
    "whether `tokenizer_class` in tokenizer_config.json is the model family's own, or serve the PyTorch model"
)


class Exported:
    """One exported form, loaded, with the measures of the prompts compared so far."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the form.

        Args:
            folder: an ONNX Runtime GenAI folder.
            threads: of ONNX Runtime.
        """
        self.model, self.tokenizer = genai.load(folder, threads)
        self.bytes = genai.folder_bytes(folder)
        self._drops_space = genai.drops_space(folder)
        self._config = read_json(folder / "genai_config.json")
        self._divergence = Divergence()
        self._same_template = True
        self._same_ids = True
        self._same_text = True
        self._same_ends = True

    def compare(self, prompt: Prompt, answer: Sequence[int], log_probs: Any, reference: Reference) -> None:
        """Take one prompt into the measures.

        Args:
            prompt: a held-out prompt.
            answer: PyTorch's greedy answer.
            log_probs: float64 array `[len(answer), vocabulary]`, PyTorch's log-probabilities along the answer.
            reference: the PyTorch model.
        """
        self._same_template &= genai.render(self.tokenizer, prompt.messages) == prompt.text
        self._same_ids &= genai.encode(self.tokenizer, prompt.text) == prompt.ids
        self._same_text &= self._reads_alike(answer, reference)
        self._same_ends &= genai.end_tokens(self._config) == reference.ends
        start = len(prompt.ids) - 1
        exported = log_softmax(genai.logits(self.model, [*prompt.ids, *answer])[start:-1])
        free = genai.generate(self.model, prompt.ids, max_new_tokens=len(answer))
        self._divergence.add(log_probs, exported, answer, free)

    def _reads_alike(self, answer: Sequence[int], reference: Reference) -> bool:
        """Whether the answer's tokens stand for the same text here as in PyTorch."""
        tokens = [token for token in answer if token not in reference.ends]
        stream = genai.Stream(self.tokenizer, self._drops_space)
        ours = "".join(stream.decode(token) for token in tokens)
        theirs = reference.text(tokens)
        # Half of a character, where an answer is cut off, is written otherwise by each runtime.
        return ours == theirs or "\ufffd" in theirs

    def measures(self) -> dict[str, float | int | bool]:
        """Return the measures over all prompts compared, rounded to their precision."""
        return {
            **rounded(self._divergence.measures()),
            "bytes": self.bytes,
            "chat_template_identical": self._same_template,
            "tokenizer_identical": self._same_ids,
            "decoding_identical": self._same_text,
            "end_tokens_identical": self._same_ends,
            "search_plain": genai.is_plain(self._config),
        }


class Failure(NamedTuple):
    """One measure by which a form differs too much from its model."""

    form: str
    """Name of the form."""
    measure: str
    """Name of the measure."""
    sentence: str
    """Message with the form, the measure, and why it fails."""


def failures(
    forms: Mapping[str, Mapping[str, Any]],
    thresholds: Mapping[str, Mapping[str, float | None]],
) -> list[Failure]:
    """Compare the measures of every form with its thresholds; null means measured only.

    Args:
        forms: name to measures. Those of `IDENTICAL` that are missing are not judged: see `unmeasured`.
        thresholds: name to bounds.
    """
    failed = []
    for form, measures in forms.items():
        for name, why in {**IDENTICAL, **PICTURED, **HEARD}.items():
            if not measures.get(name, True):
                failed.append(Failure(form, name, f"{form}: {name} is false; {why}"))
        for name in LOWER_IS_BETTER + HIGHER_IS_BETTER:
            value, limit = measures[name], thresholds[form][name]
            if limit is None:
                continue
            good = value <= limit if name in LOWER_IS_BETTER else value >= limit  # both are false for NaN
            if not good:
                bound = "at most" if name in LOWER_IS_BETTER else "at least"
                failed.append(Failure(form, name, f"{form}: {name} is {value:.6g}, must be {bound} {limit:g}"))
    return failed


def unmeasured(forms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each form whose measures lack some of `IDENTICAL`, as an older export's do."""
    missing = {form: [name for name in IDENTICAL if name not in measures] for form, measures in forms.items()}
    return [
        f"{form}: {', '.join(names)}: not measured when it was exported" for form, names in missing.items() if names
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
    failed = failures(forms, thresholds)
    if not failed:
        return
    over = {failure.form for failure in failed if failure.measure not in (*IDENTICAL, *PICTURED, *HEARD)}
    exact_over = sorted(over.intersection(exact))
    advice = []
    if exact_over:
        advice = [f"{', '.join(exact_over)}: not quantised, so that {EXACT_ADVICE}"]
    elif over:
        advice = ["change `forms.<form>.weights` to quantise less, or the thresholds beside it"]
    if {failure.measure for failure in failed} & TEXTUAL:
        advice.append(TEXT_ADVICE)
    lines = "\n  ".join(failure.sentence for failure in failed)
    raise ParityError("\n".join([f"the export does not answer like the PyTorch model:\n  {lines}", *advice]))


def rounded(measures: Measures) -> dict[str, float | int]:
    """Write measures as `parity.json` has them."""
    return {
        "max_logprob_difference": _rounded(measures.max_logprob_difference),
        "kl_per_token": _rounded(measures.kl_per_token),
        "argmax_agreement": round(measures.argmax_agreement, 6),
        "greedy_agreement": round(measures.greedy_agreement, 6),
        "tokens": measures.tokens,
    }


def _rounded(value: float) -> float:
    """Round to three significant digits, and to no more than nine decimals: float32 resolves no finer."""
    return float(f"{round(value, 9):.3g}")
