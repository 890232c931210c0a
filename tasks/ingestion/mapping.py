"""Source rows to TRL's conversational rows, by templates, and what makes a row acceptable.

A map is an example of the row to make, with columns in braces:

    messages: [{role: user, content: "{question}"}, {role: assistant, content: "{reply}"}]

A string that is one column and nothing else passes the column's value through as it is (a list of messages, a number);
`{column:PATTERN}` takes the first group of a regular expression (GSM8K: `{answer:#### (.+)}`); `{{` is a brace.
`{column|json}` and other filters (`tasks/ingestion/filters.py`) change the value before that.
"""

import re
from collections.abc import Collection
from typing import Any

from tasks.ingestion import filters
from tasks.ingestion.turns import Turns, answer, context, messages, unknown_keys, weighed
from tasks.ingestion.values import BadRow, plain, text
from tasks.stage.errors import DataError

_FIELD = re.compile(
    rf"\{{\{{|\}}\}}|\{{(?P<column>[^{{}}:]+?)(?P<filters>(?:{filters.FILTER})*)(?::(?P<pattern>[^{{}}]*))?\}}"
)

REQUIRED = {
    "sft": {"messages"},
    "preferences": {"chosen", "rejected"},
    "feedback": {"prompt", "completion", "label"},
    "prompts": {"prompt", "answer"},
    "pretrain": {"text"},
    "eval": {"question", "answer"},
}
"""Columns of each kind of set. `preferences` without `prompt` splits off the messages that both sides begin with."""
TRAINED = ("sft", "preferences", "feedback")
"""Kinds whose rows TRL's trainers learn from as they are written."""
PARTED = {"prompt", "completion"}
"""Instead of `messages`, in an `sft` set: of the prompt nothing is learnt, not even what an assistant says in it."""
TURNS = ("messages", "prompt", "chosen", "rejected", "completion")
"""Columns that hold messages, in whatever set."""
IMAGES = "images"
"""Column of a row's pictures, in the order in which the conversation shows them."""
VIDEO = "video"
"""Column of a row's clip, of which frames become its pictures."""
AUDIO = "audio"
"""Column of a row's sounds, in the order in which the conversation has them."""
MEDIA = (IMAGES, VIDEO, AUDIO)
"""Keys of a map by which a row has media; it has one kind of them."""
HONOURED_ELSEWHERE = {
    "tools", "functions", "documents", "chat_template_kwargs", "image", "images", "videos", "audio", "margin", "weight",
    "loss_weight", "sample_weight", "loss_mask", "assistant_masks", "completion_mask", "labels",
}  # fmt: skip
"""Columns by which TRL or another trainer changes what is learnt from a row. Nothing here looks at them."""


def kind_of(name: str) -> str:
    """Return the kind of a set: `eval` for `eval:sums`, else the name."""
    return name.partition(":")[0]


def patterns(template: Any) -> set[str]:
    """List the regular expressions that a template uses."""
    if isinstance(template, str):
        return {m["pattern"] for m in _FIELD.finditer(template) if m["pattern"] is not None}
    values = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return {p for value in values for p in patterns(value)}


def columns(template: Any, *, without_default: bool = False) -> set[str]:
    """List the columns that a template names; or those alone of which some place in it has no default."""
    if isinstance(template, str):
        named = [m for m in _FIELD.finditer(template) if m["column"]]
        return {m["column"] for m in named if not without_default or filters.default(m["filters"]) is None}
    values = template.values() if isinstance(template, dict) else template if isinstance(template, list) else ()
    return {c for value in values for c in columns(value, without_default=without_default)}


