"""Online reinforcement learning from AI feedback: DPO on the policy's own fresh answers (Guo et al., arXiv:2402.04792).

One raw row: {"prompt": [{"role": "user", "content": "Add 58 and 67."}], "answer": "125"}

At each step the policy samples two answers to some prompts, a judge that reads the constitution says which is better,
in both orders, and the policy learns from these preferences at once, by DPO, IPO or SLiC. Where the orders disagree the
pair is a tie and carries no gradient. `rlaif` does the same with pairs drawn once, before it learns; here they come
from the policy as it is, so that the judge sees what the policy has become. `answer` is for the graders, which are only
watched: the judge alone decides. It is the model in `--judge`, or an endpoint by the constitution in that folder.

`reward` in the curves is DPO's implicit reward of the fresh answers. It rises as the policy moves to where the judge
points, so the verdict on reward hacking asks whether the gold metric falls meanwhile. What is left out stands in
`tasks/rl/online_dpo.py`.
"""

import logging
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tasks.judges.endpoint import EndpointJudge
from tasks.judges.opening import JudgeSettings, OpenJudge, open_judge
from tasks.models.folder import load_causal_lm, load_tokenizer
from tasks.rewards import hacking
from tasks.rewards.composite import Rewards, RewardSpec
from tasks.rewards.trl import reward_functions
from tasks.rl.prompts import training_prompts
from tasks.stage import artifact, trainer_config
from tasks.stage.config import check_trainer
from tasks.stage.errors import ConfigError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import AdapterConfig, Verbatim
from tasks.training import fates
from tasks.training import trainer as training

log = logging.getLogger("polm")
row_rule = fates.prompts

RESERVED = (
    "beta", "num_generations", "num_generations_eval", "generation_batch_size", "steps_per_generation",
    "num_iterations", "epsilon", "epsilon_high", "reward_weights", "normalize_advantages", "reward_clip_range",
    "mask_truncated_completions", "router_aux_loss_coef", "sync_ref_model",
)  # fmt: skip
"""RLOO's settings that online DPO sets itself or has no use for."""


class Config(AdapterConfig):
    """`params/<recipe>/online_dpo.yaml`."""

    beta: float = Field(gt=0)
    """DPO's: the larger, the closer the policy stays to the reference, the model it starts from."""
    loss_type: Literal["sigmoid", "ipo", "hinge"]
    """`sigmoid` (DPO), `ipo` or `hinge` (SLiC)."""
    judge: JudgeSettings
    """Who prefers: the model in the folder `--judge`, or an endpoint."""
    graders: dict[str, RewardSpec] = Field(min_length=1)
    """Name to grader, all of weight 0: they are tracked on the sampled answers."""
    gold: str | None
    """The grader that says what is really wanted; the judge is held against it."""

    def verbatim(self, trainer_class: type[Any]) -> list[Verbatim]:
        """Name the sections of any method, without settings of RLOO's that are not online DPO's."""
        trainer, *others = super().verbatim(trainer_class)
        return [trainer._replace(reserved=(*trainer.reserved, *RESERVED)), *others]


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from trl import RLOOConfig

    return RLOOConfig


def main(config: Config, run: Run, *, model: Path, judge: Path, data: Path) -> None:
    """Improve `model` by the judge's preferences; write a model folder, its curves and `reward.json`."""
    check_weights(config, run.params_file)
    with run.timed("import"):
        from tasks.rl.online_dpo import OnlineDPOTrainer
    check_trainer(run.params_file, config.trainer, trainer_class(), (*trainer_config.RESERVED, *RESERVED))
    arguments = training.arguments(trainer_class(), config, run)
    tokenizer = load_tokenizer(model)
    prompts = training_prompts(config, run, arguments, tokenizer, model, data)
    rewards = Rewards(config.graders, run.params_file, judge)
    hacking.check_gold(run.params_file, config.gold, rewards)
    opened = open_judge(judge, config.judge, run.params_file, "judge.endpoint")
    opened.try_out()
    arguments.reward_weights = rewards.weights
    arguments.beta = 1.0  # non-zero: keep a reference
    trainer = OnlineDPOTrainer(
        model=load_causal_lm(model),
        judge=opened,
        dpo_beta=config.beta,
        dpo_loss=config.loss_type,
        gold=None if config.gold is None else rewards.names.index(config.gold),
        reward_funcs=reward_functions(rewards),
        args=arguments,
        train_dataset=prompts,
        processing_class=tokenizer,
        peft_config=training.peft_config(config, run, "CAUSAL_LM"),
    )
    figures = training.train(trainer, run)
    log_usage(opened, run)
    if run.main_process:
        curve = artifact.read_jsonl(run.out / "curves.jsonl")
        artifact.write_json(run.out / "metrics.json", {**figures, **judge_figures(curve)})
        hacking.write_rl_report(run, rewards, config.gold)
        training.finish(trainer, tokenizer, run)


def check_weights(config: Config, where: Path) -> None:
    """Raises ConfigError for a grader that would have a say: only the judge has."""
    for name, spec in config.graders.items():
        if spec.weight:
            raise ConfigError(
                f"{where}: graders.{name}.weight is {spec.weight:g}; the judge alone decides here, so write 0; to "
                f"learn from graders take grpo or ppo"
            )


def judge_figures(curve: list[dict[str, Any]]) -> dict[str, float]:
    """Say how far the judge can be trusted, as means over the curve: `judge_agreement`, `judge_ties`, …"""
    names = sorted({key for row in curve for key in row if key.startswith("judge/")})
    series = {name: [row[name] for row in curve if name in row] for name in names}
    return {name.replace("/", "_"): round(sum(values) / len(values), 6) for name, values in series.items()}


def log_usage(opened: OpenJudge, run: Run) -> None:
    """Say what the judge took in this process. It stays out of the artifact, as it differs once a stage was killed."""
    log.info("judge %s took since this process began: %s", opened.judge.name, opened.judge.usage())
    if isinstance(opened.judge, EndpointJudge):
        run.measure(judge_requests=opened.judge.requests, judge_replies_kept=opened.judge.cached)


if __name__ == "__main__":
    stage(main, Config)
