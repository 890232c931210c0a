"""The recipe check: every real recipe passes, and what does not fit in any of its files is named, all at once."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.check import recipe as recipe_check
from tasks.stage import artifact
from tasks.stage.config import read_yaml
from tasks.stage.data_folder import set_folder
from tasks.stage.errors import ConfigError
from tests.conftest import REPO
from tests.support.shipped_recipes import FILES, RECIPES, only_error
from tests.support.small_recipe import write


def test_there_are_recipes() -> None:
    assert {"tiny", "smollm2", "qwen3"} <= set(RECIPES) and len(FILES) > len(RECIPES)


def test_processes_in_which_a_stage_cannot_run_are_named(recipes: Path) -> None:
    reasons = {
        "ppo": ("fsdp2", "the value model is not sharded"),
        "retriever": ("multi_gpu", "a question's negatives are the chunks of its whole batch"),
        "rft": ("multi_gpu", "rounds of sampling and training run in one"),
        "adapt": ("fsdp2", "which PEFT keeps outside sharded weights"),
    }
    for name, (launcher, _) in reasons.items():
        path = Path("params/tiny", f"{name}.yaml")
        command = f"accelerate launch --config_file infra/accelerate/{launcher}.yaml -m"
        write(path, read_yaml(path) | {"launch": command})
    errors = recipe_check.check(Path("params/tiny"))
    assert len(errors) == len(reasons)
    for name, (_, reason) in reasons.items():
        [said] = [error for error in errors if error.startswith(f"params/tiny/{name}.yaml: launch asks for 2")]
        assert reason in said


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fits_its_stages(recipes: Path, recipe: str) -> None:
    assert recipe_check.check(Path("params", recipe)) == []


def test_all_errors_of_all_files_are_said_at_once(recipes: Path) -> None:
    for name in ("sft", "dpo"):
        path = Path(f"params/tiny/{name}.yaml")
        write(path, {("sed" if key == "seed" else key): value for key, value in read_yaml(path).items()})
    Path("params/tiny/reward.yaml").unlink()
    errors = "\n".join(recipe_check.check(Path("params/tiny")))
    for file, said in {"sft": "missing key 'seed'", "dpo": "did you mean 'seed'", "reward": "no such file"}.items():
        assert any(f"{file}.yaml: " in line and said in line for line in errors.splitlines())


def test_a_file_that_no_stage_reads_is_named(recipes: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copyfile("params/tiny/sft.yaml", "params/tiny/stf.yaml")
    assert recipe_check.check(Path("params/tiny")) == []
    assert "stf.yaml: nothing in params/tiny/recipe.yaml needs this file; did you mean sft.yaml?" in caplog.text


def test_an_entry_of_methods_that_no_model_uses_is_named(recipes: Path, caplog: pytest.LogCaptureFixture) -> None:
    change_graph("pruned_depth", None)
    assert recipe_check.check(Path("params/tiny")) == []
    assert "params/tiny/prune.yaml: methods.depth: no model of params/tiny/recipe.yaml uses it" in caplog.text


def change_graph(name: str, values: dict[str, Any] | None, **keys: Any) -> None:
    """Change one model of the tiny recipe's graph, or take it out with its scores and claim, and set other keys."""
    path = Path("params/tiny/recipe.yaml")
    graph = read_yaml(path) | keys
    (method,) = [key for key, models in graph.items() if isinstance(models, dict) and name in models]
    if values is None:
        del graph[method][name]
        graph["evaluate"] = [model for model in graph["evaluate"] if model != name]
    else:
        graph[method][name] = values
    write(path, graph)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"from": "sft", "claim": "sums.helpfull"}, "claim of 'dpo' is 'sums.helpfull', which no evaluation task has"),
        ({"from": "stf"}, "dpo.dpo.from is 'stf'; did you mean 'sft'?"),
        ({"from": "sft", "metod": "x"}, "dpo.dpo: unknown key 'metod'"),
    ],
)
def test_a_graph_that_does_not_fit_is_named(recipes: Path, values: dict[str, Any], message: str) -> None:
    change_graph("dpo", values)
    assert any(message in error for error in recipe_check.check(Path("params/tiny")))


