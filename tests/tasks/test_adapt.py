"""The four adapters on a small model: what is trained, what is written, and that it answers the same when loaded."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from tasks import adapt
from tasks.models.folder import PROMPT, check_folder, load_causal_lm, load_tokenizer, save_model
from tasks.stage import artifact
from tasks.stage.errors import ModelError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tasks.training import trainer as training
from tests.conftest import REPO
from tests.support.adapters import METHODS, configured, values
from tests.support.forking import Forking

MakeRun = Callable[..., Any]
SOFT = ("prompt", "prefix")
WIDTH, LAYERS, HEADS = 64, 2, 2
"""Of the `chat_model` fixture."""
QUESTION = "What is 12 + 34?"


class Adapted:
    """What one method made: its folder, and what the trained model said before it was written."""

    def __init__(self, name: str, folder: Path, model: Path, data: Path) -> None:
        self.name, self.folder = name, folder / name
        self.folder.mkdir(parents=True)
        run = Run(
            self.folder, Path("params/test.yaml"), name, folder / f"{name}.checkpoints", {}, Progress(None), True, name
        )
        write = training.finish

        def finish(trainer: Any, tokenizer: Any, run: Run) -> None:
            trained = trainer.model
            self.trainable = {name: p.numel() for name, p in trained.named_parameters() if p.requires_grad}
            self.logits = logits(trained.eval(), tokenizer)
            write(trainer, tokenizer, run)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "finish", finish)
            adapt.main(configured(), run, model=model, data=data)


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([tokenizer(QUESTION)["input_ids"]])).logits
    return found


@pytest.fixture(scope="module")
def base(
    tmp_path_factory: pytest.TempPathFactory, chat_model: Path, make_artifact: Callable[..., artifact.Manifest]
) -> Path:
    """The random model with larger matrices: one that answers each question otherwise, and heeds what is in front."""
    model, folder = load_causal_lm(chat_model), tmp_path_factory.mktemp("base")
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.dim() > 1):
            matrix.mul_(5)
    save_model(model, load_tokenizer(chat_model), folder)
    make_artifact(folder, stage="base")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path, sums_data: Path) -> dict[str, Adapted]:
    folder = tmp_path_factory.mktemp("adapted")
    return {name: Adapted(name, folder, base, sums_data) for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_only_the_adapter_is_trained_and_it_learns(made: dict[str, Adapted], name: str) -> None:
    figures = artifact.read_json(made[name].folder / "metrics.json")
    part = {"lora": "lora_", "dora": "lora_"}.get(name, "prompt_encoder")
    assert all(part in parameter for parameter in made[name].trainable)
    assert figures["trainable_parameters"] == sum(made[name].trainable.values()) < figures["parameters"]
    expected = {"prompt": 8 * WIDTH, "prefix": 8 * LAYERS * 2 * WIDTH}
    assert figures["trainable_parameters"] == expected.get(name, figures["trainable_parameters"])
    assert figures["adapter_bytes"] > 4 * figures["trainable_parameters"]
    assert figures["steps"] == 12 and not any("second" in key for key in figures)
    losses = [row["loss"] for row in artifact.read_jsonl(made[name].folder / "curves.jsonl") if "loss" in row]
    assert losses[-1] < losses[0] - 0.3
    assert artifact.read_json(made[name].folder / "supervision.json")["rows"] == 64


def test_dora_is_lora_and_a_length_of_each_row(made: dict[str, Adapted]) -> None:
    lengths = {parameter for parameter in made["dora"].trainable if "magnitude_vector" in parameter}
    assert lengths and set(made["dora"].trainable) - lengths == set(made["lora"].trainable)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_says_what_was_trained(made: dict[str, Adapted], name: str) -> None:
    folder = made[name].folder
    assert (folder / PROMPT).exists() == (name in SOFT)
    assert (folder / "adapter").exists() == (name not in SOFT)
    loaded = load_causal_lm(folder, soft_prompt=True)
    torch.testing.assert_close(logits(loaded, load_tokenizer(folder)), made[name].logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_are_merged_or_untouched(made: dict[str, Adapted], base: Path, name: str) -> None:
    before, after = ((folder / "model.safetensors").read_bytes() for folder in (base, made[name].folder))
    assert (before == after) == (name in SOFT)
    assert set(load_file(made[name].folder / "model.safetensors")) == set(load_file(base / "model.safetensors"))


@pytest.mark.parametrize("name", SOFT)
def test_a_soft_prompt_is_not_forgotten_by_who_cannot_use_it(made: dict[str, Adapted], name: str) -> None:
    for use in (load_causal_lm, check_folder):
        with pytest.raises(ModelError, match=r"prompt: a soft prompt is not in the weights, .* can be evaluated"):
            use(made[name].folder)


def test_what_lies_in_prompt_must_be_one(made: dict[str, Adapted], tmp_path: Path) -> None:
    for path in (made["lora"].folder, made["lora"].folder / "adapter"):
        for file in path.iterdir():
            if file.is_file():
                target = tmp_path / (PROMPT if path.name == "adapter" else "") / file.name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match=r"LORA is no soft prompt; merge it"):
        load_causal_lm(tmp_path, soft_prompt=True)


def ask(folder: Path, data: Path, task: str, batch_size: int) -> list[dict[str, Any]]:
    """Rows as the evaluate stage gets them."""
    from tasks.evaluation import harness
    from tasks.evaluation.task_files import TaskChoice, load_task, read_rows

    path = REPO / "params/tiny/eval" / f"{task}.yaml"
    rows = read_rows(path, load_task(path), TaskChoice(file="", limit=6, group_by=[]), data)
    brief = {"generation_kwargs": {"do_sample": False, "max_gen_toks": 8, "until": ["<|im_end|>"]}}
    built = harness.build_task(path, load_task(path) | (brief if task == "sums" else {}), rows)
    lm = harness.load(folder, "cpu", "float32", batch_size, {}, "error", Progress(None))
    return harness.ask(lm, [built], 0)[load_task(path)["task"]]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("error:Position ids are not supported")
def test_answers_do_not_depend_on_the_batch(made: dict[str, Adapted], sums_data: Path, name: str) -> None:
    alone, together = ([row["response"] for row in ask(made[name].folder, sums_data, "sums", n)] for n in (1, 4))
    assert len(set(alone)) > 1, "answers that are all alike would prove nothing"
    assert alone == together


@pytest.mark.parametrize("name", METHODS)
def test_padding_does_not_move_the_text_away_from_the_prompt(made: dict[str, Adapted], name: str) -> None:
    """Logits of each step of a short and of a long question, asked alone and, padded on the left, together."""
    model, tokenizer = load_causal_lm(made[name].folder, soft_prompt=True).eval(), load_tokenizer(made[name].folder)

    def steps(*questions: str) -> torch.Tensor:
        batch = tokenizer(questions, return_tensors="pt", padding=True, padding_side="left")
        settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        found = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            output_logits=True,
            return_dict_in_generate=True,
            **settings,
        )
        return torch.stack(found.logits, 1)

    short, long = "Add 1 and 2.", "What is 123 + 456? The answer is"
    alone = torch.cat([steps(short), steps(long)])
    torch.testing.assert_close(steps(short, long), alone, atol=1e-3, rtol=1e-4)


def by_hand(folder: Path, ids: list[int]) -> torch.Tensor:
    """Log-probabilities after each of `ids`, from the folder's tensors and without PEFT."""
    from transformers import DynamicCache, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder).eval()
    text = model.get_input_embeddings()(torch.tensor([ids]))
    stored = folder / PROMPT / "adapter_model.safetensors"
    if not stored.exists():
        return model(inputs_embeds=text).logits[0].log_softmax(-1)
    vectors = load_file(stored)["prompt_embeddings"]
    if vectors.shape[1] == WIDTH:
        return model(inputs_embeds=torch.cat([vectors[None], text], 1)).logits[0, len(vectors) :].log_softmax(-1)
    layers = vectors.view(1, len(vectors), LAYERS, 2, HEADS, -1).permute(2, 3, 0, 4, 1, 5)
    cache = DynamicCache([(keys, values) for keys, values in layers])
    return model(inputs_embeds=text, past_key_values=cache).logits[0].log_softmax(-1)


