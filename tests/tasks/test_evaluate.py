"""The evaluate stage, end to end on a small random model."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.evaluate import Config, main
from tasks.evaluation.task_files import TaskChoice, load_task, read_rows
from tasks.stage import artifact
from tasks.stage.config import load, parse, read_yaml
from tasks.stage.errors import ArtifactError, ConfigError, DataError
from tasks.stage.lifecycle import Run, read_measurements
from tasks.stage.progress import Progress
from tests.conftest import REPO
from tests.support.sharded import in_shards

EVAL = REPO / "params" / "tiny" / "eval"


@pytest.fixture
def data(workspace: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """A data artifact with six sums and four conversations."""
    folder = workspace / "artifacts" / "data"
    sums = [
        {"id": f"q{n}", "question": f"What is {n} + 1?", "answer": str(n + 1), "digits": 1 + n % 2} for n in range(6)
    ]
    artifact.write_jsonl(folder / "eval" / "sums.jsonl", sums)
    chats = [
        {
            "id": f"c{n}",
            "messages": [{"role": "user", "content": f"Add {n} and 2."}, {"role": "assistant", "content": f"{n + 2}"}],
        }
        for n in range(4)
    ]
    artifact.write_jsonl(folder / "sft" / "validation.jsonl", chats)
    make_artifact(folder, stage="data")
    return folder


@pytest.fixture
def recipe(workspace: Path) -> Path:
    """The tiny recipe's evaluation files, with the two tasks that `data` has rows for."""
    folder = workspace / "params" / "mine"
    shutil.copytree(EVAL, folder / "eval")
    settings = read_yaml(EVAL.parent / "evaluate.yaml")
    settings["tasks"] = [t for t in settings["tasks"] if t["file"] in ("eval/sums.yaml", "eval/reference.yaml")]
    with (folder / "evaluate.yaml").open("w") as f:
        YAML(typ="safe").dump(settings, f)
    return folder / "evaluate.yaml"


def evaluate(recipe: Path, model: Path, data: Path, name: str) -> Path:
    """Run the stage's `main` in this process, its output becoming an artifact."""
    out = Path("artifacts/metrics") / name
    manifests = {"model": artifact.verify(model), "data": artifact.verify(data)}
    with artifact.writing(out, stage="evaluate", params="0" * 64, inputs={}) as temp:
        run = Run(temp, recipe, name, Path(".checkpoints"), manifests, Progress(name), main_process=True)
        main(load(recipe, Config), run, model=model, data=data)
    return out