@pytest.mark.parametrize(
    ("file", "task", "message"),
    [
        ("sums_too.yaml", "sums_too", "tasks names 'sums_too.yaml'; only files in params/tiny/eval are hashed"),
        ("eval/sums_too.yaml", "sums", "sums_too.yaml: task 'sums' is that of eval/sums.yaml too"),
    ],
)
def test_a_task_elsewhere_or_of_a_name_that_is_taken_is_named(
    recipes: Path, file: str, task: str, message: str
) -> None:
    tiny = Path("params/tiny")
    write(tiny / file, read_yaml(tiny / "eval/sums.yaml") | {"task": task})
    evaluation = read_yaml(tiny / "evaluate.yaml")
    evaluation["tasks"].append({"file": file, "limit": 8, "group_by": []})
    write(tiny / "evaluate.yaml", evaluation)
    assert any(message in error for error in recipe_check.check(tiny))


def test_graders_that_end_the_process_are_named(recipes: Path) -> None:
    Path("params/tiny/graders.py").write_text("import sys\nsys.exit(0)\n")
    assert any(
        "graders.py: cannot be imported: SystemExit" in error for error in recipe_check.check(Path("params/tiny"))
    )


def test_an_unknown_entry_of_methods_is_named(recipes: Path) -> None:
    change_graph("pruned_depth", {"from": "sft", "settings": "prune", "method": "dpeth"})
    (error,) = recipe_check.check(Path("params/tiny"))
    assert "prune.pruned_depth.method is 'dpeth', which params/tiny/prune.yaml has not; did you mean 'depth'?" in error


def test_a_setting_that_dvc_hashes_may_not_be_left_out(recipes: Path) -> None:
    path = Path("params/tiny/prune.yaml")
    write(path, {key: value for key, value in read_yaml(path).items() if key != "max_cut"})
    assert "params/tiny/prune.yaml: missing key 'max_cut', which dvc.yaml counts" in recipe_check.check(path.parent)[0]


def test_a_grader_that_no_file_has_is_named(recipes: Path) -> None:
    path = Path("params/tiny/grpo.yaml")
    path.write_text(path.read_text().replace("grader: sums", "grader: smus"))
    assert "graders.right.grader: no grader 'smus'; did you mean 'sums'?" in only_error(path)


def test_an_option_that_a_grader_does_not_have_is_named(recipes: Path) -> None:
    path = Path("params/tiny/rft.yaml")
    path.write_text(path.read_text().replace("options: {metric:", "options: {metrik:"))
    assert "unknown key 'graders.right.options.metrik'; did you mean 'metric'?" in only_error(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arithmetic.feedback", "arithmetic.fedback", "no such generator; did you mean 'arithmetic.feedback'?"),
        ("{count: 4000,", "{cuont: 4000,", "its options are: count, seed, digits, wrong_share"),
    ],
)
def test_a_generator_that_no_file_has_is_named(recipes: Path, old: str, new: str, message: str) -> None:
    path = Path("params/tiny/data.yaml")
    path.write_text(path.read_text().replace(old, new))
    said = only_error(path)
    assert "sources.feedback: " in said
    assert message in said


@pytest.mark.parametrize("model", ["hearing", "speech", "sight", "vlm_dpo"])
def test_a_dataset_that_the_data_lack_is_named(recipes: Path, model: str) -> None:
    path = Path("params", "tiny", f"{model}.yaml")
    values = read_yaml(path)
    kept = values["dataset"]
    write(path, values | {"dataset": f"{kept}s"})
    assert f"dataset is '{kept}s', and params/tiny/" in only_error(path) and f"did you mean '{kept}'?" in only_error(
        path
    )


