"""The kto stage: it learns from single answers, each liked or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import kto
from tasks.stage import artifact
from tasks.stage.errors import DataError
from tests.support.rl import configured, moved

MakeRun = Callable[..., Any]


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