@pytest.mark.slow
def test_stage_scores_every_row_and_is_deterministic(recipe: Path, data: Path, chat_model: Path) -> None:
    a = evaluate(recipe, chat_model, data, "a")
    results = artifact.read_json(a / "results.json")
    assert results["model"] == "a"
    assert results["tasks"]["sums"]["samples"] == 6
    assert set(results["tasks"]["sums"]["groups"]["digits"]) == {"1", "2"}
    samples = artifact.read_jsonl(a / "samples" / "sums.jsonl")
    assert [s["id"] for s in samples] == [f"q{n}" for n in range(6)], "rows keep the order of the data"
    assert samples[2]["question"] == "What is 2 + 1?"
    assert samples[2]["answer"] == "3"
    assert set(samples[2]["scores"]) == {"exact_match", "courteous", "helpful"}
    for metric, value in results["tasks"]["sums"]["metrics"].items():
        assert value["value"] == pytest.approx(sum(s["scores"][metric] for s in samples) / 6)
        assert value["low"] <= value["value"] <= value["high"]
    command = [sys.executable, "-m", "tasks.evaluate", recipe, "--model", chat_model, "--data", data, "--out", "b/a"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    again = artifact.verify(Path("b/a"))
    assert again.files == artifact.verify(a).files, "another process, the same bytes"
    assert read_measurements(Path("b/a"))["import_seconds"] > 0


def test_reference_loss_is_what_the_model_gives(recipe: Path, data: Path, chat_model: Path) -> None:
    """The harness's log-likelihood equals one computed here from the model: of the answer, without the template."""
    import torch

    from tasks.models.folder import load_causal_lm, load_tokenizer

    out = evaluate(recipe, chat_model, data, "a")
    got = artifact.read_jsonl(out / "samples" / "reference.jsonl")[1]["scores"]["nats_per_byte"]
    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    messages = [{"role": "user", "content": "Add 1 and 2."}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    head, tail = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, "3"))
    with torch.no_grad():
        logprobs = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
    expected = -sum(logprobs[len(head) - 1 + i, token].item() for i, token in enumerate(tail))
    assert got == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def lively(workspace: Path, chat_model: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """The chat model with larger weights: it says something else to every question, and only printable ASCII.

    Of bytes that are no UTF-8 each runtime makes something else.
    """
    import torch

    from tasks.models.folder import load_causal_lm, load_tokenizer, save_model

    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    texts = [tokenizer.decode([token]) for token in range(model.config.vocab_size)]
    silent = [token for token, text in enumerate(texts) if not (text.isascii() and text.isprintable())]
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
        model.get_output_embeddings().weight[silent] = 0
    folder = workspace / "artifacts" / "models" / "lively"
    save_model(model, tokenizer, folder)
    make_artifact(folder)
    return folder


@pytest.fixture
def export(workspace: Path, lively: Path, make_artifact: Callable[..., artifact.Manifest]) -> Path:
    """An export with one form, fp32, whose tokens and probabilities are PyTorch's."""
    from tasks.export import builder

    folder = workspace / "artifacts" / "onnx" / "sft"
    options = builder.prepare_options(lively, "fp32", "fp32", {})
    builder.build(lively, folder / "fp32", precision="fp32", options=options)
    make_artifact(folder, stage="export_onnx")
    return folder


@pytest.mark.slow
def test_an_export_answers_in_batches_as_pytorch_does_row_by_row(
    recipe: Path, data: Path, lively: Path, export: Path
) -> None:
    """Prompts of different lengths in one batch: padding on the wrong side would change the shorter ones' answers."""
    settings = read_yaml(recipe)
    rows = [
        {"id": f"q{n}", "question": f"What is {'very ' * (n % 4)}{n} + 1?", "answer": str(n), "digits": 1}
        for n in range(40)
    ]
    artifact.write_jsonl(data / "eval" / "sums.jsonl", rows)
    with recipe.open("w") as f:
        YAML(typ="safe").dump(settings | {"batch_size": 1}, f)
    config = load(recipe, Config)
    found = {}
    for name, folder in (("pytorch", lively), ("onnx", export / "fp32")):
        run = Run(Path(name), recipe, name, Path("x"), {}, Progress(None), main_process=True)
        main(config.model_copy(update={"batch_size": 64}) if name == "onnx" else config, run, model=folder, data=data)
        found[name] = run.out
    answers = [artifact.read_jsonl(out / "samples" / "sums.jsonl") for out in found.values()]
    assert [row["response"] for row in answers[0]] == [row["response"] for row in answers[1]]
    assert len({row["response"] for row in answers[0]}) > 5, "answers that differ tell a mixed-up batch"
    losses = [artifact.read_jsonl(out / "samples" / "reference.jsonl") for out in found.values()]
    for theirs, ours in zip(*losses, strict=True):
        assert ours["scores"]["nats_per_byte"] == pytest.approx(theirs["scores"]["nats_per_byte"], abs=1e-4)
    assert artifact.read_json(found["onnx"] / "results.json")["form"] == "fp32"


def test_a_form_of_an_export_is_verified_as_part_of_it(export: Path) -> None:
    assert artifact.verify_input("model", export / "fp32") == {"model": artifact.read_manifest(export)}
    path = export / "fp32" / "genai_config.json"
    path.chmod(0o644)
    path.write_text(path.read_text() + " ")
    with pytest.raises(ArtifactError, match=r"genai_config.json: corrupted"):
        artifact.verify_input("model", export / "fp32")


def test_arguments_reach_the_chat_template_of_an_export(export: Path) -> None:
    from tasks.evaluation.onnx_model import OnnxLM

    template = export / "fp32" / "chat_template.jinja"
    template.chmod(0o644)
    template.write_text(template.read_text().rstrip() + "{{ '<loud>' if loud is defined and loud else '' }}")
    asked = [{"role": "user", "content": "What is 1 + 1?"}]
    quiet, loud = (OnnxLM(export / "fp32", 1, 4, args, "error", Progress(None)) for args in ({}, {"loud": True}))
    assert loud.apply_chat_template(asked) == quiet.apply_chat_template(asked) + "<loud>"


def overfill(data: Path, recipe: Path, tokens: int, **settings: Any) -> None:
    """Make question q2 so long that its prompt has that many tokens, and set keys of the recipe."""
    from tasks.models.folder import load_tokenizer

    tokenizer = load_tokenizer(Path("artifacts/models/lively"))

    def length(text: str) -> int:
        asked = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = artifact.read_jsonl(data / "eval" / "sums.jsonl")
    question = rows[2]["question"]
    rows[2]["question"] = "7" * (tokens - length(question)) + question
    assert length(rows[2]["question"]) == tokens, "each digit is a token"
    artifact.write_jsonl(data / "eval" / "sums.jsonl", rows)
    with recipe.open("r+") as f:
        values = YAML(typ="safe").load(f) | settings
        f.seek(0)
        f.truncate()
        YAML(typ="safe").dump(values, f)


def answered_by(model: Path, recipe: Path, data: Path) -> Path:
    run = Run(Path(f"by-{model.name}"), recipe, model.name, Path("x"), {}, Progress(None), main_process=True)
    main(load(recipe, Config), run, model=model, data=data)
    return run.out


def test_a_question_that_does_not_fit_is_the_same_error_from_every_engine(
    recipe: Path, data: Path, lively: Path, export: Path
) -> None:
    overfill(data, recipe, 193)  # and an answer of 64, in a context of 256
    said = []
    for model in (lively, export / "fp32"):
        with pytest.raises(
            DataError, match=r"task sums, row q2: a prompt of 193 tokens .* answer of 64 .* of 256"
        ) as e:
            answered_by(model, recipe, data)
        said.append(str(e.value))
    assert said[0] == said[1]
    assert "(1 of 6 rows do not fit)" in said[0] and "`too_long: unanswered`" in said[0]


def test_a_question_that_just_fits_is_asked_whole_by_every_engine(
    recipe: Path, data: Path, lively: Path, export: Path
) -> None:
    overfill(data, recipe, 192)
    answers = [
        [row["response"] for row in artifact.read_jsonl(answered_by(model, recipe, data) / "samples" / "sums.jsonl")]
        for model in (lively, export / "fp32")
    ]
    assert answers[0] == answers[1]


def test_a_question_that_does_not_fit_counts_as_unanswered_where_the_recipe_says_so(
    recipe: Path, data: Path, lively: Path, export: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = artifact.read_jsonl(answered_by(lively, recipe, data) / "samples" / "sums.jsonl")
    overfill(data, recipe, 193, too_long="unanswered")
    for model in (lively, export / "fp32"):
        out = answered_by(model, recipe, data)
        rows = artifact.read_jsonl(out / "samples" / "sums.jsonl")
        assert rows[2]["unanswered"] and rows[2]["response"] == "" and set(rows[2]["scores"].values()) == {0.0}
        others = [n for n in range(6) if n != 2]
        assert [rows[n]["response"] for n in others] == [whole[n]["response"] for n in others]
        assert not any("unanswered" in rows[n] for n in others)
        assert artifact.read_json(out / "results.json")["tasks"]["sums"]["unanswered"] == 1
        assert any("1 of 6 questions do not fit the context of 256 tokens" in message for message in caplog.messages)
        caplog.clear()


def test_a_reference_that_does_not_fit_is_an_error_from_every_engine(
    recipe: Path, data: Path, lively: Path, export: Path
) -> None:
    rows = artifact.read_jsonl(data / "sft" / "validation.jsonl")
    rows[1]["messages"][1]["content"] = "7" * 256
    artifact.write_jsonl(data / "sft" / "validation.jsonl", rows)
    overfill(data, recipe, 100, too_long="unanswered")
    for model in (lively, export / "fp32"):
        with pytest.raises(DataError, match=r"task reference, row c1: .* answer of 256 in the context of 256"):
            answered_by(model, recipe, data)


def test_a_reference_may_fill_the_context(recipe: Path, data: Path, lively: Path, export: Path) -> None:
    from tasks.models.folder import load_tokenizer

    tokenizer = load_tokenizer(lively)
    rows = artifact.read_jsonl(data / "sft" / "validation.jsonl")
    asked = tokenizer.apply_chat_template(rows[1]["messages"][:1], tokenize=False, add_generation_prompt=True)
    used = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
    rows[1]["messages"][1]["content"] = "7" * (256 - used)
    artifact.write_jsonl(data / "sft" / "validation.jsonl", rows)
    losses = [
        artifact.read_jsonl(answered_by(model, recipe, data) / "samples" / "reference.jsonl")[1]["scores"]
        for model in (lively, export / "fp32")
    ]
    assert losses[0]["nats_per_byte"] == pytest.approx(losses[1]["nats_per_byte"], abs=1e-4)


def test_unanswered_never_counts_as_the_best_score(recipe: Path, data: Path, lively: Path) -> None:
    path = recipe.parent / "eval" / "sums.yaml"
    path.write_text(path.read_text().replace("higher_is_better: true", "higher_is_better: false"))
    overfill(data, recipe, 100, too_long="unanswered")
    with pytest.raises(ConfigError, match=r"`too_long: unanswered` scores 0, the best of exact_match"):
        answered_by(lively, recipe, data)


def test_unknown_lm_eval_key_is_named(recipe: Path, data: Path, chat_model: Path) -> None:
    path = recipe.parent / "eval" / "sums.yaml"
    path.write_text(path.read_text().replace("generation_kwargs:", "generation_kwarg:"))
    with pytest.raises(ConfigError, match="unknown key 'generation_kwarg'; did you mean 'generation_kwargs'"):
        evaluate(recipe, chat_model, data, "a")
    assert not Path("artifacts/metrics/a").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("process_results: sums", "process_results: sum", "unknown process_results 'sum'; did you mean 'sums'?"),
        ("process_results: sums", "process_results: Decimal", "unknown process_results 'Decimal'"),
        ("process_results: sums", "process_results: os.system", "unknown process_results 'os.system'"),
        ("process_results: sums", "process_results: graders.mine", "unknown process_results 'graders.mine'"),
        ("{metric: helpful,", "{metric: kind,", "gives ['courteous', 'exact_match', 'helpful']"),
        ("eval/sums.jsonl", "eval/sum.jsonl", "did you mean 'eval/sums.jsonl'?"),
        ("doc_to_text:", "doc_to_txt:", "missing key 'doc_to_text'"),
        ("data_files:", "data_file:", "missing key 'dataset_kwargs.data_files.test'"),
    ],
)
def test_task_errors_come_before_the_model_is_loaded(
    recipe: Path, data: Path, old: str, new: str, message: str
) -> None:
    path = recipe.parent / "eval" / "sums.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises((ConfigError, ArtifactError)) as error:
        read_rows(path, load_task(path), TaskChoice(file="eval/sums.yaml", limit=None, group_by=[]), data)
    assert message in str(error.value)


