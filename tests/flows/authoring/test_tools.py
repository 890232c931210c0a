"""Calls of tools are counted, and compared with how the model's own template writes them."""

from pathlib import Path
from typing import Any

import pytest

from flows.authoring import command, model, tools
from tests.support import data_stage, own_data

QWEN = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{%- for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def home(workspace: Path, chat_model: Path) -> Path:
    own_data.prepare(workspace, chat_model)
    call = {"type": "function", "function": {"name": "level", "arguments": '{"of": "the tank"}'}}
    definition = {"type": "function", "function": {"name": "level", "parameters": {"type": "object", "properties": {}}}}

    def row(number: int) -> dict[str, Any]:
        calls = [
            {"role": "assistant", "content": None, "tool_calls": [call | {"id": "1"}]},
            {"role": "tool", "tool_call_id": "1", "content": f"{number} litres"},
        ]
        turns = [own_data.user(f"How full is tank {number}?"), *(calls if number < 12 else [])]
        turns.append(own_data.assistant(f"{number} litres are left."))
        return {"messages": turns, "tools": [definition] if number < 20 else None}

    data_stage.write_rows(workspace / "data", [row(number) for number in range(60)], "tools.jsonl")
    return workspace


def found() -> list[str]:
    return tools.notices(command._sources(["data/tools.jsonl"], "CC0-1.0"), model.look("models/llama", "CC0-1.0"))


def test_calls_and_definitions_are_counted_and_named(home: Path) -> None:
    called, defined = found()
    assert "12 of 60 rows looked at call tools, which become text" in called
    assert "has no calls of its own" in called
    assert "20 of 60 rows looked at define tools in 'tools', which are left out" in defined


@pytest.mark.parametrize(
    ("written", "said"), [("<tool_call>", "writes them so too"), ("<call>", "writes them otherwise")]
)
def test_the_template_of_the_model_agrees_or_does_not(home: Path, written: str, said: str) -> None:
    (home / "models/llama/chat_template.jinja").write_text(QWEN.replace("<tool_call>", written))
    assert said in found()[0]


def test_rows_without_tools_say_nothing(home: Path) -> None:
    sources = command._sources(["data/tickets.jsonl"], "CC0-1.0")
    assert tools.notices(sources, model.look("models/llama", "CC0-1.0")) == []


def test_a_new_recipe_says_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main("called", "models/llama", ["data/tools.jsonl"], "sft", None, "CC0-1.0", yes=True)
    assert "rows looked at call tools" in capsys.readouterr().out
