"""The stages that learn from rewards and from single answers, on a real small model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import grpo, kto, rejection
from tasks.rewards import hacking
from tasks.rewards.composite import Rewards
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tests.support.rewards import LIKES_ODD, graders
from tests.support.rl import configured, grpo_config, moved, rejection_config

MakeRun = Callable[[str], Any]


@pytest.mark.parametrize("dataset", ["feedback", "preferences"])
def test_kto_learns_from_thumbs_and_from_pairs(
    make_run: MakeRun, chat_model: Path, sums_data: Path, dataset: str
) -> None:
    run = make_run("kto")
    trainer = {"learning_rate": 3e-3, "max_steps": 12, "beta": 0.5}
    kto.main(configured(kto, dataset, trainer), run, model=chat_model, data=sums_data)
    assert moved(chat_model, run.out)
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["liked"] == figures["disliked"] == (32 if dataset == "feedback" else 64)
    margins = [r["rewards/margins"] for r in artifact.read_jsonl(run.out / "curves.jsonl") if "rewards/margins" in r]
    assert margins[-1] > margins[0]


def test_thumbs_that_all_point_one_way_are_refused() -> None:
    with pytest.raises(DataError, match=r"data/feedback: all 3 labels are True; KTO needs liked and disliked"):
        kto.thumbs([True] * 3, Path("data/feedback"))


def test_grpo_moves_every_weight_and_reports_reward_and_kl(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("grpo")
    grpo.main(grpo_config(trainer={"max_steps": 6}), run, model=chat_model, data=sums_data)
    assert moved(chat_model, run.out)
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert {"reward", "rewards/odd/mean", "kl", "entropy", "completions/mean_length", "frac_reward_zero_std"} <= set(
        curve[-1]
    )
    report = artifact.read_json(run.out / "reward.json")
    odd = report["graders"]["odd"]
    assert (odd["weight"], odd["raised"], odd["trend"]) == (1.0, 0.0, report["trend"])
    assert report["gold"] == "odd"


def test_grpo_earns_what_is_paid_for(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("grpo")
    trainer = {"max_steps": 30, "learning_rate": 3e-3, "beta": 0.0, "per_device_train_batch_size": 32}
    grpo.main(grpo_config(trainer=trainer), run, model=chat_model, data=sums_data)
    rewards = [row["reward"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "reward" in row]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


def test_dynamic_sampling_replaces_groups_without_signal(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    kept = {}
    for rounds in (0, 4):
        run = make_run(f"grpo{rounds}")
        grpo.main(grpo_config(dynamic_sampling=rounds), run, model=chat_model, data=sums_data)
        kept[rounds] = artifact.read_jsonl(run.out / "curves.jsonl")
    assert "dynamic_sampling/replaced" not in kept[0][0]
    assert any(row.get("dynamic_sampling/replaced", 0) > 0 for row in kept[4])
    before = sum(row["frac_reward_zero_std"] for row in kept[0] if "reward" in row)
    after = sum(row["dynamic_sampling/still_empty"] for row in kept[4] if "reward" in row)
    assert after < before


def test_replaced_groups_are_padded_as_the_trainer_pads() -> None:
    from tasks.rl.grpo import _same_length

    short, long = torch.tensor([[5, 6]]), torch.tensor([[1, 2, 3]])
    assert _same_length(short, long, "prompt_ids", 9)[0].tolist() == [[9, 5, 6]]
    assert _same_length(short, long, "completion_ids", 9)[0].tolist() == [[5, 6, 9]]
    assert _same_length(short, long, "completion_mask", 9)[0].tolist() == [[5, 6, 0]]


def test_a_curriculum_puts_the_easy_prompts_first() -> None:
    from datasets import Dataset

    prompts = Dataset.from_list([{"prompt": str(i), "digits": i % 4} for i in range(40)])
    drawn = grpo.ordered(prompts, "digits", 20, 0, Path("params/x/grpo.yaml"))["digits"]
    assert list(drawn) == sorted(drawn)
    assert set(drawn) == {0, 1, 2, 3}, "drawn from all, and not the easiest only"
    with pytest.raises(ConfigError, match=r"params/x/grpo.yaml: curriculum is 'digit', and the prompts have"):
        grpo.ordered(prompts, "digit", 20, 0, Path("params/x/grpo.yaml"))


def test_an_unknown_gold_is_named(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"gold is 'od', which is no grader; did you mean 'odd'\?"):
        grpo.main(grpo_config(gold="od"), make_run("grpo"), model=chat_model, data=sums_data)


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


def series(*values: float) -> list[dict[str, Any]]:
    return [{"step": i + 1, "reward": v} for i, v in enumerate(values)]


def test_trend_is_the_least_squares_line() -> None:
    line = hacking.trend(series(1.0, 2.1, 2.9, 4.0), "reward")
    assert line is not None
    assert line["start"] == pytest.approx(1.03)
    assert line["end"] == pytest.approx(3.97)
    assert line["t"] > 10
    assert hacking.trend(series(1.0, 2.0, 3.0), "reward") is None
    flat = hacking.trend(series(1.0, 1.0, 1.0, 1.0), "reward")
    assert flat is not None
    assert flat["t"] == 0


def test_a_rising_reward_with_a_falling_gold_metric_is_flagged(make_run: MakeRun) -> None:
    run = make_run("ppo")
    rewards = Rewards(graders(odd=LIKES_ODD | {"weight": 0.0}), Path("params/test.yaml"))
    for gold, flagged in ((-1, True), (1, False)):
        curve = [{"step": i, "reward": 0.1 * i, "rewards/odd/mean": 0.5 + gold * 0.01 * i, "kl": 0.2} for i in range(8)]
        artifact.write_jsonl(run.out / "curves.jsonl", curve)
        hacking.write_rl_report(run, rewards, "odd")
        report = artifact.read_json(run.out / "reward.json")
        assert report["hacked"] is flagged
        assert report["kl"] == 0.2


def test_a_grader_that_raises_is_reported_and_ends_nothing(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("grpo")
    lost = {"grader": "instructions", "weight": 1.0, "options": {}}  # these prompts have no instructions
    config = grpo_config(graders=graders(odd=LIKES_ODD, lost=lost), trainer={"max_steps": 2})
    grpo.main(config, run, model=chat_model, data=sums_data)
    assert artifact.read_json(run.out / "reward.json")["graders"]["lost"]["raised"] == 1.0