def required(set_name: str, row: Collection[str]) -> set[str]:
    """List the columns that a row (or map) of the set must have, by those that it has."""
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
        DataError: the set needs a column that the map does not make, the map makes one that has no place in the set,
            names one that the source lacks, or has a pattern without a group.
    """
    if lacking := sorted(required(set_name, template) - set(template)):
        raise DataError(f"{where}: a row of '{set_name}' needs {', '.join(lacking)}; add it to the map")
    if reserved := sorted({"id", "source"} & set(template)):
        raise DataError(f"{where}: {', '.join(reserved)} is set by the stage; choose another name")
    if len(media := [key for key in MEDIA if key in template]) > 1:
        both = " and ".join(f"'{key}'" for key in media)
        raise DataError(f"{where}: a row has pictures, a clip or sounds, and the map has {both}; take all but one out")
    own = required(set_name, template) | ({"prompt"} if kind_of(set_name) == "preferences" else set())
    if stray := sorted((set(TURNS) - own) & set(template)):
        shape = ", ".join(sorted(own))
        raise DataError(f"{where}: '{stray[0]}' has no place beside {shape}; take one of them out, or rename it")
    if kind_of(set_name) in TRAINED and (lost := sorted((HONOURED_ELSEWHERE - set(MEDIA)) & set(template))):
        raise DataError(
            f"{where}: nothing looks at '{lost[0]}' when '{set_name}' is learnt; take it out of the map, or rename it "
            f"where it is only to be kept"
        )
    _check_media(where, set_name, template)
    for pattern in sorted(patterns(template)):
        try:
            groups = re.compile(pattern).groups
        except re.error as e:
            raise DataError(f"{where}: the pattern {pattern!r} is no regular expression ({e})") from None
        if groups == 0:
            raise DataError(f"{where}: the pattern {pattern!r} has no group; put what is to be taken in parentheses")
    for column in sorted(columns(template, without_default=True) - known):
        raise DataError(f"{where}: no column '{column}'; the source has: {', '.join(sorted(known))}")


def _check_media(where: str, set_name: str, template: dict[str, Any]) -> None:
    """Check the keys of a map that name pictures, clips and sounds. Raises DataError."""
    for key, example in ((IMAGES, "picture"), (AUDIO, "clip")):
        names = template.get(key, "")
        if not isinstance(names, str) and not (
            isinstance(names, list) and names and all(isinstance(n, str) for n in names)
        ):
            raise DataError(f"{where}: '{key}' is {names!r}; expected names of columns, e.g. [\"{{{example}}}\"]")
    if VIDEO in template and not (isinstance(template[VIDEO], str) and template[VIDEO]):
        raise DataError(f"{where}: 'video' is {template[VIDEO]!r}; expected the name of a column, e.g. \"{{clip}}\"")
    if kind_of(set_name) == "pretrain" and not template.keys().isdisjoint(MEDIA):
        raise DataError(f"{where}: nothing looks at media in '{set_name}'; put the rows into an `sft` set")


def render(template: Any, row: dict[str, Any]) -> Any:
    """Fill a template from a row. Raises BadRow when the row lacks a column or a pattern does not match."""
    if isinstance(template, dict):
        return {key: render(value, row) for key, value in template.items()}
    if isinstance(template, list):
        return [render(value, row) for value in template]
    if not isinstance(template, str):
        return plain("the map", template)
    whole = _FIELD.fullmatch(template)
    if whole and whole["column"]:
        return _value(whole, row)
    return _FIELD.sub(lambda m: _inside(m["column"], _value(m, row)) if m["column"] else m.group()[0], template)


def _value(match: re.Match[str], row: dict[str, Any]) -> Any:
    column, pattern = match["column"], match["pattern"]
    if row.get(column) is None:
        if (instead := filters.default(match["filters"])) is not None:
            return instead
        raise BadRow(f"'{column}' is null" if column in row else f"no column '{column}'")
    value = filters.apply(match["filters"], column, plain(column, row[column]))
    if pattern is None:
        return value
    hit = re.search(pattern, _inside(column, value))
    if not hit or hit.group(1) is None:
        raise BadRow(f"'{column}' does not match {pattern!r}")
    return hit.group(1)


def _inside(column: str, value: Any) -> str:
    """Make a value part of a text. Only text and numbers: of the rest Python's spelling would be learnt."""
    if isinstance(value, bool | list | dict):
        raise BadRow(f"'{column}' is {type(value).__name__}, and the map puts it into a text")
    return str(value)


