"""The distill stage: the cut, the loss, who answers, what is refused, and that it learns and resumes."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from tasks import distill, sft
from tasks.compression import distillation
from tasks.compression.distillation import IGNORED, Distillation, divergence, same_tokens
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.models.layers import keep_layers
from tasks.stage import artifact
from tasks.stage.config import parse
from tasks.stage.errors import ConfigError, DataError, ModelError
from tasks.stage.lifecycle import Run
from tasks.stage.progress import Progress
from tasks.training import trainer as training
from tests.conftest import TRAINER
from tests.support.distill import ASKED, METHODS, PLAIN, configured

MakeRun = Callable[..., Any]


@pytest.fixture(scope="module")
def teacher(
    tmp_path_factory: pytest.TempPathFactory,
    chat_model: Path,
    sums_data: Path,
    make_artifact: Callable[..., artifact.Manifest],
) -> Path:
    """The random model, fine-tuned until it answers in the manner of the rows and ends."""
    folder = tmp_path_factory.mktemp("teacher")
    run = Run(folder / "sft", Path("params/test.yaml"), "sft", folder / "checkpoints", {}, Progress(None), True)
    run.out.mkdir()
    trainer = TRAINER | {"assistant_only_loss": True, "max_steps": 40, "learning_rate": 1e-2, "save_steps": 40}
    values = {
        "seed": 1,
        "threads": 1,
        "launch": None,
        "max_left_out": 0.0,
        "max_cut": 0.0,
        "dataset": "sft",
        "peft": None,
        "trainer": trainer,
    }
    sft.main(parse(Path("params/test.yaml"), values, sft.Config), run, model=chat_model, data=sums_data)
    make_artifact(run.out, stage="sft")
    return run.out


def taught(make_run: MakeRun, name: str, teacher: Path, data: Path, config: distill.Config | None = None) -> Any:
    run = make_run(name)
    distill.main(config or configured(), run, model=teacher, teacher=teacher, data=data)
    return run


def trainer_of(teacher: Path, tmp_path: Path, **changes: Any) -> Distillation:
    """A trainer of one layer on four rows, as the stage makes it."""
    from datasets import Dataset
    from trl import SFTConfig

    student, tokenizer = load_causal_lm(teacher), load_tokenizer(teacher)
    keep_layers(student, [1])
    turns = [("What is 1 + 2?", "3."), ("Add 12 and 345.", "The answer is 357."), ("Hi", "Sure!"), ("What is 9?", "9")]
    rows = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in turns]
    settings: dict[str, Any] = {
        "teacher_weight": 1.0, "beta": 0.0, "temperature": 1.0, "on_policy": 0.0, "sampling": None,
    } | changes  # fmt: skip
    arguments = SFTConfig(output_dir=str(tmp_path), report_to="none", assistant_only_loss=True, **TRAINER)
    return Distillation(
        model=student, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        teacher=load_causal_lm(teacher), **settings,
    )  # fmt: skip


def plain_kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(-1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
def test_the_divergence_is_that_of_the_paper(beta: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, dtype=torch.float64) * 3
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    mixture = beta * p + (1 - beta) * q
    expected = {0.0: plain_kl(p, q), 1.0: plain_kl(q, p)}.get(
        beta, beta * plain_kl(p, mixture) + (1 - beta) * plain_kl(q, mixture)
    )
    torch.testing.assert_close(divergence(student, teacher, beta, 2.0).double(), expected, rtol=1e-4, atol=1e-6)
    assert divergence(teacher, teacher, beta, 2.0).abs().max() < 1e-6


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_a_mean_over_the_answers_tokens(teacher: Path, tmp_path: Path, weight: float) -> None:
    """By hand, one row at a time without padding: right shift, right mask, right divisor, temperature squared."""
    trainer = trainer_of(teacher, tmp_path, teacher_weight=weight, temperature=2.0)
    rows = list(trainer.train_dataset)
    total, tokens = 0.0, 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            student, master = (m.eval()(ids).logits[0] for m in (trainer.model, trainer.teacher))
        for place, label in enumerate(row["labels"]):
            if label != IGNORED:
                p, q = ((logits[place - 1] / 2).softmax(-1) for logits in (master, student))
                surprise = -student[place - 1].log_softmax(-1)[label]
                total += float(weight * 4 * plain_kl(p, q) + (1 - weight) * surprise)
                tokens += 1
    batch = trainer.data_collator(rows)
    assert len({len(row["input_ids"]) for row in rows}) > 1, "padding is part of it"
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(total / tokens, rel=1e-4)
        halved = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=2 * tokens)
    assert halved.item() == pytest.approx(total / tokens / 2, rel=1e-4)


def test_the_evaluation_is_a_mean_over_tokens(teacher: Path, tmp_path: Path) -> None:
    """However the rows fall into batches: a mean of the batches' means would weigh a short answer like a long one."""
    trainer = trainer_of(teacher, tmp_path, teacher_weight=0.25)
    names = ["eval_loss", "eval_divergence", "eval_cross_entropy", "eval_teacher_agreement"]
    found = []
    for size in (4, 1, 3):
        trainer.args.per_device_eval_batch_size = size
        measured = trainer.evaluate(trainer.train_dataset)
        found.append([measured[name] for name in names])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)
    assert found[0][0] == pytest.approx(0.25 * found[0][1] + 0.75 * found[0][2], rel=1e-4)


