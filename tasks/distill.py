"""Distillation: a student with fewer layers learns what its teacher does.

One raw row: as in `sft`. `--method` names the entry of `methods:` that runs. The
student is a model with some of its decoder layers (`_depth.py`), embedding and head kept; it may be cut from the
teacher or from another model of its family. A method says where the text comes from and what is learnt of it. In the
recipes each has one thing more than the one before, which is its control:

    alone      the rows as they are, no teacher: what the others have to beat
    answers    the teacher's answers instead of the rows' (sequence-level: Kim and Rush, arXiv:1606.07947), also to
               prompts that nobody has answered
    logits     and the teacher's distribution of each token of them (Hinton et al., arXiv:1503.02531)
    on_policy  and a share of the answers is the student's own, so that it learns to get out of its own mistakes (GKD:
               Agarwal et al., arXiv:2306.13649)

The distribution can be learnt on the rows instead (`answers: null`), if the teacher knows these better than a student
alone would. All train for the same steps on batches of the same size. The loss, and why TRL's two trainers are not
used, is in `_distill.py`. `metrics.json` has the share of the teacher's parameters. What it leaves out: distillation of
hidden states and attention, a narrower student, beams (one answer is drawn), a grader of the teacher's answers.
"""

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from tasks.compression import teacher_answers
from tasks.compression.teacher_answers import Answers
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.models.layers import check_indices, keep_layers
from tasks.models.turn_ends import end_tokens
from tasks.stage import artifact
from tasks.stage.config import Strict
from tasks.stage.data_folder import split_file
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import TrlConfig
from tasks.training import audit as row_audit
from tasks.training import rows as training_rows
from tasks.training import supervised
from tasks.training import trainer as training


class Student(Strict):
    """What is cut from `--model`."""

    layers: list[int]
    """Indices of the decoder layers kept, from 0, rising."""
    largest_share: float = Field(gt=0, le=1)
    """Most parameters that the student may have, as a share of the teacher's."""


class OnPolicy(Strict):
    """The student's own answers, to the prompts of the batch."""

    share: float = Field(gt=0, le=1)
    """Of the steps: lambda of GKD."""
    temperature: float = Field(gt=0)
    """At which the student answers."""
    max_new_tokens: int = Field(gt=0)
    """Longest answer, in tokens."""


class Method(Strict):
    """What one student learns from."""

    teacher_weight: float = Field(ge=0, le=1)
    """Share of the divergence from the teacher in the loss; the rest is cross-entropy. 0 needs no teacher to train."""
    beta: float = Field(ge=0, le=1)
    """Divergence: 0 is forward KL, 1 reverse KL, 0.5 Jensen-Shannon."""
    temperature: float = Field(gt=0)
    """Of both distributions in the divergence."""
    on_policy: OnPolicy | None
    """Null: only the rows."""
    answers: Answers | None
    """Null: the rows' own answers."""

    @model_validator(mode="after")
    def _taught(self) -> "Method":
        if self.on_policy and self.teacher_weight == 0:
            raise ValueError("on_policy needs a teacher_weight above 0: the student's own answers are no labels")
        return self


class Config(TrlConfig):
    """`params/<recipe>/distill.yaml`."""

    student: Student
    """Its size."""
    methods: dict[str, Method]
    """Name of the method to how the student learns."""


