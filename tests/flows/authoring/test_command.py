"""`polm new`: five files of five formats and a model's folder become a recipe that passes the check and trains."""

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from flows.authoring import choices, command, graph, model, rows, stages
from flows.authoring.encoders import HUB
from tasks.check import recipe as recipe_check
from tasks.ingestion.recognition import sample
from tasks.stage.errors import ConfigError, DataError, PolmError
from tests.conftest import REPO
from tests.support import data_stage, indexed, manuals, own_data, working_copy
from tests.support.hub import publish

PAGE = (REPO / "docs/your-own.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^polm new .*$", PAGE, re.M)


@pytest.fixture
def home(workspace: Path, chat_model: Path) -> Path:
    own_data.prepare(workspace, chat_model)
    return workspace


def new(name: str, data: list[str], methods: str, benchmarks: str | None = None) -> Path:
    command.main(name, "models/llama", data, methods, benchmarks, "CC0-1.0", yes=True)
    return Path("params", name)


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_five_formats_become_a_recipe_that_passes_the_check(home: Path) -> None:
    folder = new("support", own_data.FILES, "sft,dpo,kto,grpo@dpo")
    assert recipe_check.check(folder) == []
    assert Path("params/recipe.yaml").readlink() == Path("support/recipe.yaml")
    sets = read(folder / "data.yaml")["sets"]
    assert {kind: [rows["source"] for rows in spec["rows"]] for kind, spec in sets.items()} == {
        "sft": ["tickets", "share", "alpaca", "sums"],
        "preferences": ["pairs"],
        "feedback": ["pairs", "pairs"],
        "prompts": ["sums"],
        "eval:replies": ["tickets", "share", "alpaca"],
        "eval:pairs": ["pairs"],
        "eval:answers": ["sums"],
    }
    assert read(folder / "grpo.yaml")["graders"]["right"]["grader"] == "numeric"
    out = data_stage.run_file(folder / "data.yaml", home / "out")
    report = data_stage.report(out)
    assert all(source["rejected"] == 0 for spec in report["sets"].values() for source in spec["sources"].values())
    assert len(data_stage.read(out / "feedback/train.jsonl")) > len(data_stage.read(out / "preferences/train.jsonl"))


@pytest.mark.slow
def test_every_method_is_written_as_its_stage_reads_it(home: Path) -> None:
    methods = "sft,dpo,kto,reward,ppo,grpo,rft,lora,student=distill,prune,quantize,merge"
    assert recipe_check.check(new("all", own_data.FILES, methods)) == []


def test_a_recipe_of_sft_and_dpo_is_short(home: Path) -> None:
    folder = new("short", ["data/pairs.parquet"], "sft,dpo")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 250
    graph = read(folder / "recipe.yaml")
    assert graph["dpo"]["dpo"]["claim"] == "pairs.accuracy"
    assert graph["sft"]["sft"]["claim"] == "pairs.nats_per_byte"
    assert graph["export"] == ["sft", "dpo"], "either can be promoted"
    assert not (folder / "report.yaml").exists()
    folder = new("five", own_data.FILES, "sft,dpo")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.yaml")) <= 250


def test_checkpoints_fall_on_logged_steps_whatever_the_number_of_rows(home: Path) -> None:
    look = model.look("models/llama", "CC0-1.0")
    models, _ = graph.plan("sft,dpo")
    plan = rows.plan(command._sources(["data/pairs.parquet"], "CC0-1.0"), models, look)
    for count in (1, 37, 73, 290, 1000, 6000):
        lengths = {kind: replace(taken, rows=count) for kind, taken in plan.lengths.items()}
        for planned in models:
            text = stages.settings(planned, look, replace(plan, lengths=lengths), choices.Machine("cpu", 2**34, 2, ""))
            trainer = YAML(typ="safe").load(text)["trainer"]
            assert trainer["save_steps"] % trainer["logging_steps"] == 0
            assert trainer["save_steps"] <= trainer["max_steps"]


