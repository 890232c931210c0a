"""Calls of tools in a user's conversations: what becomes of them, counted, and whether the model's template agrees.

The data stage knows no model. It writes calls and results as text, in the way of Qwen's templates (`|turns`,
docs/data.md), and leaves the definitions of tools out. Whether the model's own template writes the same is tried here
on one call.
"""

import json
from collections.abc import Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from flows.authoring.model import Model
from flows.authoring.rows import Source
from tasks.ingestion.recognition.columns import named
from tasks.ingestion.recognition.formats import mapped
from tasks.ingestion.values import BadRow
from tasks.models.chat_template import templated
from tasks.stage.errors import DataError

CALL = "<tool_call>"
_NAME, _ARGUMENTS = "look_up", {"id": 7}


def notices(sources: Sequence[Source], model: Model) -> list[str]:
    """Say for each source how many rows call tools or define them, and what is learnt of that."""
    said = []
    for source in sources:
        rows = source.sample.rows
        column = named(source.sample.columns, "tools", "functions")
        defined = sum(_defines(row.get(column)) for row in rows) if column else 0
        called = sum(_calls(source, row) for row in rows)
        if called:
            said.append(
                f"{source.sample.name}: {called} of {len(rows)} rows looked at call tools, which become text "
                f"(`{CALL}` with JSON inside): {_agreement(model)}"
            )
        if defined:
            said.append(
                f"{source.sample.name}: {defined} of {len(rows)} rows looked at define tools in '{column}', which are "
                f"left out: the model is not told of them; where it has to choose, name them in a system message"
            )
    return said


def _defines(value: Any) -> bool:
    """Whether a value has definitions, as a list or as the JSON text of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return bool(value.strip())
    return bool(value)


def _calls(source: Source, row: dict[str, Any]) -> bool:
    """Whether a call stands in what a row becomes."""
    kind, (template, *_) = next(iter(source.format.maps.items()))
    try:
        return CALL in json.dumps(mapped(kind, template, row), ensure_ascii=False)
    except BadRow:
        return False


def _agreement(model: Model) -> str:
    """Say whether the model's template writes a call in these words too."""
    asked = [{"role": "user", "content": "7?"}]
    call = {"type": "function", "function": {"name": _NAME, "arguments": _ARGUMENTS}}
    text = f"{CALL}\n{json.dumps({'name': _NAME, 'arguments': _ARGUMENTS})}\n</tool_call>"
    ours = templated(model.tokenizer, [*asked, {"role": "assistant", "content": text}], tokenize=False)
    own_turn: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        own = templated(model.tokenizer, [*asked, own_turn], tokenize=False)
    except (DataError, TemplateError, TypeError, ValueError):
        own = ""
    if _NAME not in own:
        return "the model's chat template has no calls of its own, so this is how it learns to write them"
    if own == ours:
        return "the model's chat template writes them so too"
    return "the model's chat template writes them otherwise, and a program that reads its own way will not find them"
