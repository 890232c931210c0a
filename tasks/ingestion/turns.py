"""Messages of a row: role and content, and the keys by which a message says whether it is learnt.

    {"role": "assistant", "content": "Starting pump 3.", "weight": 0}

`weight` is OpenAI's name (0 or 1); others write `loss`, `train`, … with false and true. In an `sft` set weight 0 keeps
a turn as context of which nothing is learnt; where a set cannot do as a message says, the row is bad. So it is with
keys that hold a part of the answer, such as `tool_calls`: without them something else would be learnt.
"""

from typing import Any

from tasks.ingestion.values import BadRow, text

Turns = list[dict[str, Any]]
"""Messages with `role`, `content` and, on the assistant's where a row gives it, `weight` 0 or 1."""

WEIGHTS = ("weight", "loss", "loss_weight", "train", "training", "trainable")
"""Names of one thing: whether a message of the assistant's is learnt."""
LOST = (
    "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "refusal", "audio", "image", "images",
    "mask", "masked", "loss_mask", "train_detail", "training_detail",
)  # fmt: skip
"""Keys that change what is learnt, and that nothing here looks at. Null, empty and false ones say nothing."""


def messages(name: str, value: Any) -> Turns:
    """Read messages with their roles, contents and weights.

    Args:
        name: their column, for the message.
        value: what the map made of it.

    Raises:
        BadRow: no messages, an unknown role, no text, a weight other than 0 and 1, or a key that would be lost.
    """
    if not isinstance(value, list) or not value:
        raise BadRow(f"'{name}' is not a list of messages")
    turns = []
    for message in value:
        if not isinstance(message, dict) or "role" not in message:
            raise BadRow(f"'{name}' has a message without role and content")
        for key in LOST:
            if message.get(key):
                raise BadRow(
                    f"'{name}' has a message with '{key}', which would be lost; write it into the content, or drop it"
                )
        if "content" not in message:
            raise BadRow(f"'{name}' has a message without role and content")
        role = message["role"]
        if role not in ("system", "user", "assistant"):
            raise BadRow(f"'{name}' has the role {role!r}")
        turn = {"role": role, "content": text(f"{role}'s content", message["content"])}
        turns.append({**turn, **_weight(name, message)})
    return turns


def unknown_keys(message: dict[str, Any]) -> set[str]:
    """List keys with a value that are dropped because nothing here looks at them: `name`, `date`, …"""
    known_keys = {"role", "content", *WEIGHTS, *LOST}
    return {key for key, value in message.items() if key not in known_keys and value is not None}


def _weight(name: str, message: dict[str, Any]) -> dict[str, int]:
    """Return `{"weight": 0 or 1}` of an assistant's message that has one; else nothing."""
    values = {key: message[key] for key in WEIGHTS if message.get(key) is not None}
    for key, value in values.items():
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise BadRow(f"'{name}' has a message with '{key}' {value!r}; only 0, 1, false and true are honoured")
    if len(set(values.values())) > 1:
        raise BadRow(f"'{name}' has a message whose {' and '.join(map(repr, values))} contradict each other")
    weights = [int(value) for value in values.values()]
    if message["role"] != "assistant":
        if 1 in weights:
            key = next(iter(values))
            raise BadRow(
                f"'{name}' has a message of the {message['role']} with '{key}' 1; only the assistant's are learnt"
            )
        return {}
    return {"weight": weights[0]} if weights else {}


def weighed(name: str, turns: Turns) -> Turns:
    """Take turns of which those with weight 0 are not learnt; weight 1 leaves no trace. Raises BadRow if all are 0."""
    spoken = [turn for turn in turns if turn["role"] == "assistant"]
    if all(turn.get("weight") == 0 for turn in spoken):
        raise BadRow(f"'{name}' has weight 0 on every message of the assistant's; nothing of it would be learnt")
    return [{key: value for key, value in turn.items() if (key, value) != ("weight", 1)} for turn in turns]


def context(name: str, turns: Turns) -> Turns:
    """Take turns of which nothing is learnt. Raises BadRow where a weight says otherwise."""
    if any(turn.get("weight") == 1 for turn in turns):
        raise BadRow(f"'{name}' has a message with weight 1, and nothing of a prompt is learnt")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def answer(name: str, turns: Turns) -> Turns:
    """Take turns of which all of the assistant's are learnt. Raises BadRow where a weight says otherwise."""
    if any(turn.get("weight") == 0 for turn in turns):
        raise BadRow(f"'{name}' has a message with weight 0, which only an `sft` set can honour")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def unlearnt(row: dict[str, Any]) -> list[int]:
    """Find the places of the messages with weight 0 in a row of an `sft` set, from 0, those of its prompt counted."""
    turns = [*row.get("prompt", ()), *row.get("completion", ())] if "completion" in row else row.get("messages", ())
    return [i for i, turn in enumerate(turns) if turn.get("weight") == 0]


def pieces(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the rows to write for one row: itself, or where it has turns of weight 0, `prompt` and `completion`.

    Nothing of a prompt is learnt. Learnt turns with one between them that is not become two rows, the second with all
    that comes before it in its prompt; what follows the last learnt turn is left out.
    """
    off = set(unlearnt(row))
    if not off:
        return [row]
    opening = row.get("prompt", []) if "completion" in row else []
    turns = [*opening, *(row["completion"] if "completion" in row else row["messages"])]
    extra = {key: value for key, value in row.items() if key not in ("messages", "prompt", "completion")}
    runs: list[list[int]] = []
    last_learnt = False
    for i, turn in enumerate(turns):
        if i < len(opening) or turn["role"] != "assistant":
            continue
        if i not in off and last_learnt:
            runs[-1][1] = i
        elif i not in off:
            runs.append([i, i])
        last_learnt = i not in off
    bare = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return [{"prompt": bare[:start], "completion": bare[start : end + 1], **extra} for start, end in runs]
