"""Distillation: a student with fewer layers learns to answer as its teacher does.

One raw row: as in `sft`. `--method` names the entry of `methods:` that runs. The student is a model with some of its
decoder layers (`tasks/models/layers.py`), embedding and head kept; it may be cut from the teacher or from another model
of its family. A method names the source of the text and the target of each token. In the recipes each has one thing
more than the one before, which is its control:

    alone      the rows as they are, no teacher: the score for the others to beat
    answers    the teacher's answers instead of the rows' (sequence-level: Kim and Rush, arXiv:1606.07947), also to
               prompts that nobody has answered
    logits     and the teacher's distribution of each token of them (Hinton et al., arXiv:1503.02531)
    on_policy  and a share of the answers is the student's own, so that it learns to get out of its own mistakes (GKD:
               Agarwal et al., arXiv:2306.13649)

The distribution can be learnt on the rows instead (`answers: null`), if the teacher knows these better than a student
alone would. All train for the same steps on batches of the same size. `tasks/compression/distillation.py` has the loss,
and why TRL's two trainers are not used. `metrics.json` has the share of the teacher's parameters. What it leaves out:
distillation of hidden states and attention, a narrower student, beams (one answer is drawn), a grader of the teacher's
answers.
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
from tasks.training import fates as row_fates
from tasks.training import ranks, supervised
from tasks.training import rows as training_rows
from tasks.training import trainer as training

row_rule = None


class Student(Strict):
    """Student that is cut from `--model`."""

    layers: list[int]
    """Indices of the decoder layers kept, from 0, rising."""
    largest_share: float = Field(gt=0, le=1)
    """Most parameters that the student may have, as a share of the teacher's."""


class OnPolicy(Strict):
    """Answers of the student itself, to the prompts of the batch."""

    share: float = Field(gt=0, le=1)
    """Share of the steps on such answers: lambda of GKD."""
    temperature: float = Field(gt=0)
    """Temperature of the student's answers."""
    max_new_tokens: int = Field(gt=0)
    """Longest answer, in tokens."""


class Method(Strict):
    """Sources that one student learns from."""

    teacher_weight: float = Field(ge=0, le=1)
    """Share of the divergence from the teacher in the loss; the rest is cross-entropy. 0 needs no teacher to train."""
    beta: float = Field(ge=0, le=1)
    """Kind of divergence: 0 is forward KL, 1 reverse KL, 0.5 Jensen-Shannon."""
    temperature: float = Field(gt=0)
    """Temperature of both distributions in the divergence."""
    on_policy: OnPolicy | None
    """Answers of the student among the rows; null for none."""
    answers: Answers | None
    """Answers of the teacher in place of the rows'; null for the rows' own."""

    @model_validator(mode="after")
    def _taught(self) -> "Method":
        if self.on_policy and self.teacher_weight == 0:
            raise ValueError("on_policy needs a teacher_weight above 0: the student's own answers are no labels")
        return self


