"""Source rows to TRL's conversational rows, by templates, and what makes a row acceptable.

A map is an example of the row to make, with columns in braces:

    messages: [{role: user, content: "{question}"}, {role: assistant, content: "{reply}"}]

A string that is one column and nothing else passes the column's value through as it is (a list of messages, a number);
`{column:PATTERN}` takes the first group of a regular expression (GSM8K: `{answer:#### (.+)}`); `{{` is a brace.
"""

import re
from collections.abc import Collection
from typing import Any

from tasks._errors import DataError

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}:]+)(?::([^{}]*))?\}")

REQUIRED = {
    "sft": {"messages"},
    "preferences": {"chosen", "rejected"},
    "feedback": {"prompt", "completion", "label"},
    "prompts": {"prompt", "answer"},
    "pretrain": {"text"},
    "eval": {"question", "answer"},
}
"""Columns of each kind of set. `preferences` without `prompt` splits off the messages that both sides begin with."""
PARTED = {"prompt", "completion"}
"""Instead of `messages`, in an `sft` set: of the prompt nothing is learnt, not even what an assistant says in it."""


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason."""


def kind_of(name: str) -> str:
    """Kind of a set: `eval` for `eval:sums`, else the name."""
    return name.partition(":")[0]


def columns(template: Any) -> set[str]:
    """Columns that a template names."""
    if isinstance(template, str):
        return {m.group(1) for m in _FIELD.finditer(template) if m.group(1)}
    values = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return {c for value in values for c in columns(value)}


def required(set_name: str, row: Collection[str]) -> set[str]:
    """Columns that a row (or map) of the set must have, by those that it has."""
    kind = kind_of(set_name)
    return PARTED if kind == "sft" and "messages" not in row and "completion" in row else REQUIRED[kind]


def check_map(where: str, set_name: str, template: dict[str, Any], known: set[str]) -> None:
    """Check a map before any row is mapped.

    Args:
        where: place in the recipe, for the message.
        set_name: the set it makes rows for.
        template: the map.
        known: columns of the source, over all of its rows.

    Raises:
        DataError: the set needs a column that the map does not make, or the map names a column the source lacks.
    """
    if lacking := sorted(required(set_name, template) - set(template)):
        raise DataError(f"{where}: a row of '{set_name}' needs {', '.join(lacking)}; add it to the map")
    if reserved := sorted({"id", "source"} & set(template)):
        raise DataError(f"{where}: {', '.join(reserved)} is set by the stage; choose another name")
    for column in sorted(columns(template) - known):
        raise DataError(f"{where}: no column '{column}'; the source has: {', '.join(sorted(known))}")


def render(template: Any, row: dict[str, Any]) -> Any:
    """Fill a template from a row. Raises BadRow when the row lacks a column or a pattern does not match."""
    if isinstance(template, dict):
        return {key: render(value, row) for key, value in template.items()}
    if isinstance(template, list):
        return [render(value, row) for value in template]
    if not isinstance(template, str):
        return template
    whole = _FIELD.fullmatch(template)
    if whole and whole.group(1):
        return _value(whole, row)
    return _FIELD.sub(lambda m: str(_value(m, row)) if m.group(1) else m.group()[0], template)


def _value(match: re.Match[str], row: dict[str, Any]) -> Any:
    column, pattern = match.group(1), match.group(2)
    if column not in row:
        raise BadRow(f"no column '{column}'")
    if row[column] is None:
        raise BadRow(f"'{column}' is null")
    if pattern is None:
        return row[column]
    found = re.search(pattern, str(row[column]))
    if not found:
        raise BadRow(f"'{column}' does not match {pattern!r}")
    return found.group(1)


def validate(set_name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row as it is written, without `id` and `source`. Raises BadRow with the reason."""
    kind = kind_of(set_name)
    needed = required(set_name, row)
    extra = {k: v for k, v in row.items() if k not in needed | {"prompt", "group"}}
    if kind == "pretrain":
        return {"text": _text("text", row["text"]), **extra}
    if kind == "eval":
        return {"question": _text("question", row["question"]), "answer": _text("answer", row["answer"]), **extra}
    if kind == "prompts":
        return {"prompt": _prompt(row["prompt"]), "answer": _text("answer", row["answer"]), **extra}
    if needed == PARTED:
        return {**_parted(row), **extra}
    if kind == "sft":
        return {"messages": _conversation(row["messages"]), **extra}
    if kind == "feedback":
        return {**_feedback(row), **extra}
    return {**_pair(row), **extra}


def parts(row: dict[str, Any]) -> list[str]:
    """The texts of a row as written: contents of its messages, or its plain columns."""
    texts = [
        m["content"] for key in ("messages", "prompt", "chosen", "rejected", "completion") for m in row.get(key, ())
    ]
    return texts + [row[key] for key in ("text", "question", "answer") if key in row]


def first_prompt(row: dict[str, Any]) -> str:
    """What identifies a row whatever set it is in: its first user message, its question, or its text."""
    for message in row.get("messages", row.get("prompt", ())):
        if message["role"] == "user":
            return str(message["content"])
    return str(row.get("question", row.get("text")))


def _text(name: str, value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRow(f"'{name}' is {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"'{name}' is empty")
    return value


def _messages(name: str, value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadRow(f"'{name}' is not a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise BadRow(f"'{name}' has a message without role and content")
        if message["role"] not in ("system", "user", "assistant"):
            raise BadRow(f"'{name}' has the role {message['role']!r}")
        messages.append({"role": message["role"], "content": _text(f"{message['role']}'s content", message["content"])})
    return messages


def _alternating(name: str, messages: list[dict[str, str]], last: str) -> list[dict[str, str]]:
    """Check that after an optional system message user and assistant take turns, ending with `last`."""
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
        raise BadRow(f"'{name}' does not alternate user and assistant: {', '.join(roles)}")
    if turns[-1] != last:
        raise BadRow(f"'{name}' ends with {turns[-1]}, not with {last}")
    return messages


def _conversation(value: Any) -> list[dict[str, str]]:
    return _alternating("messages", _messages("messages", value), "assistant")


def _prompt(value: Any) -> list[dict[str, str]]:
    return _alternating("prompt", _messages("prompt", value), "user")


def _parted(row: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = _prompt(row["prompt"]), _messages("completion", row["completion"])
    _alternating("completion", [*prompt, *completion], "assistant")
    return {"prompt": prompt, "completion": completion}


def _feedback(row: dict[str, Any]) -> dict[str, Any]:
    parted = _parted(row)
    if not isinstance(row["label"], bool):
        raise BadRow(f"'label' is {row['label']!r}, not true or false")
    return {**parted, "label": row["label"]}


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = _messages("chosen", row["chosen"]), _messages("rejected", row["rejected"])
    if "prompt" in row:
        prompt = _messages("prompt", row["prompt"])
    else:
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        if same is None:
            raise BadRow("chosen and rejected are equal")
        if same == 0:
            raise BadRow("chosen and rejected do not begin with the same prompt")
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        _alternating(name, [*prompt, *side], "assistant")
    if [m["content"].split() for m in chosen] == [m["content"].split() for m in rejected]:
        raise BadRow("chosen and rejected are equal")
    return {"prompt": _alternating("prompt", prompt, "user"), "chosen": chosen, "rejected": rejected}
