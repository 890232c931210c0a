"""Pruning: the weights or blocks that matter least are taken away, and training on heals the rest.

    magnitude   the smallest weights of each matrix become zero (Han et al., arXiv:1506.02626, section 3)
    wanda       those with the smallest |w| times the norm of their input (Sun et al., arXiv:2306.11695, eq. 1)
    sparsegpt   one column at a time, the rest making up for it (Frantar and Alistarh, arXiv:2301.00774, eq. 3 and 4)
    depth       blocks that change their input least: 1 - cosine of in and out (Men et al., arXiv:2403.03853, eq. 1)

Wanda and SparseGPT are llm-compressor's, unstructured or 2:4 (of four weights in a row two are zero, which GPUs can
use). Magnitude is done here, since its modifier leaves the weights whole in one shot. One raw row, which serves
calibration and healing (training split) and the loss (validation split): as in `sft`.

Healing is fine-tuning in which zeros stay zero: a mask is applied after each step of the optimizer. The model before
pruning may teach besides: a token's loss is then teacher_weight · KL(dense ‖ pruned) + (1 − teacher_weight) ·
cross-entropy, of the output distributions at temperature 1 (Hinton et al., arXiv:1503.02531), as the trainer of
`tasks/compression/distillation.py` computes it.

`prune.json` has the sparsity reached, the loss and the graders' means on held-out rows before, pruned and healed, and
which rows these were. The weights are written dense, zeros and all: the file is no smaller, and every other stage can
load it. `--method` names the entry of `methods:` that runs. What it leaves out: pruning heads or channels, a teacher's
hidden states (SquareHead: Kurtic et al., arXiv:2310.06927), and sharded training (FSDP), whose flat parameters the mask
does not know.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tasks.compression import calibration as calibration_rows
from tasks.compression import modifiers as llm_modifiers
from tasks.compression.calibration import Calibration
from tasks.compression.measure import GradedRows, Measure
from tasks.compression.pruning import block_influence, cut_smallest, healer, matrices, sparsity
from tasks.models.chat_template import mark_generation
from tasks.models.folder import load_causal_lm, load_tokenizer, save_model
from tasks.models.layers import depth, keep_layers
from tasks.rewards.composite import RewardSpec
from tasks.stage import artifact
from tasks.stage.config import Strict, check_trainer
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import TrlConfig, Verbatim
from tasks.training import audit, fates
from tasks.training import trainer as training

log = logging.getLogger("polm")
row_rule = fates.answers


class Method(Strict):
    """One way to prune: exactly one of the first three is set."""

    modifiers: dict[Literal["WandaPruningModifier", "SparseGPTModifier"], dict[str, Any]] | None
    """llm-compressor's modifiers, their fields verbatim."""
    magnitude: float | None = Field(gt=0, lt=1)
    """Share of the weights of each matrix that become zero, by size alone."""
    drop_layers: int | None = Field(ge=1)
    """Number of blocks taken away, those of least influence."""
    heal: bool
    """Whether the model is trained on afterwards, as `trainer:` says."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(way is not None for way in (self.modifiers, self.magnitude, self.drop_layers)) != 1:
            raise ValueError("set exactly one of modifiers, magnitude and drop_layers, and the others to null")
        return self


class Config(TrlConfig):
    """`params/<recipe>/prune.yaml`, with `dataset` and `trainer` of the healing."""

    methods: dict[str, Method]
    """Name of the method to how it prunes."""
    calibration: Calibration
    """Calibration rows of the methods."""
    held_out: GradedRows
    """Rows of the measurements."""
    teacher_weight: float = Field(ge=0, le=1)
    """Share of KL(dense ‖ pruned) in the healing's loss, beside the rows' own tokens; 0 is plain fine-tuning."""
    graders: dict[str, RewardSpec] = Field(min_length=1)
    """Name to grader of the held-out answers; each is reported by itself."""

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Refuse sharding, whose parts the mask of the zeros does not know, and llm-compressor in several processes."""
        if sharding:
            return "the mask that keeps the zeros is of whole matrices; take DDP, as in infra/accelerate/multi_gpu.yaml"
        compressed = [name for name, method in self.methods.items() if method.modifiers is not None]
        if processes > 1 and compressed:
            return f"the modifiers of methods.{compressed[0]} are llm-compressor's, which prunes in one; take null"
        return None

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """Return the settings that are passed on verbatim: `trainer:`, and each method's modifiers."""
        return [
            *super().verbatim(trainer_class),
            *(
                Verbatim(f"methods.{name}.modifiers.{kind}", values, llm_modifiers.fields(kind), llm_modifiers.RESERVED)
                for name, method in self.methods.items()
                for kind, values in (method.modifiers or {}).items()
            ),
        ]


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
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
    measure = Measure(config.held_out, config.graders, config.seed, run, data)
    with run.timed("import"):
        for section, values, fields, reserved in config.verbatim(trainer_class()):
            check_trainer(run.params_file, values, fields, reserved, section)
        arguments = training.arguments(trainer_class(), config, run)
        modifiers = llm_modifiers.build(method.modifiers or {}, f"methods.{name}.modifiers", run.params_file)
    tokenizer = load_tokenizer(model)
    mark_generation(tokenizer, model)
    if method.heal:
        audit.audited(config, run, data, config.dataset, tokenizer, trainer_class(), row_rule, model)
    calibration, record = calibration_rows.draw(config.calibration, tokenizer, data, config.seed, run.params_file)
    policy = load_causal_lm(model)
    parameters = {"before": sum(p.numel() for p in policy.parameters())}
    measures: dict[str, Any] = {"before": measure(policy.to(arguments.device), tokenizer, "before")}
    policy, blocks = prune(method, modifiers, name, policy.cpu(), tokenizer, calibration, run, model)
    measures["pruned"] = measure(policy.to(arguments.device), tokenizer, "pruned")
    figures: dict[str, float] = {}
    if method.heal:
        dense = load_causal_lm(model) if config.teacher_weight else None
        trainer = healer(run, arguments, config.dataset, policy, tokenizer, data, dense, config.teacher_weight)
        figures = training.train(trainer, run)
        # Without accelerate's wrapper, which computes in bf16 wherever the training did.
        policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        measures["healed"] = measure(policy, tokenizer, "healed")
    if run.main_process:
        parameters["after"] = sum(p.numel() for p in policy.parameters())
        report = {
            "sparsity": sparsity(policy),
            "parameters": parameters,
            "blocks": blocks,
            **measures,
            "calibration": record,
            "held_out": measure.record,
        }
        artifact.write_json(run.out / "prune.json", report)
        artifact.write_json(run.out / "metrics.json", {"parameters": parameters["after"], **figures})
        policy.config.use_cache = True
        save_model(policy, tokenizer, run.out)
        _log(measures)


