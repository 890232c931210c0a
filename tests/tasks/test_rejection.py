"""The rejection stage: rounds of answers that graders keep, hints, replay, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import rejection
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.rewards import graders
from tests.support.rl import moved, rejection_config

MakeRun = Callable[..., Any]


def test_expert_iteration_learns_from_what_the_grader_keeps(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("rft")
    rejection.main(rejection_config(replay={"sft": 8}), run, model=chat_model, data=sums_data)
    assert moved(chat_model, run.out)
    rounds = artifact.read_json(run.out / "rounds.json")["rounds"]
    assert [row["round"] for row in rounds] == [1, 2]
    for number, row in enumerate(rounds):
        rows = artifact.read_jsonl(run.checkpoints / f"round-{number}" / "rows.jsonl")
        assert len(rows) == row["kept"] > 0
        assert all(any(c in "13579" for c in r["messages"][-1]["content"]) for r in rows)
        assert len({json.dumps(r) for r in rows}) == len(rows), "the same answer is learnt once"
    steps = [row["step"] for row in artifact.read_jsonl(run.out / "curves.jsonl")]
    assert steps == sorted(steps)
    assert steps[-1] == 8


def test_a_finished_round_is_not_done_again(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("rft")
    rejection.main(rejection_config(rounds=1), run, model=chat_model, data=sums_data)
    made = run.checkpoints / "round-0" / "model" / "model.safetensors"
    before = made.stat().st_mtime_ns
    again = make_run("again")
    again.checkpoints = run.checkpoints
    rejection.main(rejection_config(), again, model=chat_model, data=sums_data)
    assert made.stat().st_mtime_ns == before
    assert len(artifact.read_json(again.out / "rounds.json")["rounds"]) == 2


def test_star_asks_again_with_a_hint_and_learns_without_it(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("star")
    config = rejection_config(rounds=1, restart=True, hint="{question} It is {answer}.", sampling={
        "samples_per_prompt": 2, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4, "batch_size": 24,
    })  # fmt: skip
    rejection.main(config, run, model=chat_model, data=sums_data)
    counts = artifact.read_json(run.out / "rounds.json")["rounds"][0]
    assert counts["rationalised"] > 0
    rows = artifact.read_jsonl(run.checkpoints / "round-0" / "rows.jsonl")
    assert all(" It is " not in row["messages"][0]["content"] for row in rows)


def test_no_answer_that_reaches_the_bar_is_an_error(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    never = {"grader": "regex", "weight": 1.0, "options": {"pattern": "no such answer", "mode": "search"}}
    with pytest.raises(DataError, match=r"round 1: none of 48 sampled answers reached accept = 1; ask easier prompts"):
        rejection.main(
            rejection_config(graders=graders(never=never)), make_run("rft"), model=chat_model, data=sums_data
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hint": "{question} \\boxed{x}"}, r"params/test.yaml: hint: KeyError\('x'\); it may name"),
        ({"replay": {"sft": 500}}, r"params/test.yaml: replay.sft is 500, but the set has 64 rows"),
    ],
)
def test_mistakes_are_found_before_anything_is_sampled(
    make_run: MakeRun, chat_model: Path, sums_data: Path, settings: dict[str, Any], said: str
) -> None:
    run = make_run("rft")
    run.params_file = Path("params/test.yaml")
    with pytest.raises(ConfigError, match=said):
        rejection.main(rejection_config(**settings), run, model=chat_model, data=sums_data)
    assert not run.checkpoints.exists()
