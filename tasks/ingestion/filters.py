"""Filters of a map: what `{column|filter}` makes of a column's value before it is taken.

{messages|json}              text that holds JSON, as the value that it spells
{conversations|turns}        messages in another's keys, names of roles and tool calls, with `role` and `content`
{input|default()}            what stands in the parentheses, where the column is null or the row has none
{answers|get(text.0)}        what lies at a path: keys of mappings and places in lists, from 0
{completions|best(score)}    the item of a list with the highest number at a path; `worst`: with the lowest
{messages|first(user)}       the first message of a role: its content
{passages|join}              the texts of a list, with blank lines between
"""

import json
import re
from collections.abc import Callable
from typing import Any

from tasks.ingestion.values import BadRow, plain

FILTER = r"\|(?:json|turns|join|(?:default|get|best|worst|first|last)\([^{}()]*\))"
"""Regular expression of one filter; what looks otherwise is part of a column's name."""
_CALL = re.compile(r"\|(\w+)(?:\(([^()]*)\))?")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "ai", "answer"), "assistant"),
    **dict.fromkeys(("system", "developer", "context"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
    "function_call": "function_call",
}
"""Names of roles, in lower case, to the roles that they mean; a `function_call` is said by the assistant."""
ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
"""Keys of a message that hold its role and its content; of each the first that is there counts."""
_SPEAKER = re.compile(r"(?:^|\n)\s*(?:#+ *)?(Human|User|Assistant|System|Bot|GPT) *: *", re.I)
"""Where a turn of a transcript begins."""


def default(filters: str) -> str | None:
    """Return the text of a `default(…)`; None where there is no such filter."""
    return next((argument for name, argument in _CALL.findall(filters) if name == "default"), None)


def apply(filters: str, name: str, value: Any) -> Any:
    """Apply filters from left to right.

    Args:
        filters: as written, `|json|turns`.
        name: the column, for messages.
        value: its value, in JSON's terms; not null.

    Raises:
        BadRow: the value is not what a filter takes.
    """
    for function, argument in _CALL.findall(filters):
        value = value if function == "default" else _FUNCTIONS[function](name, value, argument)
    return value


def _json(name: str, value: Any, _argument: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return plain(name, json.loads(value))
    except (ValueError, RecursionError) as e:
        raise BadRow(f"'{name}' is text that is no JSON ({e})") from None


def _get(name: str, value: Any, path: str) -> Any:
    for key in path.split("."):
        if isinstance(value, dict) and value.get(key) is not None:
            value = value[key]
        elif isinstance(value, list) and re.fullmatch(r"-?\d+", key) and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            raise BadRow(f"'{name}' has nothing at '{path}'")
    return value


def _ranked(name: str, value: Any, path: str) -> list[tuple[float, Any]]:
    if not isinstance(value, list) or len(value) < 2:
        raise BadRow(f"'{name}' is no list of at least two answers")
    scored = []
    for item in value:
        try:
            scored.append((float(_get(name, item, path)), item))
        except (TypeError, ValueError):
            raise BadRow(f"'{name}' has an answer without a number at '{path}'") from None
    if len({score for score, _ in scored}) == 1:
        raise BadRow(f"'{name}' has answers of equal '{path}', none better than another")
    return scored


def _best(name: str, value: Any, path: str) -> Any:
    return max(_ranked(name, value, path), key=lambda pair: pair[0])[1]


def _worst(name: str, value: Any, path: str) -> Any:
    return min(_ranked(name, value, path), key=lambda pair: pair[0])[1]


def _said(name: str, value: Any, role: str) -> list[Any]:
    turns = value if isinstance(value, list) else []
    found = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == role]
    if not found:
        raise BadRow(f"'{name}' has no message of the role '{role}'")
    return found


def _first(name: str, value: Any, role: str) -> Any:
    return _get(name, _said(name, value, role)[0], "content")


def _last(name: str, value: Any, role: str) -> Any:
    return _get(name, _said(name, value, role)[-1], "content")


def _join(name: str, value: Any, _argument: str) -> str:
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) for item in items):
        raise BadRow(f"'{name}' is no list of texts")
    return "\n\n".join(items)


def _turns(name: str, value: Any, _argument: str) -> list[dict[str, Any]]:
    """Write turns with `role` and `content`, whatever their keys; tools speak as the user, as in Qwen's template."""
    if isinstance(value, str):
        value = _transcript(name, value)
    if not isinstance(value, list):
        raise BadRow(f"'{name}' is no list of turns")
    turns: list[dict[str, Any]] = []
    for item in value:
        turn = _turn(name, item)
        if turn.pop("tool", False) and turns and turns[-1].pop("answered", False):
            turns[-1] |= {"content": f"{turns[-1]['content']}\n{turn['content']}", "answered": True}
        else:
            turns.append(turn)
    for turn in turns:
        turn.pop("answered", None)
    return turns


def _turn(name: str, item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise BadRow(f"'{name}' has a turn that is no mapping")
    role_key = next((key for key in ROLE_KEYS if item.get(key) is not None), None)
    content_key = next((key for key in CONTENT_KEYS if key in item), None)
    if role_key is None:
        raise BadRow(f"'{name}' has a turn without a role; one of {', '.join(ROLE_KEYS)}")
    said = str(item[role_key]).strip()
    if said.lower() not in ROLES:
        raise BadRow(f"'{name}' has the role {said!r}")
    role = ROLES[said.lower()]
    calls = [call.get("function", call) for call in item.get("tool_calls") or [] if isinstance(call, dict)]
    calls += [item["function_call"]] if isinstance(item.get("function_call"), dict) else []
    used = {role_key, content_key, "tool_calls", "function_call", "tool_call_id"}
    rest = {key: value for key, value in item.items() if key not in used}
    content = _text(name, item[content_key]) if content_key else ""
    if role == "function_call":
        content, role = f"<tool_call>\n{content}\n</tool_call>", "assistant"
    for call in calls:
        arguments = _json(name, call.get("arguments"), "")
        written = json.dumps({"name": call.get("name"), "arguments": arguments}, ensure_ascii=False)
        content = f"{content}\n<tool_call>\n{written}\n</tool_call>".strip()
    if role == "tool":
        rest.pop("name", None)
        return {
            "role": "user", "content": f"<tool_response>\n{content}\n</tool_response>", **rest, "tool": True,
            "answered": True,
        }  # fmt: skip
    return {"role": role, "content": content, **rest}


def _text(name: str, value: Any) -> str:
    """Read a content: text, or OpenAI's list of parts, all of them text."""
    if value is None:
        return ""
    if isinstance(value, list):
        for part in value:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise BadRow(f"'{name}' has a part of the type {kind!r} in a content, and no text")
        return "\n".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise BadRow(f"'{name}' has a content that is {type(value).__name__}, not text")
    return value


def _transcript(name: str, text: str) -> list[dict[str, str]]:
    """Part a text like `Human: … Assistant: …` into turns."""
    pieces = _SPEAKER.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        raise BadRow(f"'{name}' is text without turns; each begins a line with its speaker, e.g. `Human: …`")
    return [{"role": role, "content": said.strip()} for role, said in zip(pieces[1::2], pieces[2::2], strict=True)]


_FUNCTIONS: dict[str, Callable[[str, Any, str], Any]] = {
    "json": _json, "turns": _turns, "get": _get, "best": _best, "worst": _worst, "first": _first, "last": _last,
    "join": _join,
}  # fmt: skip
