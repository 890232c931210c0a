"""Group relative policy optimisation (Shao et al., arXiv:2402.03300) with rewards that can be checked.

One raw row: {"prompt": [{"role": "user", "content": "Add 358 and 967."}], "answer": "1325", "digits": 3}

For each prompt the policy samples a group of answers, graders score them, and an answer's advantage is its reward
against its group's. TRL's `GRPOTrainer` does the work, so current practice is a matter of `trainer:`: clip-higher
(`epsilon_high`, DAPO, arXiv:2503.14476), normalisation by a constant (`loss_type: dr_grpo`, `scale_rewards: none`,
Dr. GRPO, arXiv:2503.20783), masking of truncated answers. Three things are added here:

- `dynamic_sampling` (DAPO, eq. 11): a group whose answers all got the same reward teaches nothing. Such groups are
  replaced by groups of other prompts, for as many rounds as the recipe allows.
- `curriculum`: prompts in the order of a column, the easy ones first (dynamic sampling draws among all of them).
- the gold metric beside the reward on every sample (`tasks/rewards/hacking.py`).

What it leaves out: asynchronous sampling and tool use.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.models.multimodal import attention, load_model
from tasks.multimodal.images import IMAGES
from tasks.rewards import hacking
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.rewards.trl import reward_functions
from tasks.rl.prompts import training_prompts
from tasks.stage import artifact
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig
from tasks.training import fates
from tasks.training import trainer as training

row_rule = fates.prompts


class Config(AdapterConfig):
    """`params/<recipe>/grpo.yaml`, `grpo_dense.yaml`."""

    graders: dict[str, RewardSpec] = Field(min_length=1)
    """Name to grader; one of weight 0 is tracked and not optimised."""
    gold: str | None
    """The grader that says what is really wanted; its fall under a rising reward is reported as hacking."""
    dynamic_sampling: int = Field(ge=0)
    """Most rounds in which groups of equal rewards are replaced; 0 keeps them."""
    curriculum: str | None
    """Column to sort the prompts by, ascending; null shuffles them."""


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import GRPOConfig

    return GRPOConfig


def main(config: Config, run: Run, *, model: Path, data: Path, judge: Path | None = None) -> None:
    """Improve `model` on the recipe's prompts and write a model folder with its curves and `reward.json`.

    `judge` is for the grader `model_judge` only.
    """
    with run.timed("import"):
        from tasks.rl.grpo import DynamicGRPOTrainer
    arguments = training.arguments(trainer_class(), config, run)  # chooses the GPU of this process, before any model
    rewards = Rewards(config.graders, run.params_file, judge)
    hacking.check_gold(run.params_file, config.gold, rewards)
    arguments.reward_weights = rewards.weights
    if arguments.beta and (how := attention(model)):  # TRL loads the reference itself
        arguments.model_init_kwargs = {**(arguments.model_init_kwargs or {}), **how}
    policy, reader = load_model(model)
    prompts = training_prompts(config, run, arguments, reader, model, data)
    if config.dynamic_sampling and IMAGES in prompts.column_names:
        raise ConfigError(
            f"{run.params_file}: dynamic_sampling replaces no groups of prompts with pictures; set it to 0"
        )
    if config.curriculum is not None:
        prompts = ordered(prompts, config.curriculum, _needed(arguments), config.seed, run.params_file)
        arguments.shuffle_dataset = False
    trainer = DynamicGRPOTrainer(
        model=policy,
        reward_funcs=reward_functions(rewards),
        args=arguments,
        train_dataset=prompts,
        processing_class=reader,
        peft_config=training.peft_config(config, run, "CAUSAL_LM"),
        resampling_rounds=config.dynamic_sampling,
    )
    figures = training.train(trainer, run)
    if run.main_process:
        artifact.write_json(run.out / "metrics.json", figures)
        hacking.write_rl_report(run, rewards, config.gold)
        training.finish(trainer, reader, run)


def _needed(arguments: Any) -> int:
    """Count the prompts that the whole training asks for; none are left out when it is counted in epochs."""
    rollouts = arguments.max_steps * arguments.gradient_accumulation_steps
    rollouts = -(-rollouts // (arguments.steps_per_generation * arguments.num_iterations))
    return int(rollouts * arguments.generation_batch_size // arguments.num_generations)


def ordered(prompts: Any, column: str, needed: int, seed: int, where: Path) -> Any:
    """Draw the `needed` prompts of the training by the seed, and put the lowest value of `column` first.

    Raises:
        ConfigError: no such column.
    """
    if column not in prompts.column_names:
        raise ConfigError(f"{where}: curriculum is '{column}', and the prompts have {', '.join(prompts.column_names)}")
    sample = prompts.shuffle(seed=seed).select(range(min(needed, len(prompts)))) if needed > 0 else prompts
    values = sample[column]
    return sample.select(sorted(range(len(sample)), key=lambda i: values[i]))


if __name__ == "__main__":
    stage(main, Config)
