"""Whether an exported model that sees is still the one it was made from: the measures of `tasks/export/parity.py`.

They are taken on held-out rows with their pictures. That the form's own reader gives the same text, tokens and pixels
as the model's processor is checked without a bound.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.export import genai, parity
from tasks.export.divergence import Divergence, log_softmax
from tasks.export.multimodal_reader import Reader
from tasks.export.multimodal_reference import PicturedPrompt, SeeingReference
from tasks.export.multimodal_session import Session


class ExportedSeeing:
    """One exported form of a model that sees, loaded, with the measures of the prompts compared so far."""

    def __init__(self, folder: Path, threads: int) -> None:
        """Load the form. Raises ModelError.

        Args:
            folder: a form of an export that sees.
            threads: of ONNX Runtime.
        """
        self._reader = Reader(folder)
        self._session = Session(folder, threads)
        self._bytes = genai.folder_bytes(folder)
        self._divergence = Divergence()
        self._same = dict.fromkeys([name for name in parity.IDENTICAL if name != "search_plain"], True)
        self._same |= dict.fromkeys(parity.PICTURED, True)

    def compare(
        self, prompt: PicturedPrompt, answer: Sequence[int], log_probs: Any, reference: SeeingReference
    ) -> None:
        """Take one prompt into the measures.

        Args:
            prompt: a held-out prompt.
            answer: PyTorch's greedy answer.
            log_probs: float64 array `[len(answer), vocabulary]`, PyTorch's log-probabilities along the answer.
            reference: the PyTorch model.
        """
        import numpy as np

        theirs = reference.inputs(prompt)
        ours = self._reader.read(prompt.messages, reference.pictures(prompt))
        pixels = theirs["pixel_values"].numpy() if prompt.images else ours.pixels
        found = {
            "chat_template_identical": self._reader.render(prompt.messages) == prompt.text,
            "tokenizer_identical": ours.ids == theirs["input_ids"][0].tolist(),
            "pictures_identical": bool(np.array_equal(ours.pixels, pixels)),
            "decoding_identical": self._reads_alike(answer, reference),
            "end_tokens_identical": self._session.ends == reference.ends,
        }
        self._same = {name: same and found[name] for name, same in self._same.items()}
        embeddings = self._session.embeddings(ours)
        exported = log_softmax(self._session.logits(embeddings, answer)[:-1])
        free = self._session.generate(embeddings, max_new_tokens=len(answer))
        self._divergence.add(log_probs, exported, answer, free)

    def answer(self, prompt: PicturedPrompt, reference: SeeingReference, new_tokens: int) -> Iterator[int]:
        """Yield so many tokens of an answer, for a measurement of the speed."""
        ours = self._reader.read(prompt.messages, reference.pictures(prompt))
        embeddings = self._session.embeddings(ours)
        return self._session.generate(embeddings, max_new_tokens=new_tokens, min_new_tokens=new_tokens)

    def _reads_alike(self, answer: Sequence[int], reference: SeeingReference) -> bool:
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
