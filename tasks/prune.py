"""Pruning: weights or blocks that matter least are taken away, and what is left is healed by training on.

    magnitude   the smallest weights of each matrix become zero (Han et al., arXiv:1506.02626, section 3)
    wanda       those with the smallest |w| times the norm of their input (Sun et al., arXiv:2306.11695, eq. 1)
    sparsegpt   one column at a time, the rest making up for it (Frantar and Alistarh, arXiv:2301.00774, eq. 3 and 4)
    depth       blocks that change their input least: 1 - cosine of in and out (Men et al., arXiv:2403.03853, eq. 1)

Wanda and SparseGPT are llm-compressor's, unstructured or 2:4 (of four weights in a row two are zero, which GPUs can
use). Magnitude is done here, since its modifier leaves the weights whole in one shot. One raw row, which serves
calibration and healing (training split) and the loss (validation split): as in `sft`.

Healing is fine-tuning in which zeros stay zero: a mask is applied after each step of the optimizer. The model before
pruning may teach besides: a token's loss is then teacher_weight · KL(dense ‖ pruned) + (1 − teacher_weight) ·
cross-entropy, of the output distributions at temperature 1 (Hinton et al., arXiv:1503.02531; `_distill.py`).
`prune.json` has the sparsity reached, and the loss and the graders' means on held-out validation rows before, pruned
and healed. The weights are written dense, zeros and all: the file is no smaller, and every other stage can load it.
`--method` names the entry of `methods:` that runs. What it leaves out: pruning heads or channels, a teacher's hidden
states (SquareHead: Kurtic et al., arXiv:2310.06927), and sharded training (FSDP), whose flat parameters the mask does
not know.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tasks.compression import calibration as calibration_rows
from tasks.compression import held_out as held_out_rows
from tasks.compression import modifiers as llm_modifiers
from tasks.compression.calibration import Calibration
from tasks.compression.pruning import block_influence, cut_smallest, healer, matrices, sparsity
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.models.layers import depth, keep_layers
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.sampling.sample import SamplingSettings, sample
from tasks.stage import artifact
from tasks.stage.config import Strict, check_trainer
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import TrlConfig, Verbatim
from tasks.training import audit, rows
from tasks.training import trainer as training

log = logging.getLogger("polm")


class Method(Strict):
    """One way to prune; exactly one of the first three is set."""

    modifiers: dict[Literal["WandaPruningModifier", "SparseGPTModifier"], dict[str, Any]] | None
    """llm-compressor's modifiers, their fields verbatim."""
    magnitude: float | None = Field(gt=0, lt=1)
    """Share of the weights of each matrix that become zero, by size alone."""
    drop_layers: int | None = Field(ge=1)
    """Blocks taken away, those of least influence."""
    heal: bool
    """Train on afterwards, as `trainer:` says."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(way is not None for way in (self.modifiers, self.magnitude, self.drop_layers)) != 1:
            raise ValueError("set exactly one of modifiers, magnitude and drop_layers, and the others to null")
        return self


class HeldOut(held_out_rows.HeldOut):
    """What is measured on the validation split, the answers graded."""

    batch_size: int = Field(ge=1)
    """Answers written at once."""


class Config(TrlConfig):
    """`params/<recipe>/prune.yaml`; `dataset` and `trainer` are of the healing."""

    methods: dict[str, Method]
    """Name of the method to how it prunes."""
    calibration: Calibration
    """Rows that the methods look at."""
    held_out: HeldOut
    """The measurements."""
    teacher_weight: float = Field(ge=0, le=1)
    """Share of KL(dense ‖ pruned) in the healing's loss, beside the rows' own tokens; 0 is plain fine-tuning."""
    graders: dict[str, RewardSpec] = Field(min_length=1)
    """Name to grader of the held-out answers; each is reported by itself."""

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """`trainer:`, and each method's modifiers."""
        return [
            *super().verbatim(trainer_class),
            *(
                Verbatim(f"methods.{name}.modifiers.{kind}", values, llm_modifiers.fields(kind), llm_modifiers.RESERVED)
                for name, method in self.methods.items()
                for kind, values in (method.modifiers or {}).items()
            ),
        ]


def trainer_class() -> type[Any]:
    """The class whose fields `trainer:` may hold."""
    from trl import SFTConfig

    return SFTConfig