@pytest.mark.parametrize("name", METHODS)
def test_log_likelihoods_are_those_of_the_answer(made: dict[str, Adapted], sums_data: Path, name: str) -> None:
    folder = made[name].folder
    tokenizer = load_tokenizer(folder)
    rows = artifact.read_jsonl(sums_data / "sft/validation.jsonl")
    for row, scored in zip(rows, ask(folder, sums_data, "reference", 4), strict=False):
        prompt = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
        answer = row["messages"][-1]["content"]
        head, tail = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, answer))
        with torch.no_grad():
            logprobs = by_hand(folder, head + tail)
        expected = -sum(logprobs[len(head) - 1 + i, token].item() for i, token in enumerate(tail))
        assert scored["scores"]["nats_per_byte"] == pytest.approx(expected / len(answer.encode()), rel=1e-4)


@pytest.mark.parametrize("name", ["dora", "prefix"])
def test_two_processes_write_the_same_bytes(
    workspace: Path, chat_model: Path, sums_data: Path, name: str, forking: Forking, other_forking: Forking
) -> None:
    """PEFT keeps module names in a set, whose order is of the process."""
    with Path("adapt.yaml").open("w") as f:
        YAML(typ="safe").dump(values(trainer={"max_steps": 2}), f)
    digests = []
    for number, parent in enumerate((forking, other_forking)):
        out = f"{number}/{name}"
        inputs = ["--model", str(chat_model), "--data", str(sums_data)]
        words = ["tasks.adapt", "adapt.yaml", "--method", name, *inputs, "--out", out]
        done = parent.start(words, dict(os.environ), workspace / f"{number}.stderr")
        assert done.wait() == 0, done.communicate()[1]
        digests.append(artifact.verify(Path(out)).digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["lora", *SOFT])
def test_a_stage_cut_short_goes_on_to_the_same_weights(
    make_run: MakeRun, made: dict[str, Adapted], base: Path, sums_data: Path, name: str
) -> None:
    class Cut(Progress):
        def update(self, done: int, total: int, label: str = "", **metrics: float) -> None:
            if done == 6:
                raise KeyboardInterrupt

    run = make_run(name)
    run.progress = Cut(None)
    with pytest.raises(KeyboardInterrupt):
        adapt.main(configured(), run, model=base, data=sums_data)
    run.progress = Progress(None)
    assert (run.checkpoints / "checkpoint-4" / training.COMPLETE).exists()
    adapt.main(configured(), run, model=base, data=sums_data)
    for file in ("adapter_model.safetensors", "curves.jsonl", "metrics.json"):
        whole, resumed = (next(folder.rglob(file)).read_bytes() for folder in (made[name].folder, run.out))
        assert whole == resumed, file
