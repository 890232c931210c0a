"""The grpo stage: what it learns from rewards, its curriculum, and a judge among its graders."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import grpo
from tasks.judges.protocol import CONSTITUTION as KEPT
from tasks.rewards.composite import RewardSpec
from tasks.stage import artifact
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support.judges import LOCAL, Answer, endpoint, said, serving
from tests.support.pictures import TOKENS, write_set
from tests.support.rewards import LIKES_ODD, graders
from tests.support.rl import grpo_config, moved, moved_tensors

pytestmark = pytest.mark.usefixtures("workspace", "no_proxy")
MakeRun = Callable[..., Any]


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
    noise = math.sqrt(2 * 0.25 / (5 * 32))  # largest standard error of the difference of two shares of 160 answers
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 3 * noise


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


def test_a_grader_that_raises_is_reported_and_ends_nothing(
    make_run: MakeRun, chat_model: Path, sums_data: Path
) -> None:
    run = make_run("grpo")
    lost = {"grader": "instructions", "weight": 1.0, "options": {}}  # these prompts have no instructions
    config = grpo_config(graders=graders(odd=LIKES_ODD, lost=lost), trainer={"max_steps": 2})
    grpo.main(config, run, model=chat_model, data=sums_data)
    assert artifact.read_json(run.out / "reward.json")["graders"]["lost"]["raised"] == 1.0


def test_grpo_learns_what_a_judge_pays_for(make_run: MakeRun, chat_model: Path, judge: Path, sums_data: Path) -> None:
    """The judge likes short answers; half of the reward is another grader's."""

    def brief(number: int, body: dict[str, Any]) -> Answer:
        a, b = body["messages"][0]["content"].removesuffix(" Which is better?").split(" A: ", 1)[1].split(" B: ", 1)
        return said("A" if len(a) <= len(b) else "B")

    run = make_run("grpo")
    with serving(brief) as server:
        options = {"reference": "answer", "judge": LOCAL | endpoint(server.url)}
        graders = {
            "odd": RewardSpec.model_validate(LIKES_ODD | {"weight": 0.5}),
            "liked": RewardSpec(grader="model_judge", weight=0.5, options=options),
        }
        config = grpo_config(graders=graders, trainer={"max_steps": 4})
        grpo.main(config, run, model=chat_model, data=sums_data, judge=judge)
        assert server.bodies
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    for row in [row for row in curve if "reward" in row]:
        halves = row["rewards/odd/mean"] / 2 + row["rewards/liked/mean"] / 2
        assert row["reward"] == pytest.approx(halves, abs=1e-5)
    report = artifact.read_json(run.out / "reward.json")["graders"]["liked"]
    assert (report["weight"], report["raised"]) == (0.5, 0.0)


def test_the_judge_is_a_verified_input_of_the_stage(
    workspace: Path, chat_model: Path, judge: Path, sums_data: Path
) -> None:
    options = {"reference": "answer", "judge": LOCAL}
    values = grpo_config(
        graders={"liked": RewardSpec(grader="model_judge", weight=1.0, options=options)},
        gold="liked",
        trainer={"max_steps": 1, "save_steps": 1},
    ).model_dump()
    params = workspace / "grpo.yaml"
    with params.open("w") as f:
        YAML(typ="safe").dump(values | {"threads": 1}, f)
    mine = workspace / "judge"
    shutil.copytree(judge, mine)

    def run() -> "subprocess.CompletedProcess[str]":
        inputs = ["--model", str(chat_model), "--data", str(sums_data), "--judge", str(mine), "--out", "out"]
        command = [sys.executable, "-m", "tasks.grpo", str(params), *inputs]
        environment = os.environ | {"PYTHONPATH": str(REPO)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    named = artifact.verify(Path("out")).inputs
    assert set(named) == {"model", "data", "judge"}
    assert named["judge"] == artifact.read_manifest(judge).digest
    (mine / KEPT).write_text((mine / KEPT).read_text().replace("Right", "Wrong"))
    refused = run()
    assert refused.returncode == 2
    assert f"{mine / KEPT}: corrupted" in refused.stderr


def test_answers_to_pictures_are_learnt_from(make_run: MakeRun, seeing_model: Path, pictures_data: Path) -> None:
    run = make_run("grpo")
    config = grpo_config(trainer={"max_steps": 3, "learning_rate": 3e-3}, curriculum="kind")
    grpo.main(config, run, model=seeing_model, data=pictures_data)
    changed = moved_tensors(seeing_model, run.out)
    assert {"multi_modal_projector", "language_model"} <= {name.split(".")[1] for name in changed}
    assert not any("running_" in name for name in changed)
    kl = [row["kl"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "kl" in row]
    assert kl[0] == pytest.approx(0, abs=1e-6), "the reference is the parent"
    assert kl[-1] > 1e-6


def test_the_audit_of_prompts_counts_their_pictures(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, make_artifact: Any, workspace: Path
) -> None:
    """A prompt whose pictures leave no room for an answer is left out; its words alone would."""
    row = artifact.read_jsonl(pictures_data / "prompts" / "train.jsonl")[0]
    made = [{**row, "images": row["images"] * count} for count in (1, 15, 1, 1, 1, 1, 1)]
    data = write_set(workspace / "data", pictures_data, make_artifact, prompts=made)
    run = make_run("grpo")
    config = grpo_config(trainer={"max_steps": 3}).model_copy(update={"max_left_out": 0.5})
    grpo.main(config, run, model=seeing_model, data=data)
    record = artifact.read_json(run.out / "audit.json")["train"]
    assert (record["rows"], record["left_out"], record["left_out_ids"]) == (6, 1, ["r1"])
    words = record["longest"]["tokens"] - 15 * TOKENS
    assert 10 < words < 256 - 8


def test_groups_of_prompts_with_pictures_are_not_replaced(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path
) -> None:
    with pytest.raises(ConfigError, match="dynamic_sampling replaces no groups of prompts with pictures; set it to 0"):
        grpo.main(grpo_config(dynamic_sampling=1), make_run("grpo"), model=seeing_model, data=pictures_data)


def test_a_text_model_given_prompts_with_pictures_is_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path
) -> None:
    with pytest.raises(ConfigError, match=r"the rows of .*prompts/train.jsonl have pictures, and the model takes none"):
        grpo.main(grpo_config(), make_run("grpo"), model=chat_model, data=pictures_data)


def test_a_model_that_sees_answers_prompts_of_words(make_run: MakeRun, seeing_model: Path, sums_data: Path) -> None:
    run = make_run("grpo")
    config = grpo_config(dynamic_sampling=1, trainer={"max_steps": 3})
    grpo.main(config, run, model=seeing_model, data=sums_data)
    changed = moved_tensors(seeing_model, run.out)
    assert changed and all("language_model" in name for name in changed)
