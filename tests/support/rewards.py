"""Graders with options and a row that they grade, rewards that a random model earns, and a clock for graders."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.rewards.composite import RewardSpec

WHERE = Path("params/tiny/grpo.yaml")
SUM = {
    "answer": "125",
    "question": "What is 58 + 67?",
    "instructions": [{"check": "only_number"}, {"check": "words_at_most", "count": 1}],
    "kind": "chain_sum",
}
SCHEMA = {"type": "object", "required": ["answer"], "properties": {"answer": {"const": 125}}}
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "correct": {},
    "numeric": {},
    "regex": {"pattern": r"\b125\.", "mode": "search"},
    "format": {"pattern": r"8\+7=15 .* so \d+\."},
    "json_schema": {"schema": SCHEMA},
    "instructions": {},
    "reasoning_gym": {"dataset": None, "partial": False},
    "sums": {"metric": "exact_match"},
    "steps": {},
    "overlong": {"max_characters": 40, "buffer_characters": 20},
    "length_at_most": {"characters": 40},
}


def specs(**graders: tuple[str, float, dict[str, Any]]) -> dict[str, RewardSpec]:
    return {name: RewardSpec(grader=g, weight=w, options=o) for name, (g, w, o) in graders.items()}


def fastest(call: Callable[..., Any], *args: Any) -> float:
    """Seconds of this thread, the best of three calls: a busy machine is no slow grader."""
    seconds = []
    for _ in range(3):
        start = time.thread_time()
        call(*args)
        seconds.append(time.thread_time() - start)
    return min(seconds)


LIKES_ODD = {"grader": "regex", "weight": 1.0, "options": {"pattern": "[13579]", "mode": "search"}}
"""A reward that a random model earns now and then."""


def graders(**specs: dict[str, Any]) -> dict[str, RewardSpec]:
    return {name: RewardSpec.model_validate(spec) for name, spec in specs.items()}
