"""Whether a request is answered from passages, and from how many: as it says, within what the operator allows."""

from dataclasses import dataclass

from flows.serving import json_body
from flows.serving.chat_request import ChatRequest, RagOptions
from flows.serving.follower import LoadedVersion
from flows.serving.openai_api import RequestError

SUFFIX = "-rag"
"""End of a model's name by which a client that can send no field of its own asks for passages."""


@dataclass(frozen=True)
class Retrieval:
    """Passages that a request asks for."""

    wanted: int | None
    """Most passages, by the request; None leaves it to the server."""
    allowed: int | None
    """Most passages, by the operator; None leaves it to the reader."""

    def passages(self, version: LoadedVersion) -> int:
        """Decide how many passages to show.

        Raises:
            RequestError: the version has no index, or fewer passages may be asked for.
        """
        if version.retriever is None:
            message = (
                f"{version.label} has no index to find passages in; leave 'rag' out, or promote a reader that was "
                f"evaluated with one"
            )
            raise RequestError(400, message, param="rag", code="no_index")
        most = version.retriever.form.passages
        most = most if self.allowed is None else min(most, self.allowed)
        if self.wanted is not None and self.wanted > most:
            message = f"'rag.passages' is {self.wanted}, and at most {most} are shown here; ask for fewer"
            raise RequestError(400, message, param="rag.passages", code="too_many_passages")
        return most if self.wanted is None else self.wanted


def asked_for(request: ChatRequest, *, always: bool, allowed: int | None) -> Retrieval | None:
    """Read whether a request asks for passages.

    Args:
        request: the request.
        always: whether one that says nothing of it does.
        allowed: most passages, by the operator.

    Raises:
        RequestError: it says two things, or shows pictures or sounds.
    """
    named = request.model is not None and request.model.endswith(SUFFIX)
    if named and request.rag is False:
        message = f"'rag' is false, and the model {json_body.shown(request.model)} asks for passages; drop one of them"
        raise RequestError(400, message, param="rag")
    wanted = (named or always) if request.rag is None else request.rag is not False
    if not wanted:
        return None
    if any(message.shown() for message in request.messages):
        message = "'rag' finds passages for words, and the messages show something; leave one of them out"
        raise RequestError(400, message, param="rag")
    if all(message.role != "user" for message in request.messages):
        message = "'rag' finds passages for what the user asks, and no message is the user's; send one"
        raise RequestError(400, message, param="messages")
    return Retrieval(request.rag.passages if isinstance(request.rag, RagOptions) else None, allowed)
