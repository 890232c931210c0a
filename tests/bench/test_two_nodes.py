"""Two locks are compared whole: an input, a setting, an output alone, and a stage that the other lock lacks."""

from typing import Any

from bench import two_nodes


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "cmd": "python -m tasks.sft",
        "deps": [{"path": "artifacts/data", "md5": "a"}, {"path": "artifacts/code/sft.json", "md5": "b"}],
        "outs": [{"path": "artifacts/models/sft", "md5": "c"}],
    } | changes


def test_every_difference_is_named() -> None:
    ran = {
        "equal": entry(),
        "bytes": entry(outs=[{"path": "artifacts/models/sft", "md5": "d"}]),
        "input": entry(deps=[{"path": "artifacts/data", "md5": "a"}, {"path": "artifacts/code/sft.json", "md5": "x"}]),
        "command": entry(cmd="python -m tasks.dpo"),
        "new": entry(),
    }
    reference = {name: entry() for name in ("equal", "bytes", "input", "command", "more")}
    assert two_nodes.differences(ran, reference) == {
        "bytes": "output alone: the same stage gave other bytes",
        "input": "input artifacts/code/sft.json; output equal",
        "command": "cmd; output equal",
        "new": "not in the other lock",
    }


def test_the_main_line_is_that_of_the_makefile() -> None:
    assert "evaluate@base" in two_nodes._main_line()
