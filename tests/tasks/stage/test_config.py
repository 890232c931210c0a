"""Recipe files: what is wrong is said with file, key and the nearest right one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from dvc.utils.serialize import load_yaml
from pydantic import Tag

from tasks.stage.config import StageConfig, Strict, digest, load, one_of, read_yaml, suggest
from tasks.stage.errors import ConfigError

REPO = Path(__file__).parents[3]


class Inner(Strict):
    beta: float


class Outer(StageConfig):
    steps: int
    inner: Inner
    many: list[Inner]


GOOD = "seed: 1\nthreads: 2\nsteps: 3\ninner: {beta: 1e-4}\nmany: [{beta: 1}]\n"


def error(tmp_path: Path, text: str) -> str:
    path = tmp_path / "sft.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, Outer)
    return str(caught.value).replace(str(tmp_path), "params")


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    assert load(tmp_path / "a.yaml", Outer).inner.beta == 1e-4


YAMLS = sorted(path.relative_to(REPO) for path in (REPO / "params").rglob("*.yaml") if not path.is_symlink())


def test_there_are_files_of_every_recipe() -> None:
    recipes = {path.name for path in (REPO / "params").iterdir() if path.is_dir()}
    assert {path.parts[1] for path in YAMLS} == {*recipes, "report.yaml"} and len(YAMLS) > 10 * len(recipes)


@pytest.mark.parametrize("path", YAMLS, ids=str)
def test_every_file_of_every_recipe_is_what_dvc_reads(path: Path) -> None:
    """DVC takes the values out of the files itself, and refuses what another parser lets pass."""
    assert read_yaml(REPO / path) == load_yaml(REPO / path)


def test_layout_and_comments_do_not_change_the_digest(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("# x\n" + "\n".join(reversed(GOOD.splitlines())))
    a, b = load(tmp_path / "a.yaml", Outer), load(tmp_path / "b.yaml", Outer)
    assert digest(a) == digest(b)
    assert digest(a) != digest(a.model_copy(update={"steps": 4}))


def test_misspelt_key(tmp_path: Path) -> None:
    message = error(tmp_path, GOOD.replace("steps", "stepps"))
    assert "params/sft.yaml: unknown key 'stepps'; did you mean 'steps'?" in message
    assert "params/sft.yaml: missing key 'steps'" in message


def test_misspelt_key_in_a_section(tmp_path: Path) -> None:
    assert "unknown key 'inner.betta'; did you mean 'beta'?" in error(tmp_path, GOOD.replace("{beta", "{betta"))


def test_wrong_type(tmp_path: Path) -> None:
    assert "'steps' is 'many'" in error(tmp_path, GOOD.replace("steps: 3", "steps: many"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping of keys to values, found nothing"),
        ("- a\n", "expected a mapping"),
        ("a: [1\nb: 2", "params/sft.yaml:2:"),
        ("a: 1\na: 2\n", 'found duplicate key "a"'),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, said: str) -> None:
    assert said in error(tmp_path, text)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        load(tmp_path / "a.yaml", Outer)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "sft.yaml").write_text(GOOD)
    with pytest.raises(ConfigError, match=r"stf.yaml: no such file; did you mean 'sft.yaml'\?"):
        load(tmp_path / "stf.yaml", Outer)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.with_name("other.yaml"))
    path.with_name("other.yaml").symlink_to(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (folder, "is a folder; expected a YAML file"),
        (os.mkfifo, "is a named pipe; expected a YAML file"),
        (lambda path: path.symlink_to("gone.yaml"), "is a symbolic link to gone.yaml, which does not exist; expected"),
        (loop, "is a loop of symbolic links; expected a YAML file"),
        (lambda path: path.write_bytes(b"seed: 1 # caf\xe9\n"), "not UTF-8 at byte 13; save the file as UTF-8"),
    ],
)
def test_what_is_no_file_of_text_is_called_by_its_name(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "dpo.yaml"
    make(path)
    with pytest.raises(ConfigError) as e:
        load(path, Outer)
    assert str(e.value).startswith(f"{path}: {said}") and "did you mean" not in str(e.value)


def test_a_file_that_must_not_be_read_names_its_owner(tmp_path: Path) -> None:
    """In a user namespace that holds no rights over the file, so that root is refused too."""
    path = tmp_path / "dpo.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    code = f"from pathlib import Path; from tasks.stage.config import read_yaml; read_yaml(Path({str(path)!r}))"
    command = [sys.executable, "-c", code]
    if os.geteuid() == 0:
        if shutil.which("unshare") is None:
            pytest.skip("no user namespace")
        os.chown(path, 12345, 12345)
        command = ["unshare", "--map-root-user", *command]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert f"ConfigError: {path}: permission denied; {path} " in done.stderr


def test_a_link_to_a_recipe_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    assert load(tmp_path / "b.yaml", Outer) == load(tmp_path / "a.yaml", Outer)


class Cold(Strict):
    ice: float


class Hot(Strict):
    fire: float


class Weather(StageConfig):
    day: Annotated[Annotated[Cold, Tag("(ice)")] | Annotated[Hot, Tag("(fire)")], one_of("a day", "ice", "fire")]


def test_a_key_decides_which_section_it_is(tmp_path: Path) -> None:
    path = tmp_path / "weather.yaml"
    path.write_text("seed: 1\nthreads: 1\nday: {fire: 2}\n")
    weather = load(path, Weather)
    assert weather.day == Hot(fire=2)
    assert Weather(seed=1, threads=1, day=Cold(ice=3)).day == Cold(ice=3)


@pytest.mark.parametrize("day", ["{rain: 1}", "{}", "monday", "null"])
def test_a_section_without_a_key_of_its_own(tmp_path: Path, day: str) -> None:
    path = tmp_path / "weather.yaml"
    path.write_text(f"seed: 1\nthreads: 1\nday: {day}\n")
    with pytest.raises(ConfigError, match=r"'day' is .*: a day needs one of the keys 'ice', 'fire'"):
        load(path, Weather)


def test_without_a_near_word_all_are_named() -> None:
    assert suggest("zzz", ["b", "a"]) == "; there are: a, b"
    assert suggest("zzz", []) == "; there are: none"
    assert suggest("zzz", map(str, range(31))) == ""