@pytest.mark.parametrize(("weight", "kept"), [(1.0, False), (0.5, True)])
def test_what_carries_no_weight_is_not_kept_for_the_gradient(
    teacher: Path, tmp_path: Path, weight: float, kept: bool
) -> None:
    trainer = trainer_of(teacher, tmp_path, teacher_weight=weight)
    batch = trainer.data_collator(list(trainer.train_dataset))
    seen, ahead = set[Any](), [trainer.compute_loss(trainer.model, batch).grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [parent for parent, _ in node.next_functions]
    assert ("NllLossBackward0" in {node.name() for node in seen}) == kept


def test_accumulated_batches_weigh_each_token_alike(make_run: MakeRun, teacher: Path, sums_data: Path) -> None:
    losses = []
    for number, (size, times) in enumerate([(8, 1), (2, 4)]):
        changes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times, "max_steps": 3}
        config = configured(changes | {"save_steps": 3}, methods={f"logits{number}": PLAIN})
        run = taught(make_run, f"logits{number}", teacher, sums_data, config)
        losses.append([row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_student_answers_the_prompts_of_the_batch(teacher: Path, tmp_path: Path) -> None:
    asked = GenerationConfig(
        max_new_tokens=6, do_sample=True, temperature=1.0, top_p=1.0, top_k=0, pad_token_id=3, eos_token_id=2
    )
    trainer = trainer_of(teacher, tmp_path, on_policy=1.0, sampling=asked, teacher_weight=0.25)
    rows = list(trainer.train_dataset)
    (batch,), items = trainer.get_batch_samples(iter([trainer.data_collator(rows)]), 1, torch.device("cpu"))
    assert batch[distillation.SAMPLED]
    lengths = set()
    for row, ids, labels, seen in zip(rows, batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        start = next(i for i, label in enumerate(row["labels"]) if label != IGNORED)
        own, learnt = ids[seen.bool()].tolist(), labels[seen.bool()].tolist()
        assert own[:start] == row["input_ids"][:start]
        assert learnt == [IGNORED] * start + own[start:]
        assert 1 <= len(own) - start <= 6
        lengths.add(start)
    assert len(lengths) > 1
    assert items == (batch["labels"] != IGNORED).sum(), "counted after the answers, not before"
    with torch.no_grad():
        loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    logged: dict[str, float] = {}
    trainer.log(logged)
    assert loss == pytest.approx(logged["eval_divergence"], rel=1e-5), "own answers are no labels"


@pytest.mark.parametrize("name", METHODS)
def test_each_method_learns_and_moves_every_weight(
    make_run: MakeRun, teacher: Path, sums_data: Path, name: str
) -> None:
    run = taught(make_run, name, teacher, sums_data, configured({"max_steps": 16, "learning_rate": 3e-3}))
    figures = artifact.read_json(run.out / "metrics.json")
    cut, student = load_causal_lm(teacher), load_causal_lm(run.out)
    keep_layers(cut, [1])
    assert student.config.num_hidden_layers == 1
    assert figures["parameters"] == student.num_parameters() == cut.num_parameters()
    assert figures["share_of_teacher"] == pytest.approx(cut.num_parameters() / figures["teacher_parameters"], abs=1e-4)
    start = dict(cut.named_parameters())
    unmoved = [key for key, value in student.named_parameters() if torch.equal(value, start[key])]
    assert unmoved == []
    losses = [row["loss"] for row in artifact.read_jsonl(run.out / "curves.jsonl") if "loss" in row]
    assert sum(losses[-4:]) < sum(losses[:4])
    if name in ("logits", "on_policy"):
        assert {"eval_divergence", "eval_cross_entropy", "eval_teacher_agreement"} <= figures.keys()


def test_logits_draw_the_student_towards_the_teacher(make_run: MakeRun, teacher: Path, sums_data: Path) -> None:
    agreement = {}
    for name, steps in (("few", 1), ("many", 16)):
        config = configured({"max_steps": steps, "save_steps": 16, "learning_rate": 3e-3}, methods={name: PLAIN})
        run = taught(make_run, name, teacher, sums_data, config)
        agreement[name] = artifact.read_json(run.out / "metrics.json")["eval_divergence"]
    assert agreement["many"] < 0.8 * agreement["few"]


def test_the_teachers_answers_are_the_rows(
    make_run: MakeRun, teacher: Path, sums_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row's answer is what the teacher says to it, and an answer that was cut off is none."""
    seen: list[Any] = []
    write = artifact.write_jsonl

    def spy(path: Path, rows: list[dict[str, Any]]) -> None:
        seen.append((path.name, rows))
        write(path, rows)

    monkeypatch.setattr(artifact, "write_jsonl", spy)
    run = taught(make_run, "answers", teacher, sums_data)
    rows = next(rows for name, rows in seen if name == "answers.jsonl")
    figures = artifact.read_json(run.out / "metrics.json")
    assert figures["answers"] == len(rows) and figures["answers"] + figures["answers_cut_off"] == 32
    audit = artifact.read_json(run.out / "audit.json")
    assert audit["prompts"]["rows"] == audit["prompts"]["used"] == 32
    assert audit["train"]["rows"] == audit["train"]["used"] == len(rows)
    assert audit["validation"]["rows"] == 16
    model, tokenizer = load_causal_lm(teacher), load_tokenizer(teacher)
    for row in rows[:4]:
        *prompt, last = row["messages"]
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].size(1) :]
        assert tokenizer.eos_token_id in out
        assert tokenizer.decode(out, skip_special_tokens=True).strip() == last["content"]


@pytest.mark.parametrize("name", ["logits", "on_policy", "answers"])
def test_a_stage_cut_short_goes_on_to_the_same_weights(
    make_run: MakeRun, teacher: Path, sums_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Progress):
        def update(self, done: int, total: int, label: str = "", **metrics: float) -> None:
            if label == "training" and done == 6:
                raise KeyboardInterrupt

    whole = taught(make_run, name, teacher, sums_data)
    expected = {f: (whole.out / f).read_bytes() for f in ("model.safetensors", "curves.jsonl", "metrics.json")}
    shutil.rmtree(whole.checkpoints)
    shutil.rmtree(whole.out)
    run = make_run(name)
    run.progress = Cut(None)
    with pytest.raises(KeyboardInterrupt):
        distill.main(configured(), run, model=teacher, teacher=teacher, data=sums_data)
    run.progress = Progress(None)
    assert (run.checkpoints / "checkpoint-4" / training.COMPLETE).exists()
    if name == "answers":
        monkeypatch.setattr("tasks.compression.teacher_answers.sample", None)  # what is whole is not drawn again
    distill.main(configured(), run, model=teacher, teacher=teacher, data=sums_data)
    assert {f: (run.out / f).read_bytes() for f in expected} == expected


def test_another_tokenizer_is_refused_with_the_first_difference(
    make_run: MakeRun, teacher: Path, sums_data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    path = other / "tokenizer.json"
    content = json.loads(path.read_text())
    words = {index: word for word, index in content["model"]["vocab"].items()}
    content["model"]["vocab"] |= {words[100]: 101, words[101]: 100}
    path.write_text(json.dumps(content))
    with pytest.raises(
        ModelError, match=f"token 100 is '{re.escape(words[100])}' for .* '{re.escape(words[101])}' for"
    ):
        distill.main(configured(), make_run("logits"), model=teacher, teacher=other, data=sums_data)
    mine, its = load_tokenizer(teacher), load_tokenizer(teacher)
    its.chat_template = its.chat_template.replace("<|im_end|>", "<|endoftext|>")
    with pytest.raises(ModelError, match=r"ends an answer with '<\|im_end\|>' and the teacher with '<\|endoftext\|>'"):
        same_tokens(mine, its, ("a", "b"))


def test_settings_that_do_not_fit_are_refused(make_run: MakeRun, teacher: Path, sums_data: Path) -> None:
    def refused(error: type[Exception], said: str, name: str, config: distill.Config) -> None:
        run = make_run(name)
        with pytest.raises(error, match=said):
            distill.main(config, run, model=teacher, teacher=teacher, data=sums_data)
        run.out.rmdir()

    large = configured(student={"layers": [0, 1], "largest_share": 0.6})
    refused(ModelError, r"1\.000 of the teacher's parameters, and student.largest_share is 0.6", "logits", large)
    gone = configured(student={"layers": [0, 2], "largest_share": 0.6})
    refused(ConfigError, r"logits\.yaml: student\.layers: there is no layer 2 to keep; the model has 0", "logits", gone)
    many = configured(methods={"answers": METHODS["answers"] | {"answers": ASKED | {"prompts": {"sft": 65}}}})
    refused(DataError, r"answers.prompts.sft is 65, but the set has 64 rows", "answers", many)
    joined = configured({"packing": True})
    refused(ConfigError, r"trainer.packing must be false for on_policy: the student cannot", "on_policy", joined)
    with pytest.raises(ConfigError, match=r"on_policy needs a teacher_weight above 0"):
        configured(methods={"a": METHODS["on_policy"] | {"teacher_weight": 0.0}})
