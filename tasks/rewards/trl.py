"""The graders of a recipe as the reward functions that TRL's trainers call."""

from collections.abc import Callable, Sequence
from typing import Any

from tasks.rewards.composite import Rewards


def reward_functions(rewards: Rewards) -> list[Callable[..., list[float]]]:
    """Make one function a grader, called as TRL calls reward functions and named as the grader is in the recipe."""
    return [_reward_function(rewards, name) for name in rewards.names]


def _reward_function(rewards: Rewards, name: str) -> Callable[..., list[float]]:
    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        count = len(completions)
        row_columns = {k: v for k, v in columns.items() if isinstance(v, list) and len(v) == count}
        rows = [
            {"prompt": prompts[i], "question": _text(prompts[i]), **{k: v[i] for k, v in row_columns.items()}}
            for i in range(count)
        ]
        before = rewards.failures[name]
        scores = rewards.score(name, [_text(completion) for completion in completions], rows)
        columns["log_metric"](f"raised/{name}", (rewards.failures[name] - before) / count)
        return scores

    function.__name__ = name
    return function


def _text(turns: Any) -> str:
    """Take the last message of a conversation, or the text itself."""
    return str(turns if isinstance(turns, str) else turns[-1]["content"])