OWN_GRADERS = """
def mine(doc, results):
    return {"share": float(doc["digits"] in results[0])}


def other(response, row):
    return 1.0
"""


def own_task(recipe: Path, metric: str) -> Path:
    """A task whose grader is one of the recipe's own."""
    (recipe.parent / "graders.py").write_text(OWN_GRADERS)
    task = read_yaml(recipe.parent / "eval/sums.yaml") | {"process_results": "graders.mine"}
    task["metric_list"] = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]
    path = recipe.parent / "eval/mine.yaml"
    artifact.write_json(path, task)
    return path


def test_a_grader_of_the_recipes_own_grades(recipe: Path, data: Path) -> None:
    path = own_task(recipe, "share")
    task = load_task(path)
    assert task["process_results"]({"digits": "2"}, ["2 it is"]) == {"share": 1.0}
    choice = TaskChoice(file="eval/mine.yaml", limit=2, group_by=[])
    with pytest.raises(ArtifactError, match=r"sums\.jsonl:1: the grader mine cannot grade this row \(.*int"):
        read_rows(path, task, choice, data)


def test_a_grader_of_the_recipes_own_has_to_give_the_metrics_of_its_task(recipe: Path, data: Path) -> None:
    path = own_task(recipe, "shares")
    text = (recipe.parent / "graders.py").read_text()
    (recipe.parent / "graders.py").write_text(text.replace('doc["digits"]', 'str(doc["digits"])'))
    with pytest.raises(ConfigError, match=r"metric_list has \['shares'\], but mine gives \['share'\]"):
        read_rows(path, load_task(path), TaskChoice(file="eval/mine.yaml", limit=2, group_by=[]), data)


