"""What a column holds, told by its values: text, messages in whose keys, pictures, sounds, a ranked list."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from tasks.ingestion.filters import CONTENT_KEYS, ROLE_KEYS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
SOUNDS = (".wav", ".mp3", ".flac", ".ogg", ".opus")
"""Suffixes of files that rows name."""
_TRANSCRIPT = re.compile(r"\s*(?:#+ *)?(?:Human|User|System) *:.*?\n\s*(?:#+ *)?(?:Assistant|Bot|GPT) *:", re.I | re.S)


def values(rows: Sequence[dict[str, Any]], column: str) -> list[Any]:
    """List the values of a column that are not null."""
    return [row[column] for row in rows if row.get(column) is not None]


def named(columns: Collection[str], *names: str) -> str | None:
    """Find the first column that is called one of the names, whatever its case; `-` and blanks count as `_`."""
    known = {re.sub(r"[\s-]+", "_", column.strip().lower()): column for column in columns}
    return next((known[name] for name in names if name in known), None)


def is_text(found: Sequence[Any]) -> bool:
    """Whether most of the values are text or numbers."""
    return _most(found, lambda value: isinstance(value, str | int | float) and not isinstance(value, bool))


def messages(found: Sequence[Any], column: str) -> str | None:
    """Return the template of a column that holds messages, `{conversations|turns}`; None for another column."""
    if _most(found, _plain_turns) and not any(_turns(value) and _uses_tools(value) for value in found):
        return f"{{{column}}}"
    if _most(found, _turns) or _most(found, lambda value: isinstance(value, str) and bool(_TRANSCRIPT.match(value))):
        return f"{{{column}|turns}}"
    spelt = [_parsed(value) for value in found]
    if _most(spelt, _turns):
        return f"{{{column}|json|turns}}"
    if _most(spelt, lambda value: isinstance(value, dict) and _turns(value.get("messages"))):
        return f"{{{column}|json|get(messages)|turns}}"
    return None


def ranked(found: Sequence[Any], column: str) -> tuple[str, str] | None:
    """Return the templates of the best and the worst answer of a column of lists of answers with scores."""
    items = [item for value in found if isinstance(value, list) for item in value if isinstance(item, dict)]
    if not items or not _most(found, lambda value: isinstance(value, list) and len(value) > 1):
        return None
    said = named(items[0], "response", "completion", "answer", "output", "text", "content", "model_response")
    score = named(items[0], "overall_score", "score", "rating", "quality", "reward", "votes", "fine_grained_score")
    if said is None or score is None:
        return None
    return tuple(f"{{{column}|{which}({score})|get({said})}}" for which in ("best", "worst"))  # type: ignore[return-value]


def media(rows: Sequence[dict[str, Any]], columns: Collection[str]) -> tuple[str, str] | None:
    """Find a column of pictures or sounds. Returns the key of a map, `images` or `audio`, and the column."""
    for column in columns:
        found = values(rows, column)
        items = [item for value in found for item in (value if isinstance(value, list) else [value])]
        raw = column.strip().lower()
        files = _most(items, lambda item: isinstance(item, dict) and "bytes" in item and set(item) <= {"bytes", "path"})
        if files or _most(items, lambda item: isinstance(item, bytes)):
            path = next((str(item.get("path") or "") for item in items if isinstance(item, dict)), "").lower()
            heard = path.endswith(SOUNDS) or (not path.endswith(PICTURES) and ("audio" in raw or "sound" in raw))
            return "audio" if heard else "images", column
        for key, suffixes in (("images", PICTURES), ("audio", SOUNDS)):
            if _most(items, lambda item, s=suffixes: isinstance(item, str) and item.lower().endswith(s)):
                return key, column
    return None


def _most(found: Sequence[Any], test: Any) -> bool:
    return bool(found) and sum(bool(test(value)) for value in found) >= 0.8 * len(found)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _plain_turns(value: Any) -> bool:
    """Whether a value is messages that a set takes as they are."""
    return (
        _turns(value)
        and all(
            turn.get("role") in ("system", "user", "assistant") and isinstance(turn.get("content"), str)
            for turn in value
        )
        and not _uses_tools(value)
    )


def _uses_tools(turns: list[dict[str, Any]]) -> bool:
    """Whether a turn calls a tool or is a tool's answer, be it in a few rows of a set alone."""
    return any(
        turn.get("tool_calls")
        or turn.get("function_call")
        or any(turn.get(key) in ("tool", "function", "function_call", "observation") for key in ROLE_KEYS)
        for turn in turns
    )


def _turns(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(turn, dict)
        and any(isinstance(turn.get(key), str) for key in ROLE_KEYS)
        and any(key in turn for key in (*CONTENT_KEYS, "tool_calls", "function_call"))
        for turn in value
    )  # fmt: skip