def validate(set_name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Make the row as it is written, without `id` and `source`. Raises BadRow with the reason."""
    kind = kind_of(set_name)
    needed = required(set_name, row)
    extra = {k: v for k, v in row.items() if k not in needed | {"prompt", "group"}}
    if kind == "pretrain":
        return {"text": text("text", row["text"]), **extra}
    if kind == "eval":
        return {"question": text("question", row["question"]), "answer": text("answer", row["answer"]), **extra}
    if kind == "prompts":
        return {"prompt": _prompt(row["prompt"]), "answer": text("answer", row["answer"]), **extra}
    if needed == PARTED:
        return {**_parted(row), **extra}
    if kind == "sft":
        return {"messages": _conversation(row["messages"]), **extra}
    if kind == "feedback":
        return {**_feedback(row), **extra}
    return {**_pair(row), **extra}


def unused(row: dict[str, Any]) -> set[str]:
    """List keys of a rendered row's messages that are neither kept nor known to change what is learnt."""
    candidates = (message for name in TURNS if isinstance(row.get(name), list) for message in row[name])
    return {key for m in candidates if isinstance(m, dict) for key in unknown_keys(m)}


def parts(row: dict[str, Any]) -> list[str]:
    """Return the texts of a row as written: contents of its messages, or its plain columns."""
    texts = [m["content"] for key in TURNS for m in row.get(key, ())]
    return texts + [row[key] for key in ("text", "question", "answer") if key in row]


def first_prompt(row: dict[str, Any]) -> str:
    """Find what identifies a row whatever set it is in: its first user message, its question, or its text."""
    for message in row.get("messages", row.get("prompt", ())):
        if message["role"] == "user":
            return str(message["content"])
    return str(row.get("question", row.get("text")))


def _alternating(name: str, messages: Turns, last: str) -> Turns:
    """Check that after an optional system message user and assistant take turns, ending with `last`."""
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
        raise BadRow(f"'{name}' does not alternate user and assistant: {', '.join(roles)}")
    if turns[-1] != last:
        raise BadRow(f"'{name}' ends with {turns[-1]}, not with {last}")
    return messages


def _conversation(value: Any) -> Turns:
    return weighed("messages", _alternating("messages", messages("messages", value), "assistant"))


def _prompt(value: Any) -> Turns:
    return context("prompt", _alternating("prompt", messages("prompt", value), "user"))


def _parted(row: dict[str, Any]) -> dict[str, Any]:
    prompt, completion = _prompt(row["prompt"]), messages("completion", row["completion"])
    _alternating("completion", [*prompt, *completion], "assistant")
    return {"prompt": prompt, "completion": weighed("completion", completion)}


def _feedback(row: dict[str, Any]) -> dict[str, Any]:
    sides, label = _parted(row), row["label"]
    if isinstance(label, str):  # a CSV holds nothing but text
        label = {"true": True, "false": False}.get(label.strip().lower(), label)
    if not isinstance(label, bool):
        raise BadRow(f"'label' is {label!r}, not true or false")
    return {"prompt": sides["prompt"], "completion": answer("completion", sides["completion"]), "label": label}


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = messages("chosen", row["chosen"]), messages("rejected", row["rejected"])
    if "prompt" in row:
        prompt = messages("prompt", row["prompt"])
    else:
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if _words(a) != _words(b)), None)
        if same is None:
            raise BadRow("chosen and rejected are equal")
        if same == 0:
            raise BadRow("chosen and rejected do not begin with the same prompt")
        context("rejected", rejected[:same])
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        _alternating(name, [*prompt, *side], "assistant")
    if [m["content"].split() for m in chosen] == [m["content"].split() for m in rejected]:
        raise BadRow("chosen and rejected are equal")
    prompt = context("prompt", _alternating("prompt", prompt, "user"))
    return {"prompt": prompt, "chosen": answer("chosen", chosen), "rejected": answer("rejected", rejected)}


def _words(message: dict[str, Any]) -> tuple[str, str]:
    return message["role"], message["content"]