class Config(TrlConfig):
    """`params/<recipe>/distill.yaml`."""

    student: Student
    """Layers of the student, and its largest size."""
    methods: dict[str, Method]
    """Name of the method to how the student learns."""

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Refuse answers of a sharded student: processes whose answers end at other tokens would lose each other."""
        answering = [name for name, method in self.methods.items() if method.on_policy]
        if sharding and answering:
            return f"a sharded student cannot answer, as methods.{answering[0]}.on_policy asks; take DDP or one process"
        return None


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
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
    tokenizer = load_tokenizer(model)
    student = load_causal_lm(model)
    teacher_model = load_causal_lm(teacher, "bfloat16" if arguments.bf16 else "float32")
    mark_generation(tokenizer, model)
    keep_layers(student, config.student.layers)
    sizes = _sizes(student.num_parameters(), teacher_model.num_parameters(), config.student.largest_share, run)
    if method.teacher_weight > 0:
        distillation.same_tokens(tokenizer, load_tokenizer(teacher), (model, teacher))
    ends = end_tokens(student, tokenizer)
    teaching = _teaching(method, arguments, ends, tokenizer.pad_token_id, run) if method.teacher_weight > 0 else {}
    rows, counts = _rows(config, method, arguments, run, tokenizer, model, teacher_model, teacher, data)
    common = {
        "model": student,
        "args": arguments,
        "processing_class": tokenizer,
        "train_dataset": rows,
        "eval_dataset": training_rows.examples(data, config.dataset, "validation"),
    }
    if method.teacher_weight > 0:
        trainer: Any = ranks.trainer_for(run, distillation.Distillation)(**common, teacher=teacher_model, **teaching)
    else:
        trainer = ranks.trainer_for(run, SFTTrainer)(**common)
    audit = supervised.supervision(trainer.train_dataset, trainer.data_collator, tokenizer, data)
    figures = training.train(trainer, run)
    if run.main_process:
        training.finish(trainer, tokenizer, run)
        artifact.write_json(run.out / "supervision.json", audit)
        artifact.write_json(run.out / "metrics.json", {**figures, **counts, **sizes})


def _rows(
    config: Config,
    method: Method,
    arguments: Any,
    run: Run,
    tokenizer: Any,
    model: Path,
    teacher_model: Any,
    teacher: Path,
    data: Path,
) -> tuple[Any, dict[str, int]]:
    """Return the rows to learn, a `datasets.Dataset`, and counts for `metrics.json`; write `audit.json`."""
    from datasets import Dataset

    if method.answers is None:
        row_audit.audited(config, run, data, config.dataset, tokenizer, trainer_class(), row_fates.answers, model)
        return training_rows.examples(data, config.dataset, "train"), {}
    rows = training_rows.read(data, config.dataset, "validation")
    source = split_file(data, config.dataset, "validation")
    held_out = row_audit.learnt(
        config, run, "validation", rows, (config.dataset, source), tokenizer, trainer_class(), row_fates.answers, model
    )
    with arguments.main_process_first():
        answers, counts, prompts = teacher_answers.draw(
            config, method.answers, run, teacher_model.to(arguments.device), teacher, data
        )
    train = row_audit.learnt(
        config,
        run,
        "train",
        answers,
        ("the teacher's answers", teacher),
        tokenizer,
        trainer_class(),
        row_fates.answers,
        model,
    )
    row_audit.write(run, {"prompts": prompts, "train": train, "validation": held_out})
    return Dataset.from_list(answers), counts


def _sizes(student: int, teacher: int, largest_share: float, run: Run) -> dict[str, float]:
    """Return the teacher's parameters and the student's share of them. Raises ModelError for a larger share."""
    share = student / teacher
    if share > largest_share:
        raise ModelError(
            f"{run.params_file}: the student has {share:.3f} of the teacher's parameters, and student.largest_share is "
            f"{largest_share}; name fewer student.layers"
        )
    return {"teacher_parameters": teacher, "share_of_teacher": round(share, 4)}


def _teaching(method: Method, arguments: Any, ends: list[int], pad: int, run: Run) -> dict[str, Any]:
    """Return the arguments that `Distillation` adds to `SFTTrainer`'s. Raises ConfigError for rows that are joined."""
    from transformers import GenerationConfig

    loss = {"teacher_weight": method.teacher_weight, "beta": method.beta, "temperature": method.temperature}
    on_policy = method.on_policy
    if on_policy is None:
        return {**loss, "on_policy": 0.0, "sampling": None}
    for key in ("packing", "padding_free"):
        if getattr(arguments, key):
            raise ConfigError(
                f"{run.params_file}: trainer.{key} must be false for {run.name}: the student cannot answer joined rows"
            )
    sampling = GenerationConfig(
        max_new_tokens=on_policy.max_new_tokens,
        do_sample=True,
        temperature=on_policy.temperature,
        top_p=1.0,
        top_k=0,
        eos_token_id=ends,
        pad_token_id=pad,
    )
    return {**loss, "on_policy": on_policy.share, "sampling": sampling}


if __name__ == "__main__":
    stage(main, Config)