def trainer_class() -> type[Any]:
    """The class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, teacher: Path, data: Path) -> None:
    """Cut the student from `model`, teach it by the method that runs, write a model folder.

    Raises:
        ConfigError: no such method, settings that do not fit it, or layers that the model has not.
        ModelError: the student is too large, or its tokens are not the teacher's.
        DataError: no such set, nothing to learn from, or training diverged.
    """
    method = config.methods[run.method]
    check_indices(config.student.layers, model, f"{run.params_file}: student.layers")
    with run.timed("import"):
        from trl import SFTTrainer

        from tasks.compression import distillation

        arguments = training.arguments(trainer_class(), config, run)
    tokenizer, student = load_tokenizer(model), load_causal_lm(model)
    master = load_causal_lm(teacher, "bfloat16" if arguments.bf16 else "float32")
    mark_generation(tokenizer, model)
    keep_layers(student, config.student.layers)
    sizes = _sizes(student.num_parameters(), master.num_parameters(), config.student.largest_share, run)
    if method.teacher_weight > 0:
        distillation.same_tokens(tokenizer, load_tokenizer(teacher), (model, teacher))
    ends = end_tokens(student, tokenizer)
    taught = _settings(method, arguments, ends, tokenizer.pad_token_id, run) if method.teacher_weight > 0 else {}
    rows, counts = _learnt(config, method, arguments, run, tokenizer, model, master, teacher, data)
    learnt = {"train_dataset": rows, "eval_dataset": training_rows.examples(data, config.dataset, "validation")}
    common = {"model": student, "args": arguments, "processing_class": tokenizer, **learnt}
    if method.teacher_weight > 0:
        trainer: Any = distillation.Distillation(**common, teacher=master, **taught)
    else:
        trainer = SFTTrainer(**common)
    audit = supervised.supervision(trainer.train_dataset, trainer.data_collator, tokenizer, data)
    figures = training.train(trainer, run)
    if run.main_process:
        training.finish(trainer, tokenizer, run)
        artifact.write_json(run.out / "supervision.json", audit)
        artifact.write_json(run.out / "metrics.json", {**figures, **counts, **sizes})


def _learnt(
    config: Config,
    method: Method,
    arguments: Any,
    run: Run,
    tokenizer: Any,
    model: Path,
    master: Any,
    teacher: Path,
    data: Path,
) -> tuple[Any, dict[str, int]]:
    """The rows to learn, a `datasets.Dataset`, and counts for `metrics.json`; writes `audit.json`."""
    from datasets import Dataset

    if method.answers is None:
        row_audit.audited(config, run, data, config.dataset, tokenizer, trainer_class(), model)
        return training_rows.examples(data, config.dataset, "train"), {}
    rows, source = (
        training_rows.read(data, config.dataset, "validation"),
        split_file(data, config.dataset, "validation"),
    )
    held_out = row_audit.learnt(
        config, run, "validation", rows, (config.dataset, source), tokenizer, trainer_class(), model
    )
    with arguments.main_process_first():
        answers, counts, asked = teacher_answers.answered(
            config, method.answers, run, master.to(arguments.device), teacher, data
        )
    train = row_audit.learnt(
        config, run, "train", answers, ("the teacher's answers", teacher), tokenizer, trainer_class(), model
    )
    row_audit.write(run, {"prompts": asked, "train": train, "validation": held_out})
    return Dataset.from_list(answers), counts


def _sizes(student: int, teacher: int, largest_share: float, run: Run) -> dict[str, float]:
    share = student / teacher
    if share > largest_share:
        raise ModelError(
            f"{run.params_file}: the student has {share:.3f} of the teacher's parameters, and student.largest_share is "
            f"{largest_share}; name fewer student.layers"
        )
    return {"teacher_parameters": teacher, "share_of_teacher": round(share, 4)}


def _settings(method: Method, arguments: Any, ends: list[int], pad: int, run: Run) -> dict[str, Any]:
    """What `_distill.Distillation` takes besides `SFTTrainer`'s. Raises ConfigError for rows that are joined."""
    from transformers import GenerationConfig

    found = {"teacher_weight": method.teacher_weight, "beta": method.beta, "temperature": method.temperature}
    asked = method.on_policy
    if asked is None:
        return {**found, "on_policy": 0.0, "sampling": None}
    for key in ("packing", "padding_free"):
        if getattr(arguments, key):
            raise ConfigError(
                f"{run.params_file}: trainer.{key} must be false for {run.name}: the student cannot answer joined rows"
            )
    sampling = GenerationConfig(
        max_new_tokens=asked.max_new_tokens, do_sample=True, temperature=asked.temperature, top_p=1.0, top_k=0,
        eos_token_id=ends, pad_token_id=pad,
    )  # fmt: skip
    return {**found, "on_policy": asked.share, "sampling": sampling}


if __name__ == "__main__":
    stage(main, Config)
