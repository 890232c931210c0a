"""Reinforcement learning with PPO, from a reward model (RLHF; Ouyang et al., arXiv:2203.02155) or a checker (ReFT).

One raw row: {"prompt": [{"role": "user", "content": "Add 58 and 67."}], "answer": "125"}

The policy answers the prompts; an answer's score is `reward_weight` times the reward model's plus the graders', each by
its weight. A grader of weight 0 is tracked and not optimised: that is how the gold metric stands beside the reward.
With `reward_weight: 0` and a grader that checks the answer this is ReFT (Luong et al., arXiv:2401.08967), except that V
starts from the reward model and not from the policy. The algorithm, and what it leaves out, is in `tasks/rl/ppo.py`.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models import weights
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer
from tasks.rewards import hacking
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.rewards.trl import reward_functions
from tasks.rl.prompts import training_prompts
from tasks.stage import artifact, trainer_config
from tasks.stage.config import Strict, check_trainer
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig, Verbatim
from tasks.training import fates
from tasks.training import trainer as training

row_rule = fates.prompts
RESERVED = ("beta", "reward_weights", "normalize_advantages", "mask_truncated_completions", "router_aux_loss_coef")
"""RLOO's settings that PPO sets itself or has no use for."""


class PPO(Strict):
    """PPO's own numbers; those it shares with RLOO are in `trainer:`, e.g. `epsilon` and `num_iterations`."""

    gamma: float = Field(ge=0, le=1)
    """Discount per token."""
    gae_lambda: float = Field(ge=0, le=1)
    """0 trusts the value model, 1 the sampled rewards."""
    kl_coef: float = Field(ge=0)
    """Reward taken per nat that the policy is away from the reference; where it starts if it is adaptive."""
    kl_target: float | None = Field(gt=0)
    """Nats per answer that an adaptive coefficient aims at; null keeps `kl_coef` fixed."""
    kl_horizon: float = Field(gt=0)
    """Answers over which the adaptive coefficient moves; the larger, the slower."""
    value_clip: float = Field(gt=0)
    """How far a value may move from its rollout's before its loss stops falling, in units of the score."""
    value_coef: float = Field(gt=0)
    """Weight of the value loss beside the policy loss, which have one gradient norm."""
    value_learning_rate: float = Field(gt=0)
    """Learning rate of the value model; the policy's is `trainer.learning_rate`."""
    missing_eos_penalty: float = Field(ge=0)
    """Taken off the score of an answer that did not end within `trainer.max_completion_length`."""
    whiten_advantages: bool
    """Bring the advantages of a rollout to mean 0 and variance 1."""


class Config(AdapterConfig):
    """`params/<recipe>/ppo.yaml`."""

    reward_weight: float
    """Weight of the reward model's score; 0 only tracks it."""
    graders: dict[str, RewardSpec]
    """Name to grader, beside the reward model; may be empty."""
    gold: str | None
    """The grader that says what is really wanted; its fall under a rising reward is reported as hacking."""
    ppo: PPO

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Refuse sharding, which the value model beside the policy does not know."""
        return "the value model is not sharded; take DDP, as in infra/accelerate/multi_gpu.yaml" if sharding else None

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """Name the sections of any method, without settings of RLOO's that are not PPO's."""
        trainer, *others = super().verbatim(trainer_class)
        return [trainer._replace(reserved=(*trainer.reserved, *RESERVED)), *others]


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from tasks.rl.ppo import PPOConfig

    return PPOConfig


def main(config: Config, run: Run, *, model: Path, reward: Path, data: Path, judge: Path | None = None) -> None:
    """Improve `model` by the reward model and graders; write a model folder, its curves and `reward.json`.

    `judge` is for the grader `model_judge` only.
    """
    with run.timed("import"):
        from tasks.rl.ppo import PPOTrainer
    check_trainer(run.params_file, config.trainer, trainer_class(), (*trainer_config.RESERVED, *RESERVED))
    arguments = training.arguments(trainer_class(), config, run)  # chooses the GPU of this process, before any model
    rewards = Rewards(config.graders, run.params_file, judge)
    hacking.check_gold(run.params_file, config.gold, rewards)
    if not config.reward_weight and not any(rewards.weights):
        raise ConfigError(f"{run.params_file}: reward_weight and all graders' weights are 0; nothing to learn from")
    arguments.reward_weights = [config.reward_weight, *rewards.weights]
    arguments.beta = 1.0  # non-zero: keep a reference
    tokenizer = load_tokenizer(model)
    reward_tokenizer = load_tokenizer(reward)
    if tokenizer.get_vocab() != reward_tokenizer.get_vocab():
        raise ModelError(f"{reward}: another vocabulary than {model}; train the reward model from the same base")
    prompts = training_prompts(config, run, arguments, tokenizer, model, data)
    trainer = PPOTrainer(
        model=load_causal_lm(model),
        value_model=load_classifier(reward, tokenizer),
        reward_funcs=[load_classifier(reward, tokenizer), *reward_functions(rewards)],
        reward_processing_classes=[reward_tokenizer, *(None for _ in rewards.names)],
        args=arguments,
        train_dataset=prompts,
        processing_class=tokenizer,
        peft_config=training.peft_config(config, run, "CAUSAL_LM"),
        **config.ppo.model_dump(),
    )
    figures = training.train(trainer, run)
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", figures)
        hacking.write_rl_report(run, rewards, config.gold)
        training.finish(trainer, tokenizer, run)


def load_classifier(folder: Path, tokenizer: Any) -> Any:
    """Load a reward model. Raises ModelError for a folder that holds something else: its head would be random."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    check_folder(folder)
    architectures = AutoConfig.from_pretrained(folder).architectures or ["nothing"]
    if not architectures[0].endswith("ForSequenceClassification"):
        raise ModelError(
            f"{folder}: holds {architectures[0]} and no reward model; --reward takes what the reward stage wrote"
        )
    return weights.load_whole(
        AutoModelForSequenceClassification,
        folder,
        num_labels=1,
        dtype="float32",
        use_safetensors=True,
        pad_token_id=tokenizer.pad_token_id,
    )


if __name__ == "__main__":
    stage(main, Config)