def test_rows_in_shards_are_those_of_lines(recipe: Path, data: Path, tmp_path: Path) -> None:
    path, shards = recipe.parent / "eval/sums.yaml", in_shards(data, tmp_path / "in shards", rows=3)
    assert not list(shards.glob("eval/*.jsonl"))
    for limit in (None, 4, 10**6):
        choice = TaskChoice(file="eval/sums.yaml", limit=limit, group_by=["digits"])
        wanted = read_rows(path, load_task(path), choice, data)
        assert len(wanted) > 3
        assert read_rows(path, load_task(path), choice, shards) == wanted
    choice = TaskChoice(file="eval/sums.yaml", limit=2, group_by=["digit"])
    with pytest.raises(ArtifactError, match=r"sums\.jsonl:1: no column 'digit'; did you mean 'digits'"):
        read_rows(path, load_task(path), choice, shards)


def test_missing_column_names_file_and_line(recipe: Path, data: Path) -> None:
    path, choice = recipe.parent / "eval/sums.yaml", TaskChoice(file="eval/sums.yaml", limit=2, group_by=["digit"])
    with pytest.raises(ArtifactError, match=r"sums\.jsonl:1: no column 'digit'; did you mean 'digits'"):
        read_rows(path, load_task(path), choice, data)


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("sums", {"answer": "1,234 or so"}, r"rows\.jsonl:2: the grader sums cannot grade this row .*'1,234 or so'"),
        ("sums", {"answer": None}, r"rows\.jsonl:2: the grader sums cannot grade this row"),
        ("sums", {"reply": "3"}, r"rows\.jsonl:2: no key 'answer', which the grader sums reads"),
        (
            "instructions",
            {"answer": "3", "instructions": [{"kind": "x"}]},
            r"rows\.jsonl:2: the grader instructions cannot grade .*unknown check",
        ),
        ("reference", {"messages": []}, r"rows\.jsonl:2: the grader reference_loss cannot grade"),
        ("reference", {"messages": [{"role": "assistant", "content": ""}]}, r"rows\.jsonl:2: .*reference_loss cannot"),
    ],
)
def test_a_row_that_cannot_be_graded_is_named_before_the_model_is_loaded(
    recipe: Path, data: Path, task: str, row: dict[str, Any], message: str
) -> None:
    path = recipe.parent / f"eval/{task}.yaml"
    good = {"answer": "1", "instructions": [], "messages": [{"role": "assistant", "content": "1"}]}
    artifact.write_jsonl(data / "rows.jsonl", [{"id": "a", **good}, {"id": "b", **row}])
    loaded = load_task(path) | {"dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}}
    with pytest.raises(ArtifactError, match=message):
        read_rows(path, loaded, TaskChoice(file="", limit=None, group_by=[]), data)
    assert len(read_rows(path, loaded, TaskChoice(file="", limit=1, group_by=[]), data)) == 1


def test_misspelt_key_in_the_recipe(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'batchsize'; did you mean 'batch_size'"):
        parse(recipe, {**read_yaml(recipe), "batchsize": 3}, Config)


def test_every_recipe_names_tasks_whose_graders_fit() -> None:
    recipes = sorted((REPO / "params").glob("*/evaluate.yaml"))
    assert len(recipes) >= 3
    for path in recipes:
        for choice in load(path, Config).own:
            assert callable(load_task(path.parent / choice.file)["process_results"])
