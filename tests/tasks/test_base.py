"""The base stage: each source becomes the same kind of folder; a run that was cut off ends in the same weights."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import base
from tasks.models.chat_template import CHATML, marks_generation
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.stage import artifact
from tasks.stage.config import load
from tasks.stage.errors import DataError, ModelError
from tests.conftest import REPO
from tests.support.base_models import SCRATCH, configured

MakeRun = Callable[..., Any]


class Killed(Exception):
    """Stands for the process dying at a step."""


def test_scratch_learns_and_splits_digits(make_run: MakeRun, sums_data: Path) -> None:
    run = make_run("base")
    base.main(configured({"scratch": SCRATCH}), run, data=sums_data)
    tokenizer = load_tokenizer(run.out)
    assert [tokenizer.decode([i]) for i in tokenizer("1234")["input_ids"]] == ["1", "2", "3", "4"]
    assert marks_generation(tokenizer)
    curve = artifact.read_jsonl(run.out / "curves.jsonl")
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
    assert load_causal_lm(run.out).num_parameters() == artifact.read_json(run.out / "metrics.json")["parameters"]


def test_scratch_resumes_to_the_same_bytes(make_run: MakeRun, sums_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured({"scratch": SCRATCH})
    whole = make_run("whole")
    base.main(config, whole, data=sums_data)

    cut = make_run("cut")

    def die(done: int, *args: Any, **kwargs: Any) -> None:
        if done == 20:
            raise Killed

    monkeypatch.setattr(cut.progress, "update", die)
    with pytest.raises(Killed):
        base.main(config, cut, data=sums_data)
    again = make_run("again")
    again.checkpoints = cut.checkpoints
    steps: list[int] = []
    monkeypatch.setattr(again.progress, "update", lambda done, *args, **kwargs: steps.append(done))
    base.main(config, again, data=sums_data)
    assert steps == [20, 30], "it did not resume from the checkpoint of step 10"
    for name in ("model.safetensors", "curves.jsonl", "tokenizer.json"):
        assert (whole.out / name).read_bytes() == (again.out / name).read_bytes()


def test_too_little_text_is_an_error(make_run: MakeRun, sums_data: Path) -> None:
    with pytest.raises(DataError, match="blocks of 32 tokens, one step takes 4000; add rows or lower batch_size"):
        base.main(configured({"scratch": SCRATCH | {"batch_size": 4000}}), make_run("base"), data=sums_data)


@pytest.mark.parametrize("key", ["folder", "hub"])
def test_a_local_folder_stands_in_for_the_hub(
    make_run: MakeRun, chat_model: Path, sums_data: Path, workspace: Path, key: str
) -> None:
    shutil.copytree(chat_model, workspace / "Org/Model", ignore=shutil.ignore_patterns("manifest.json"))
    source = {key: "Org/Model", "adapter": None, "licence": "Apache-2.0"} | (
        {"revision": "main"} if key == "hub" else {}
    )
    run = make_run("base")
    base.main(configured(source), run, data=sums_data)
    assert (run.out / "model.safetensors").read_bytes() == (chat_model / "model.safetensors").read_bytes()
    assert artifact.read_json(run.out / "origin.json")["licence"] == "Apache-2.0"


def test_a_folder_with_a_pickle_is_refused(
    make_run: MakeRun, chat_model: Path, sums_data: Path, workspace: Path
) -> None:
    shutil.copytree(chat_model, workspace / "m")
    (workspace / "m/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="a pickle can run code"):
        base.main(configured({"folder": "m", "adapter": None, "licence": "MIT"}), make_run("base"), data=sums_data)


def test_no_network_says_what_to_do(make_run: MakeRun, sums_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"hub": "nobody/nothing", "revision": "main", "adapter": None, "licence": "MIT"}
    with pytest.raises(
        ModelError, match=r"nobody/nothing@main: cannot be fetched .* put the model's folder at nobody/nothing"
    ):
        base.main(configured(source), make_run("base"), data=sums_data)


def test_the_qwen3_recipe_with_a_folder_in_place_of_the_hub(
    make_run: MakeRun, chat_model: Path, sums_data: Path, workspace: Path
) -> None:
    import trl
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = load_tokenizer(chat_model)
    templates = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (templates / "qwen3.jinja").read_text(encoding="utf-8")
    assert not marks_generation(tokenizer)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=320, **shape, **heads))
    save_model(model, tokenizer, workspace / "Qwen/Qwen3-0.6B")

    config = load(REPO / "params/qwen3/base.yaml", base.Config)
    run = make_run("base")
    base.main(config, run, data=sums_data)
    made = load_causal_lm(run.out, dtype="auto")
    assert type(made).__name__ == "Qwen3ForCausalLM"
    assert str(made.dtype) == "torch.bfloat16"
    assert marks_generation(load_tokenizer(run.out))


def without_template(chat_model: Path, folder: Path) -> Path:
    """The chat model as base models come: without a chat template."""
    shutil.copytree(chat_model, folder)
    (folder / "chat_template.jinja").chmod(0o644)
    (folder / "chat_template.jinja").unlink()
    return folder


def test_a_base_model_takes_the_recipes_chat_template(
    make_run: MakeRun, sums_data: Path, chat_model: Path, tmp_path: Path
) -> None:
    source = {"folder": str(without_template(chat_model, tmp_path / "raw")), "licence": "own"}
    with pytest.raises(ModelError, match=r"no chat template; set `chat_template` in the recipe's base\.yaml"):
        base.main(configured(source), make_run("refused"), data=sums_data)
    plain = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    run = make_run("base")
    base.main(configured(source).model_copy(update={"chat_template": plain}), run, data=sums_data)
    tokenizer = load_tokenizer(run.out)
    assert marks_generation(tokenizer)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    assert tokenizer.apply_chat_template(turns, tokenize=False) == text


def test_a_template_of_tokens_that_the_model_has_not_is_refused(
    make_run: MakeRun, sums_data: Path, chat_model: Path, tmp_path: Path
) -> None:
    source = {"folder": str(without_template(chat_model, tmp_path / "raw")), "licence": "own"}
    strange = CHATML.replace("<|im_end|>", "<|eot_id|>")
    with pytest.raises(ModelError, match=r"(?s)writes '<\|eot_id\|>\\n' behind an answer.*no answer would ever end"):
        base.main(configured(source).model_copy(update={"chat_template": strange}), make_run("base"), data=sums_data)
