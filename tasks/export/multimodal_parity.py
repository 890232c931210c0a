"""Whether an exported model that sees or hears is still the one it was made from, by `tasks/export/parity.py`.

Its measures are taken on held-out rows with their pictures or sounds. That the form's own reader gives the same text,
tokens and pixels as the model's processor, and spectrograms that differ by rounding alone, is checked without a bound.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.export import genai, parity
from tasks.export.divergence import Divergence, log_softmax
from tasks.export.multimodal_reference import HeldOutPrompt, MultimodalReference
from tasks.export.multimodal_session import Session
from tasks.export.readers import open_reader


class ExportedMultimodal:
    """One exported form of a model that sees or hears, loaded, with the measures of the prompts compared so far."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the form. Raises ModelError.

        Args:
            folder: a form of an export that sees or hears.
            threads: of ONNX Runtime.
        """
        self._reader = open_reader(folder)
        self._session = Session(folder, threads)
        self._bytes = genai.folder_bytes(folder)
        self._divergence = Divergence()
        self._same: dict[str, bool] = {}

    def compare(
        self, prompt: HeldOutPrompt, answer: Sequence[int], log_probs: Any, reference: MultimodalReference
    ) -> None:
        """Take one prompt into the measures.

        Args:
            prompt: a held-out prompt.
            answer: PyTorch's greedy answer.
            log_probs: float64 array `[len(answer), vocabulary]`, PyTorch's log-probabilities along the answer.
            reference: the PyTorch model.
        """

        theirs = reference.inputs(prompt)
        ours = self._reader.read(prompt.messages, reference.media(prompt))
        found = {
            "chat_template_identical": self._reader.render(prompt.messages) == prompt.text,
            "tokenizer_identical": ours.ids == theirs["input_ids"][0].tolist(),
            reference.measure: reference.same(ours, theirs),
            "decoding_identical": self._reads_alike(answer, reference),
            "end_tokens_identical": self._session.ends == reference.ends,
        }
        self._same = {name: self._same.get(name, True) and alike for name, alike in found.items()}
        embeddings = self._session.embeddings(ours)
        exported = log_softmax(self._session.logits(embeddings, answer)[:-1])
        free = self._session.generate(embeddings, max_new_tokens=len(answer))
        self._divergence.add(log_probs, exported, answer, free)

    def answer(self, prompt: HeldOutPrompt, reference: MultimodalReference, new_tokens: int) -> Iterator[int]:
        """Yield so many tokens of an answer, for a measurement of the speed."""
        ours = self._reader.read(prompt.messages, reference.media(prompt))
        embeddings = self._session.embeddings(ours)
        return self._session.generate(embeddings, max_new_tokens=new_tokens, min_new_tokens=new_tokens)

    def _reads_alike(self, answer: Sequence[int], reference: MultimodalReference) -> bool:
        """Whether the answer's tokens stand for the same text here as in PyTorch."""
        tokens = [token for token in answer if token not in reference.ends]
        stream = self._reader.stream()
        ours, theirs = "".join(stream.decode(token) for token in tokens), reference.text(tokens)
        # Half of a character, where an answer is cut off, is held back by a stream.
        return ours == theirs or "\ufffd" in theirs

    def measures(self) -> dict[str, float | int | bool]:
        """Return the measures over all prompts compared, rounded to their precision."""
        return {
            **parity.rounded(self._divergence.measures()),
            "bytes": self._bytes,
            **self._same,
            "search_plain": genai.is_plain(self._session.config),
        }
