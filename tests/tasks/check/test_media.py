"""Models that see or hear, before anything runs: architectures, controls, columns, rates and sections without use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.check import files, media, questions
from tasks.check import recipe as recipe_check
from tasks.stage import blocks, dag, recipe
from tasks.stage.config import read_yaml
from tests.support.small_recipe import write

TINY = Path("params/tiny")
Change = Callable[[dict[str, Any]], object]


def change(name: str, by: Change) -> Path:
    """Change a file of the recipe `tiny` in place."""
    path = TINY / f"{name}.yaml"
    values = read_yaml(path)
    by(values)
    write(path, values)
    return path


def under_check() -> files.Recipe:
    """The recipe as it is now, each of whose files fits its stage."""
    graph = recipe.read(TINY / recipe.FILE)
    found, wrong = files.load_all(graph, dag.files(graph, blocks.read()))
    assert wrong == []
    return found


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        ("sight", lambda v: v["architecture"].update(act="gleu"), "architecture.act is 'gleu'; did you mean 'gelu'?"),
        ("hearing", lambda v: v["architecture"].update(act="rellu"), "architecture.act is 'rellu'; did you mean 'relu"),
        ("sight", lambda v: v["architecture"]["vision"].update(model_type="resnett"), "architecture.vision: "),
        (
            "sight",
            lambda v: v["architecture"]["vision"].update(depth=[1]),
            "unknown key 'architecture.vision.depth'; did you mean 'depths'? (resnet)",
        ),
        ("sight", lambda v: v["architecture"]["vision"].update(hidden_sizes="wide"), "architecture.vision: "),
        (
            "hearing",
            lambda v: v["architecture"]["audio"].update(hidden=128),
            "unknown key 'architecture.audio.hidden'; did you mean 'hidden_act'?",
        ),
        ("hearing", lambda v: v["architecture"]["features"].update(hop=333), "choose the hop so that they are a multi"),
        (
            "hearing",
            lambda v: v["architecture"].update(encoder="zai-org/GLM-ASR-Nano-2512"),
            "architecture.encoder brings `audio` and `features`; set both to null",
        ),
    ],
)
def test_an_architecture_that_transformers_does_not_know_is_named(
    recipes: Path, name: str, by: Change, said: str
) -> None:
    path = change(name, by)
    (error,) = media.check_architectures(under_check())
    assert error.startswith(f"{path}: ") and said in error


@pytest.mark.parametrize(
    ("name", "by", "said"),
    [
        (
            "evaluate_spoken",
            lambda v: v["tasks"][0].update(controls=["black"]),
            "tasks.0.controls names 'black', which is none of sounds, and these are what 'eval:transcripts' in "
            "params/tiny/spoken.yaml has; take of noise, silence, other",
        ),
        (
            "evaluate_pictures",
            lambda v: v["tasks"][1].update(controls=["noise", "silence"]),
            "tasks.1.controls names 'silence', which is none of pictures",
        ),
        (
            "evaluate_pictures",
            lambda v: v["tasks"][0].update(controls=["reversed"]),
            "have no column 'reversed', the answer that is then right; add it to the map",
        ),
        (
            "evaluate",
            lambda v: v["tasks"][0].update(controls=["noise"]),
            "show nothing that could be replaced; drop `controls`",
        ),
        (
            "evaluate_pictures",
            lambda v: v["tasks"][0].update(group_by=["kid"]),
            "tasks.0.group_by names 'kid', and rows of 'eval:digits' in params/tiny/pictures.yaml have no such column; "
            "did you mean 'kind'?; add it to the map",
        ),
        ("evaluate_spoken", lambda v: v["tasks"][0].update(group_by=["group"]), "group_by names 'group'"),
    ],
)
def test_questions_that_cannot_be_asked_are_named(recipes: Path, name: str, by: Change, said: str) -> None:
    path = change(name, by)
    (error,) = questions.check_questions(under_check())
    assert error.startswith(f"{path}: tasks.") and said in error


def test_a_rate_that_is_not_the_models_is_named_once(recipes: Path) -> None:
    assert list(media.other_rates(under_check())) == []
    change("spoken", lambda v: v["sounds"].update(sampling_rate=8000))
    (said,) = media.other_rates(under_check())
    assert said.startswith(
        "params/tiny/spoken.yaml: sounds.sampling_rate is 8000 Hz, and params/tiny/hearing.yaml has "
        "architecture.features.sampling_rate 16000: the model hears them without the upper part of their band"
    )
    change("spoken", lambda v: v["sounds"].update(sampling_rate=48000))
    (said,) = media.other_rates(under_check())
    assert "has them resampled each time; write the same rate in both" in said


def test_a_section_that_nothing_looks_at_is_named(recipes: Path) -> None:
    assert list(media.unused_sections(under_check())) == []
    bounds = read_yaml(TINY / "pictures.yaml")["pictures"]
    change("data", lambda v: v.update(pictures=bounds))
    change("pictures", lambda v: v.update(videos={"fps": 2, "max_frames": 16}))
    assert list(media.unused_sections(under_check())) == [
        "params/tiny/data.yaml: pictures: no set has pictures, so nothing looks at this; a map names them in "
        "`images` or `video`",
        "params/tiny/pictures.yaml: videos: no set has clips, so nothing looks at this; a map names them in `video`",
    ]


def test_the_check_of_a_recipe_asks_for_all_of_it(recipes: Path, caplog: pytest.LogCaptureFixture) -> None:
    change("spoken", lambda v: v["sounds"].update(sampling_rate=8000))
    change("pictures", lambda v: v.update(videos={"fps": 2, "max_frames": 16}))
    path = change("evaluate_pictures", lambda v: v["tasks"][0].update(group_by=["kid"]))
    (error,) = recipe_check.check(TINY)
    assert error.startswith(f"{path}: tasks.0.group_by")
    assert "spoken.yaml: sounds.sampling_rate is 8000 Hz" in caplog.text
    assert "pictures.yaml: videos: no set has clips" in caplog.text
    other = change("hearing", lambda v: v["architecture"].update(act="rellu"))
    asked, heard = sorted(recipe_check.check(TINY))
    assert asked.startswith(f"{path}: tasks.0.group_by"), "both at once"
    assert heard.startswith(f"{other}: architecture.act is 'rellu'")
