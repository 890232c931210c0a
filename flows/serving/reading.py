"""Talking to a reader in this process: `polm ask`, and `polm chat --rag`. The search is the server's, without it.

A reader is the champion with the index it was promoted with, or a model of the workspace by its name: its export in the
form that the registry's policy names, or else its model folder on PyTorch; then the index is the one that it was
evaluated with, unless another one is named.
"""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from flows import workspace
from flows.registry import grounding, version
from flows.serving.conversation import Conversation
from flows.serving.grounded import Grounded, Grounding, open_rag
from flows.serving.torch_stream import stream
from tasks.stage import artifact
from tasks.stage.config import suggest
from tasks.stage.errors import DataError, GateError


class Reader:
    """A model with an index, and what was said so far."""

    def __init__(self, conversation: "Conversation | TorchConversation", found: Grounding, title: str) -> None:
        """Args: conversation: with the model; found: the index; title: what both are, for a person."""
        self._conversation, self._grounding = conversation, found
        self.title = title
        self.form = found.form
        self.grounded: Grounded | None = None
        """What was shown with the last question."""

    def ask(self, question: str) -> Generator[str]:
        """Yield the answer bit by bit, once its passages are in `grounded`.

        Raises:
            DataError: the question and its passages do not fit into the model's context.
            ModelError: the model failed.
        """
        self.grounded = self._grounding.ground(question, self.form.passages)
        yield from self._conversation.ask(question, self.grounded.prompt)

    def forget(self) -> None:
        """Start anew."""
        self._conversation.forget()


class TorchConversation:
    """A conversation with the model folder of a model of words, on PyTorch."""

    def __init__(self, folder: Path, *, max_new_tokens: int, temperature: float) -> None:
        """Load the model; for the arguments see `Conversation`. Raises ModelError."""
        from transformers.utils.logging import disable_progress_bar

        from tasks.models.folder import load_causal_lm, load_tokenizer
        from tasks.models.turn_ends import end_tokens

        disable_progress_bar()
        self._model, self._tokenizer = load_causal_lm(folder, quantized=True).eval(), load_tokenizer(folder)
        self._ends = end_tokens(self._model, self._tokenizer)
        self._context = int(self._model.config.max_position_embeddings)
        self._max_new_tokens, self._temperature = max_new_tokens, temperature
        self.messages: list[dict[str, Any]] = []

    def ask(self, question: str, prompt: str | None = None) -> Generator[str]:
        """Yield the answer bit by bit; for the arguments and what is raised see `Conversation.ask`."""
        asked = [*self.messages, {"role": "user", "content": prompt or question}]
        inputs = self._tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        length = inputs["input_ids"].shape[1]
        room = min(self._max_new_tokens, self._context - length)
        if room < 1:
            raise DataError(
                f"the conversation is {length} tokens long, passages among them, the context only {self._context}; "
                f"/reset forgets it"
            )
        texts = stream(self._model, self._tokenizer, inputs, room=room, ends=self._ends, temperature=self._temperature)
        answer = ""
        with contextlib.closing(texts):
            for piece in texts:
                answer += piece
                yield piece
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        """Start anew."""
        self.messages.clear()


@contextlib.contextmanager
def reader(model: str | None, index: str | None, *, max_new_tokens: int, temperature: float) -> Iterator[Reader]:
    """Open a reader for as long as the block runs.

    Args:
        model: name of a model of the workspace; None takes the champion.
        index: name of an index of the workspace; None takes the one that the model was evaluated or promoted with.
        max_new_tokens: longest answer, in tokens.
        temperature: 0 takes the likeliest token, above it samples.

    Raises:
        GateError: no champion, no such model, one that was not evaluated with an index, or no such index.
        ArtifactError: the index cannot be opened.
        ModelError: the model cannot be loaded.
    """
    if model is None and index is None:
        with version.champion() as (folder, label):
            rag = folder.parent / version.RAG
            if not rag.is_dir():
                raise GateError(
                    f"{label} has no index to find passages in; promote a reader, or name one with --model, e.g. "
                    f"polm ask --model reader '…'"
                )
            conversation = Conversation(folder, max_new_tokens=max_new_tokens, temperature=temperature)
            yield Reader(conversation, open_rag(rag, folder), label)
        return
    if model is None:
        raise GateError("--index names another index, and the champion keeps its own; name a reader with --model too")
    found = _evaluated(model)
    place = found.folder if index is None else _index(index)
    if place is None:
        there = ", ".join(found.present) or "none"
        raise GateError(
            f"{model} was evaluated with the index {found.digest[:12]}, and there is {there}; run `polm run`, or name "
            f"one with --index"
        )
    folder = _folder(model)
    exported = (folder / "genai_config.json").is_file()
    opened = Conversation if exported else TorchConversation
    talk = opened(folder, max_new_tokens=max_new_tokens, temperature=temperature)
    yield Reader(talk, Grounding(place, found.form, folder), f"{folder} with {place}")


def _evaluated(model: str) -> grounding.Reading:
    """Read with what a model was evaluated. Raises GateError unless that was an index."""
    evaluations = {path.parent.name: path.parent for path in sorted(artifact.METRICS.glob(f"*/{artifact.MANIFEST}"))}
    readers = {
        name: folder
        for name, folder in evaluations.items()
        if grounding.INPUT in artifact.read_manifest(folder).inputs and (artifact.MODELS / name).is_dir()
    }
    if model not in readers:
        raise GateError(f"'{model}' was not evaluated with an index{suggest(model, readers)} (made by `polm run`)")
    found = grounding.reading(readers[model], None)
    assert found is not None
    return found


def _index(name: str) -> Path:
    """Find an index of the workspace by its name. Raises GateError."""
    names = [path.parent.name for path in sorted(grounding.INDEXES.glob(f"*/{artifact.MANIFEST}"))]
    if name not in names:
        raise GateError(f"no index '{name}' in {grounding.INDEXES}{suggest(name, names)} (made by `polm run`)")
    return grounding.INDEXES / name


def _folder(model: str) -> Path:
    """Choose the form of a model that the policy would serve, if it was exported."""
    from flows.registry import policy
    from tasks.stage.errors import ConfigError

    data = artifact.read_manifest(artifact.METRICS / model).inputs["data"]
    sets = artifact.manifests(artifact.ROOT / "media")
    asked = next((folder.name for folder, manifest in sets.items() if manifest.digest == data), None)
    with contextlib.suppress(ConfigError):  # without a policy nothing is served: the model folder answers
        form = artifact.ONNX / model / policy.load_policy(workspace.active_recipe(), data=asked).form
        if form.is_dir():
            return form
    return artifact.MODELS / model