def test_a_task_of_too_few_rows_to_promote_by_is_told_before_the_training(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new("few", ["data/pairs.parquet"], "sft,dpo")
    shown = capsys.readouterr().out
    assert "will ask about 15 rows of data/pairs.parquet, and `polm promote` compares no fewer" in shown
    pairs = sample.look("data/pairs.parquet", "CC0-1.0").rows
    data_stage.write_rows(home / "data", pairs * 4, "copies.jsonl")
    new("copies", ["data/copies.jsonl"], "sft,dpo")
    assert "will ask about 15 rows of data/copies.jsonl" in capsys.readouterr().out, "each is asked once"
    many = [pair | {"prompt": f"{pair['prompt']} Line {line}."} for line in range(4) for pair in pairs]
    data_stage.write_rows(home / "data", many, "many.jsonl")
    new("many", ["data/many.jsonl"], "sft,dpo")
    shown = capsys.readouterr().out
    assert "polm promote dpo" in shown
    assert "no fewer" not in shown


@pytest.mark.parametrize(
    ("methods", "exported"), [("sft,quantize", ["sft"]), ("sft,dpo,quantize@dpo", ["sft", "dpo"]), ("reward", [])]
)
def test_a_packed_model_or_none_is_no_model_to_promote(
    home: Path, methods: str, exported: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new("packed", ["data/pairs.parquet"], methods)
    assert read(folder / "recipe.yaml")["export"] == exported
    assert (folder / "export_onnx.yaml").exists() == bool(exported)
    assert ("polm promote" in capsys.readouterr().out) == bool(exported)
    assert recipe_check.check(folder) == []


def test_benchmarks_are_frozen_by_the_data_and_asked_by_the_evaluation(home: Path) -> None:
    folder = new("asked", ["data/tickets.jsonl"], "sft", "gsm8k, ifeval")
    assert set(read(folder / "data.yaml")["benchmarks"]) == {"gsm8k", "ifeval"}
    asked = [task["benchmark"] for task in read(folder / "evaluate.yaml")["tasks"] if "benchmark" in task]
    assert asked == ["gsm8k", "ifeval"]


def test_a_model_without_a_chat_template_is_given_one(home: Path) -> None:
    (home / "models/llama/chat_template.jinja").unlink()
    folder = new("base", ["data/tickets.jsonl"], "sft")
    assert "<|im_start|>assistant" in read(folder / "base.yaml")["chat_template"]


@pytest.mark.parametrize(
    ("data", "methods", "error", "message"),
    [
        (["data/tickets.jsonl"], "sft,dpo", ConfigError, "dpo needs pairs of a better and a worse reply"),
        (["data/tickets.jsonl"], "sft,grpo", ConfigError, "grpo needs questions whose answer a program can check"),
        (["data/sums.jsonl.gz"], "kto", ConfigError, "kto needs replies with a verdict"),
        (["data/tickets.jsonl", "data/tickets.jsonl"], "sft", ConfigError, "stands there twice"),
        (["data/ticket.jsonl"], "sft", DataError, r"ticket\.jsonl"),
    ],
)
def test_what_cannot_become_a_recipe_is_refused_and_nothing_is_written(
    home: Path, data: list[str], methods: str, error: type[PolmError], message: str
) -> None:
    before = sorted(Path("params").rglob("*"))
    with pytest.raises(error, match=message):
        new("never", data, methods)
    assert sorted(Path("params").rglob("*")) == before
    assert Path("params/recipe.yaml").readlink() == Path("tiny/recipe.yaml")


@pytest.mark.parametrize(
    ("column", "file", "shown", "copied"),
    [("image", "a.png", "images", "params/qwen3_vl"), ("sound", "a.wav", "audio", "params/qwen3 ")],
)
def test_rows_with_pictures_or_sounds_are_named_and_refused(
    home: Path, column: str, file: str, shown: str, copied: str
) -> None:
    data_stage.write_rows(home / "data", [{column: file, "question": "q", "answer": "a"}] * 3, "seen.jsonl")
    with pytest.raises(ConfigError, match=rf"seen\.jsonl has rows with {shown}.*{copied}.*docs/multimodal\.md"):
        new("seen", ["data/seen.jsonl"], "sft")
    assert (REPO / copied.strip() / "recipe.yaml").is_file()


@pytest.mark.parametrize("methods", ["sft", "lora"])
def test_texts_alone_are_named_with_what_learns_from_them(home: Path, methods: str) -> None:
    data_stage.write_rows(home / "data", [{"text": f"Lamp {i} is red."} for i in range(60)], "texts.jsonl")
    with pytest.raises(ConfigError, match=r"texts, for language modelling.*a set `pretrain`.*`--methods rag`"):
        new("texts", ["data/texts.jsonl"], methods)


def test_a_recipe_that_is_there_is_not_touched(home: Path) -> None:
    before = Path("params/tiny/recipe.yaml").read_text()
    for name in ("tiny", "recipe.yaml"):
        with pytest.raises(ConfigError, match=r"is there already|no name of a recipe"):
            new(name, ["data/tickets.jsonl"], "sft")
    assert Path("params/tiny/recipe.yaml").read_text() == before


def test_without_a_terminal_nothing_is_written_unasked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: PTH123, SIM115
    with pytest.raises(PolmError, match="there is no terminal to ask on; add `--yes`"):
        command.main("asked", "models/llama", ["data/tickets.jsonl"], "sft", None, "CC0-1.0", yes=False)
    assert not Path("params/asked").exists()


def test_paths_are_those_of_the_folder_that_the_command_was_given_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home / "data")
    model, data = command.found("../models/llama", ["tickets.jsonl", "org/set:main:train"])
    assert (Path(model).resolve(), data) == (
        home / "models/llama",
        [str(home / "data/tickets.jsonl"), "org/set:main:train"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("line", EXAMPLES)
def test_the_commands_of_the_page_write_recipes_that_pass_the_check(home: Path, line: str, make_artifact: Any) -> None:
    import datasets

    from flows.cli import app

    manuals.write(home)
    shutil.move(home / "questions.jsonl", home / "data/questions.jsonl")
    indexed.save_encoder(home / "models/minilm", make_artifact)
    (home / HUB["hub"]).mkdir(parents=True)
    config = home / "models/llama/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 2048}))
    for name in ("Qwen/Qwen3-0.6B", "openai/gsm8k"):
        (home / name).parent.mkdir(exist_ok=True)
    (home / "models/llama").rename(home / "Qwen/Qwen3-0.6B")
    (home / "models/llama").symlink_to(home / "Qwen/Qwen3-0.6B")
    text = datasets.Value("string")
    rows = [{"question": f"What is {i} + {i}?", "answer": f"Twice {i}.\n#### {2 * i}"} for i in range(own_data.ROWS)]
    publish(home / "openai/gsm8k", "train", rows, {"question": text, "answer": text}, "main")
    pairs = sample.look("data/pairs.parquet", "CC0-1.0").rows
    data_stage.write_rows(home / "data", pairs, "pairs.jsonl")
    own_data.more(home / "data")
    words = [*shlex.split(line)[1:], "--yes"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert recipe_check.check(Path("params", words[1])) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_model_of_a_new_recipe_is_trained_by_polm_run(
    home: Path, forking_python: Path, prefect_url: str, mlflow_template: Path
) -> None:
    """With commands alone, as a user types them, in a copy of the working tree."""
    working_copy.make(home)
    (home / ".polm").mkdir(exist_ok=True)
    shutil.copyfile(mlflow_template, home / ".polm/mlflow.db")
    data = [word for file in own_data.FILES for word in ("--data", file)]
    for words in (
        ["new", "support", "--model", "models/llama", *data, "--methods", "sft,dpo", "--yes"],
        ["run", "--jobs", "1", "--target", "sft"],
    ):
        done = working_copy.polm(home, *words, python=forking_python, prefect=prefect_url)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (home / "artifacts/models/sft/model.safetensors").is_file()