def test_what_would_learn_without_its_sounds_is_named(recipes: Path) -> None:
    """TRL's trainers leave a column out that they do not know."""
    path = Path("params", "tiny", "recipe.yaml")
    values = read_yaml(path)
    values["vlm"] = values["vlm"] | {"video": {"from": "vlm", "data": "spoken"}}
    values["evaluate_media"] = values["evaluate_media"] | {"video": "spoken"}
    write(path, values)
    (error,) = recipe_check.check(Path("params/tiny"))
    assert error.startswith(
        "params/tiny/video.yaml: dataset 'sft' of params/tiny/spoken.yaml has sounds, and vlm takes none"
    )


def test_an_unknown_form_is_named(recipes: Path) -> None:
    change_graph("dpo", {"from": "sft"}, forms=["int8", "int5"])
    (error,) = recipe_check.check(Path("params/tiny"))
    assert "forms names 'int5', which params/tiny/export_onnx.yaml does not make; did you mean 'int" in error


@pytest.mark.parametrize(("name", "hint"), [("tinny", "did you mean 'tiny'"), ("qqqq", "there are: .*smollm2")])
def test_no_such_recipe(recipes: Path, name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"params/{name}: no such recipe; {hint}"):
        recipe_check.check(Path("params", name))


def test_a_stage_without_module_or_with_another_command_is_named(recipes: Path) -> None:
    text = Path("dvc.yaml").read_text()
    Path("dvc.yaml").write_text(text.replace("tasks.reward params", "tasks.rewardd params"))
    assert any("tasks.rewardd, which cannot be imported" in error for error in recipe_check.check(Path("params/tiny")))
    Path("dvc.yaml").write_text(text.replace("params/${recipe}/data.yaml", "params/data.yaml"))
    with pytest.raises(ConfigError, match=r"stages\.data\.cmd does not begin"):
        recipe_check.check(Path("params/tiny"))


def test_the_command_exits_2_and_remembers_what_passed(recipes: Path) -> None:
    """Runs in a copy of the package; what passed is known by the bytes of recipe, code and `dvc.yaml`."""

    def run() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tasks.check.recipe", "params/tiny"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    shutil.copytree(REPO / "tasks", "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    Path("dvc.yaml").write_text(
        "stages: {data: {cmd: 'python -m tasks.data params/${recipe}/data.yaml --out artifacts/data', outs: [x]}}"
    )
    Path("params/tiny/recipe.yaml").write_text("recipe: tiny\nevaluate: [base]\nexport: []\nforms: []\n")
    assert run().returncode == 0
    assert Path(".polm/checked/tiny").read_text() == recipe_check.fingerprint(Path("params/tiny"))
    path = Path("params/tiny/data.yaml")
    path.write_text(path.read_text().replace("seed:", "sed:"))
    done = run()
    assert done.returncode == 2 and "did you mean 'seed'" in done.stderr and "Traceback" not in done.stderr
    Path("dvc.yaml").write_text("stages: {}")
    Path(".polm/checked/tiny").write_text(recipe_check.fingerprint(Path("params/tiny")))
    assert run().stderr == "", "not looked at again"
    file = Path("params/tiny/recipe.yaml")
    file.write_text(file.read_text() + "media: {spoken: {needs: no_such_module_of_polm}}\n")
    Path(".polm/checked/tiny").write_text(recipe_check.fingerprint(Path("params/tiny")))
    done = run()
    assert done.returncode == 0
    assert done.stderr == (
        "warning: params/tiny/recipe.yaml: left out here, without no_such_module_of_polm: spoken; "
        "no_such_module_of_polm is in no extra of polm: install the package that has it, or correct `needs`\n"
    )


