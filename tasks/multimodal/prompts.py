"""Where pictures stand in a conversation: before the first text of the user's, in order, as the trainers put them."""

from collections.abc import Mapping, Sequence
from typing import Any

IMAGE = {"type": "image"}
"""Part of a message in whose place a picture is put."""


def shown(messages: Sequence[Mapping[str, Any]], count: int) -> list[dict[str, Any]]:
    """Put pictures into a conversation of texts: every message's content becomes a list of parts.

    Args:
        messages: each with `role` and a text as `content`, one of them the user's.
        count: number of pictures.
    """
    first = next((number for number, message in enumerate(messages) if message["role"] == "user"), 0)
    return [
        {
            "role": message["role"],
            "content": [IMAGE] * (count if number == first else 0) + [{"type": "text", "text": message["content"]}],
        }
        for number, message in enumerate(messages)
    ]
