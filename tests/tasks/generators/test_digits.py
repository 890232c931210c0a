"""Drawn digits: the answers are right, what is tested is in no picture of the training, and a seed is a drawing."""

import io
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from tasks.data import Config
from tasks.generators import digits
from tasks.ingestion.sources import GeneratorSource
from tasks.multimodal.images import Archive
from tasks.stage.config import load
from tests.conftest import REPO
from tests.support.data_stage import read, report, run_file

KINDS: list[Any] = list(get_args(digits.Kind))
SHARE = 0.165


def questions(
    part: Any = "train", kinds: list[Any] = KINDS, seed: int = 1, courteous: float = 0.3
) -> list[dict[str, Any]]:
    return list(digits.questions(part, kinds, 1, seed, SHARE, courteous))


def pixels(row: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(row["picture"])))


def shown(row: dict[str, Any]) -> list[int]:
    """The numbers of the digits in a row's picture, by its group."""
    return [int(number) for number in row["group"].split()[1:]]


def test_every_answer_is_right() -> None:
    targets = digits._digits()[1]
    for row in questions():
        values = [int(targets[number]) for number in shown(row)]
        assert row["label"] == " ".join(map(str, values))
        right = {
            "which": str(values[0]),
            "parity": "even" if values[0] in (0, 2, 4, 6, 8) else "odd",
            "larger": "yes" if values[0] in (6, 7, 8, 9) else "no",
            "sum": str(sum(values)),
        }[row["kind"]]
        assert row["answer"] == right
        assert row["reply"].removesuffix(f" {digits.CLOSING}").removesuffix(".").split()[-1] == right
        assert row["question"] in digits.QUESTIONS[row["kind"]]


def test_a_picture_shows_its_digits_each_whole_and_in_its_place() -> None:
    for row in questions()[::50]:
        picture = pixels(row)
        assert picture.shape == (32, 32, 3)
        lit = [half.any(axis=(1, 2)).sum() for half in (picture[:, :16], picture[:, 16:])]
        assert sum(count > 0 for count in lit) == len(shown(row)) == (2 if row["kind"] == "sum" else 1)
        assert max(lit) <= 16
        for number in shown(row):
            drawing = Image.fromarray(digits._digits()[0][number]).resize((16, 16), Image.Resampling.BILINEAR)
            needle = np.asarray(drawing)
            windows = np.lib.stride_tricks.sliding_window_view(picture[:, :, 0], (16, 16))[:, ::16]
            assert (windows == needle).all(axis=(2, 3)).any()


def test_what_is_tested_is_in_no_picture_of_the_training() -> None:
    trained = {number for row in questions("train") for number in shown(row)}
    tested = {number for row in questions("test", seed=7) for number in shown(row)}
    assert trained.isdisjoint(tested)
    assert trained | tested == set(range(1797))
    assert len(tested) / 1797 == pytest.approx(SHARE, abs=0.03)
    assert set(digits.numbers("test", 0.0, 0)) == set()
    assert set(digits.numbers("train", 0.3, 0)) < set(digits.numbers("train", 0.1, 0)), "a larger share only takes more"


def test_a_seed_is_a_drawing_and_rounds_draw_elsewhere() -> None:
    first = questions(kinds=["which"])
    assert first == questions(kinds=["which"])
    assert [row["picture"] for row in first] != [row["picture"] for row in questions(kinds=["which"], seed=2)]
    rows = list(digits.questions("test", ["which"], 4, 1, SHARE, 0.0))
    assert set(Counter(row["group"] for row in rows).values()) == {4}
    assert len({row["picture"] for row in rows}) > 3 * len({row["group"] for row in rows})


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_as_many_replies_are_courteous_as_asked(share: float) -> None:
    rows = questions(courteous=share)
    courteous = sum(row["reply"].endswith(digits.CLOSING) for row in rows) / len(rows)
    assert courteous == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_rejected_reply_is_wrong_or_curt(share: float) -> None:
    rows = list(digits.preferences("train", KINDS, 1, 1, SHARE, share))
    wrong = 0
    for row in rows:
        assert row["chosen"] == f"{row['reply']} {digits.CLOSING}"
        assert row["rejected"] != row["chosen"]
        if row["rejected"] != row["reply"]:
            wrong += 1
            said = row["rejected"].removesuffix(f" {digits.CLOSING}").removesuffix(".").split()[-1]
            assert said != row["answer"]
    assert (wrong > 0) == (share > 0)
    assert (wrong == len(rows)) == (share == 1)


def test_the_recipes_options_are_the_generators() -> None:
    config = load(REPO / "params/tiny/pictures.yaml", Config)
    assert {source.generator for source in config.sources.values() if isinstance(source, GeneratorSource)} == {
        "digits.questions",
        "digits.preferences",
    }


@pytest.mark.slow
def test_the_recipes_data_keep_the_tests_digits_apart(tmp_path: Path) -> None:
    out = run_file(REPO / "params/tiny/pictures.yaml", tmp_path / "out")
    trained = {
        name
        for path in out.glob("*/*.jsonl")
        if path.parent.name != "eval"
        for row in read(path)
        for name in row["images"]
    }
    tested = {name for path in out.glob("eval/*.jsonl") for row in read(path) for name in row["images"]}
    assert len(trained) > 5_000
    assert len(tested) > 500
    assert trained.isdisjoint(tested)
    assert report(out)["pictures"]["files"] == len(trained | tested)
    assert report(out)["rejects"] == 0
    archive = Archive(out)
    assert {archive.size(name) for name in tested} == {(32, 32)}