def made(recipes: Path, chat_model: Path, make_artifact: Any, words: int) -> None:
    """Data and base model of the recipe `tiny`, as far as the check looks at them: sets whose questions are long."""
    from tasks import base, data
    from tasks.stage.config import digest, load

    question = [{"role": "user", "content": "12 " * words}]
    answer = [{"role": "assistant", "content": "7"}]
    whole = {"messages": question + answer}
    pair = {"prompt": question, "chosen": answer, "rejected": [{"role": "assistant", "content": "8"}]}
    rated = {"prompt": question, "completion": answer, "label": True}
    rows: dict[str, dict[str, Any]] = {
        "preferences": pair,
        "feedback": rated,
        "prompts": {"prompt": question},
        "prompts:long": {"prompt": question},
    }
    for name in ("sft", "sft:rationales", "sft:critiques", "sft:instructions"):
        rows[name] = whole
    for name, row in rows.items():
        named = [{"id": str(i), **row} for i in range(50)]
        artifact.write_jsonl(Path("artifacts/data") / set_folder(name) / "train.jsonl", named)
    shutil.copytree(chat_model, "artifacts/models/base")
    inputs: dict[str, str] = {}
    stages: list[tuple[str, Any]] = [("data", data.Config), ("models/base", base.Config)]
    for folder, config in stages:
        path = Path("artifacts") / folder
        (path / artifact.MANIFEST).unlink(missing_ok=True)
        manifest: artifact.Manifest = make_artifact(path, **inputs)
        params = digest(load(Path("params/tiny") / f"{path.name}.yaml", config))
        manifest = manifest.model_copy(update={"params": params})
        artifact.write_json(path / artifact.MANIFEST, manifest.model_dump())
        inputs = {"data": manifest.digest}


def test_rows_that_do_not_fit_are_found_before_any_training(
    recipes: Path, chat_model: Path, make_artifact: Any
) -> None:
    made(recipes, chat_model, make_artifact, words=120)
    errors = recipe_check.check(Path("params/tiny"))
    named = {error.partition(":")[0].removeprefix("params/tiny/").removesuffix(".yaml") for error in errors}
    trained = {"adapt", "cot", "critique", "dpo", "instruct", "kto", "prune", "reward", "sft"}
    assert named == trained | {"grpo", "grpo_dense", "online_dpo", "ppo", "refine", "reft", "rft", "star"}
    sft = next(error for error in errors if error.startswith("params/tiny/sft.yaml"))
    assert "of artifacts/data/sft/train.jsonl at least 37 left out of 50 rows" in sft
    assert "limit 128, trainer.max_length); params/tiny/sft.yaml allows a share of 0.01 (max_left_out)" in sft
    ppo = next(error for error in errors if error.startswith("params/tiny/ppo.yaml"))
    assert "limit 216, the model's context of 256 less trainer.max_completion_length" in ppo


def test_a_row_that_the_chat_template_refuses_is_found_before_any_training(
    recipes: Path, chat_model: Path, make_artifact: Any
) -> None:
    made(recipes, chat_model, make_artifact, words=4)
    template = Path("artifacts/models/base/chat_template.jinja")
    template.write_text(
        "{% if messages[0].content.startswith('12') %}{{ raise_exception('no') }}{% endif %}" + template.read_text()
    )
    errors = recipe_check.check(Path("params/tiny"))
    assert [e for e in errors if e.startswith("params/tiny/sft.yaml: artifacts/data/sft/train.jsonl: the model's chat")]
    assert all("refuses the row of user" in error for error in errors)


def test_rows_that_fit_and_rows_of_other_settings_pass(recipes: Path, chat_model: Path, make_artifact: Any) -> None:
    made(recipes, chat_model, make_artifact, words=4)
    assert recipe_check.check(Path("params/tiny")) == []
    shutil.rmtree("artifacts")
    made(recipes, chat_model, make_artifact, words=120)
    data = read_yaml(Path("params/tiny/data.yaml"))
    write(Path("params/tiny/data.yaml"), data | {"seed": 5})
    assert recipe_check.check(Path("params/tiny")) == [], "the data stage will make other rows"
    passed = recipe_check.fingerprint(Path("params/tiny"))
    shutil.rmtree("artifacts")
    assert recipe_check.fingerprint(Path("params/tiny")) != passed