def _leaves_one(dropped: int | None, where: str, blocks: int | None) -> None:
    """Raise ConfigError when no block would be left."""
    if dropped is not None and blocks is not None and dropped >= blocks:
        raise ConfigError(f"{where} is {dropped}, and the model has {blocks} blocks; leave at least one")


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
        The model, and for depth pruning the `influence` of each block and the indices `kept`; else None.

    Raises:
        ConfigError: modifiers that llm-compressor refuses to combine.
    """
    if method.modifiers is not None:
        section = f"methods.{name}.modifiers"
        llm_modifiers.oneshot(policy, tokenizer, modifiers, calibration, section, run.params_file)
        plain = load_causal_lm(model)  # without llm-compressor's hooks and its own way of saving
        plain.load_state_dict(policy.state_dict())
        return plain, None
    if method.magnitude is not None:
        for matrix in matrices(policy).values():
            cut_smallest(matrix, method.magnitude)
        return policy, None
    assert method.drop_layers is not None
    influence = block_influence(policy, calibration)
    by_influence = sorted(range(len(influence)), key=lambda i: influence[i])
    layers = sorted(by_influence[method.drop_layers :])
    keep_layers(policy, layers)
    return policy, {"influence": [round(value, 6) for value in influence], "kept": layers}


def _log(measures: Mapping[str, Mapping[str, Any]]) -> None:
    for when, result in measures.items():
        grades = "  ".join(f"{name} {value:.3f}" for name, value in result["grades"].items())
        log.info("%-7s %.4f nats a token  %s", when, result["nats_per_token"], grades)


if __name__ == "__main__":
    stage(main, Config)