def main(config: Config, run: Run, *, model: Path, data: Path) -> None:
    """Prune `model` by the method that runs, heal it, write it and `prune.json`.

    Raises:
        ConfigError: no such method, a modifier's or grader's value, too few rows, or no block that would be left.
        DataError: no such set, or training diverged.
    """
    name = run.method
    method = config.methods[name]
    _leaves_one(method.drop_layers, f"{run.params_file}: methods.{name}.drop_layers", depth(model))
    measure = Measure(config, run, data)
    with run.timed("import"):
        for section, values, known, reserved in config.verbatim(trainer_class()):
            check_trainer(run.params_file, values, known, reserved, section)
        arguments = training.arguments(trainer_class(), config, run)
        modifiers = llm_modifiers.build(method.modifiers or {}, f"methods.{name}.modifiers", run.params_file)
    tokenizer = load_tokenizer(model)
    mark_generation(tokenizer, model)
    if method.heal:
        audit.audited(config, run, data, config.dataset, tokenizer, trainer_class(), model)
    calibration, record = calibration_rows.draw(config.calibration, tokenizer, data, config.seed, run.params_file)
    policy = load_causal_lm(model)
    counted = sum(p.numel() for p in policy.parameters())
    found: dict[str, Any] = {"before": measure(policy.to(arguments.device), tokenizer, "before")}
    policy, blocks = prune(method, modifiers, name, policy.cpu(), tokenizer, calibration, run, model)
    found["pruned"] = measure(policy.to(arguments.device), tokenizer, "pruned")
    figures: dict[str, float] = {}
    if method.heal:
        dense = load_causal_lm(model) if config.teacher_weight else None
        trainer = healer(arguments, config.dataset, policy, tokenizer, data, dense, config.teacher_weight)
        figures = training.train(trainer, run)
        # Without accelerate's wrapper, which computes in bf16 wherever the training did.
        policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        found["healed"] = measure(policy, tokenizer, "healed")
    if run.main_process:
        left = {"before": counted, "after": sum(p.numel() for p in policy.parameters())}
        report = {"sparsity": sparsity(policy), "parameters": left, "blocks": blocks, **found, "calibration": record}
        artifact.write_json(run.out / "prune.json", report)
        artifact.write_json(run.out / "metrics.json", {"parameters": left["after"], **figures})
        policy.config.use_cache = True
        save_model(policy, tokenizer, run.out)
        _log(found)


def _leaves_one(dropped: int | None, where: str, blocks: int | None) -> None:
    if dropped is not None and blocks is not None and dropped >= blocks:
        raise ConfigError(f"{where} is {dropped}, and the model has {blocks} blocks; leave at least one")


class Measure:
    """Loss and grades of a model on the validation split; what it needs is read before anything runs."""

    def __init__(self, config: Config, run: Run, data: Path) -> None:
        """Raises ConfigError for a grader, DataError for a set that is not there."""
        self._seed, self._held, self._run = config.seed, config.held_out, run
        self._rewards = Rewards(config.graders, run.params_file)
        self._answers = rows.read(data, self._held.answers, "validation")[: self._held.answer_rows]
        self._prompts = rows.read(data, self._held.prompts, "validation")[: self._held.prompt_rows]

    def __call__(self, model: Any, tokenizer: Any, when: str) -> dict[str, Any]:
        """`nats_per_token`, `perplexity` and `tokens` of the written answers; each grader's mean; `prompts` asked."""
        held = self._held
        found: dict[str, Any] = dict(held_out_rows.answer_loss(model, tokenizer, self._answers))
        sampling = SamplingSettings(samples_per_prompt=1, temperature=0, top_p=1, max_new_tokens=held.max_new_tokens,
                            batch_size=held.batch_size)  # fmt: skip
        drawn = sample(
            model, tokenizer, [row["prompt"] for row in self._prompts], sampling, held.chat_template_args, self._seed,
            lambda done, total: self._run.progress.update(done, total, f"measuring, {when}"),
        )  # fmt: skip
        views = [{"question": row["prompt"][-1]["content"], **row} for row in self._prompts]
        texts = [answers[0].text for answers in drawn]
        scores = {name: self._rewards.score(name, texts, views) for name in self._rewards.names}
        grades = {name: round(sum(values) / len(values), 6) for name, values in scores.items()}
        return {**found, "grades": grades, "prompts": len(texts)}


def prune(
    method: Method,
    modifiers: list[Any],
    name: str,
    policy: Any,
    tokenizer: Any,
    calibration: Any,
    run: Run,
    model: Path,
) -> tuple[Any, dict[str, Any] | None]:
    """Prune a model.

    Returns:
        The model, and for depth pruning `influence` of each block and which were `kept`; else None.

    Raises:
        ConfigError: modifiers that llm-compressor refuses to combine.
    """
    if method.modifiers is not None:
        section = f"methods.{name}.modifiers"
        llm_modifiers.oneshot(policy, tokenizer, modifiers, calibration, section, run.params_file)
        whole = load_causal_lm(model)  # without llm-compressor's hooks and its own way of saving
        whole.load_state_dict(policy.state_dict())
        return whole, None
    if method.magnitude is not None:
        for matrix in matrices(policy).values():
            cut_smallest(matrix, method.magnitude)
        return policy, None
    assert method.drop_layers is not None
    influence = block_influence(policy, calibration)
    kept = sorted(sorted(range(len(influence)), key=lambda i: influence[i])[method.drop_layers :])
    keep_layers(policy, kept)
    return policy, {"influence": [round(value, 6) for value in influence], "kept": kept}


def _log(found: Mapping[str, Mapping[str, Any]]) -> None:
    for when, result in found.items():
        grades = "  ".join(f"{name} {value:.3f}" for name, value in result["grades"].items())
        log.info("%-7s %.4f nats a token  %s", when, result["nats_per_token"], grades)


if __name__ == "__main__":
    stage(main, Config)
