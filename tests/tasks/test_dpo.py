"""The dpo stage: it comes to prefer the chosen answers, to questions about pictures too."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import dpo
from tasks.stage import artifact
from tasks.stage.errors import ConfigError
from tests.support import pictures
from tests.support.rl import moved_tensors
from tests.support.supervised import configured

MakeRun = Callable[..., Any]


def test_dpo_prefers_the_chosen_answers(make_run: MakeRun, chat_model: Path, sums_data: Path) -> None:
    run = make_run("dpo")
    losses: dict[str, Any] = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0], "max_steps": 16}
    dpo.main(configured(dpo, beta=0.5, **losses), run, model=chat_model, data=sums_data)
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["eval_rewards/margins"] > 0
    assert figures["eval_rewards/accuracies"] > 0.5
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert any("rewards/margins" in row for row in curve)


@pytest.mark.parametrize("peft", [None, {"r": 4, "target_modules": r".*language_model.*(q|v)_proj"}])
def test_pairs_of_pictures_are_learnt_from_the_model_it_starts_from(
    make_run: MakeRun, seeing_model: Path, pictures_data: Path, peft: dict[str, Any] | None
) -> None:
    run = make_run("dpo")
    config = pictures.configured(dpo, peft, max_steps=3, beta=0.5, learning_rate=3e-3)
    dpo.main(config, run, model=seeing_model, data=pictures_data)
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4), "the reference is the parent: before a step, no margin"
    assert losses[-1] < losses[0] - 0.01
    changed = moved_tensors(seeing_model, run.out)
    assert not any("running_" in name for name in changed)
    assert any("language_model" in name for name in changed)
    assert any("projector" in name for name in changed) == (peft is None)
    assert artifact.read_json(run.out / "audit.json")["train"]["longest"]["tokens"] > pictures.TOKENS + 10


def test_a_model_that_sees_learns_from_pairs_of_words(make_run: MakeRun, seeing_model: Path, sums_data: Path) -> None:
    run = make_run("dpo")
    dpo.main(configured(dpo, max_steps=2), run, model=seeing_model, data=sums_data)
    changed = moved_tensors(seeing_model, run.out)
    assert changed and all("language_model" in name for name in changed)


def test_a_text_model_given_pairs_of_pictures_is_refused(
    make_run: MakeRun, chat_model: Path, pictures_data: Path
) -> None:
    message = r"the rows of .*preferences/train.jsonl have pictures, and the model takes none"
    with pytest.raises(ConfigError, match=message):
        dpo.main(pictures.configured(dpo), make_run("dpo"), model=chat_model, data=pictures_data)
