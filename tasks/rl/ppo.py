"""Proximal policy optimisation (Schulman et al., arXiv:1707.06347) for language models, on TRL's `RLOOTrainer`.

TRL has no PPO any more. Its `RLOOTrainer` samples answers (with vLLM where there is one), scores them, keeps the
reference and the adapter, and goes over a rollout in minibatches and epochs (`steps_per_generation`, `num_iterations`).
This module turns it into PPO in the form of Ziegler et al. (arXiv:1909.08593) and Ouyang et al. (arXiv:2203.02155),
with the details of Huang et al. (arXiv:2403.17031):

- a value model V that starts as a copy of the reward model, its head applied to every token;
- a token's reward is -kl_coef·(log π - log π_ref), that of the last token has the answer's score added;
- advantages by GAE (arXiv:1506.02438), whitened over the rollout; clipped ratio, clipped value;
- new minibatches in each epoch over a rollout; a fixed or adaptive KL coefficient.

The log-probabilities of a rollout are those that its tokens were drawn with (`tasks/sampling/rollout.py`), unless a
forward pass over the answers would give others.

What differs from Huang et al.: losses are averaged over the tokens of the whole rollout and not of each micro-batch, so
that micro-batches, accumulation and processes do not change the result; gradients are clipped, rewards not whitened.
What is left out: an entropy bonus (c2 of arXiv:1707.06347, eq. 9), bootstrapping the value of an answer cut off at its
length limit (it counts as ended), images, the router loss of mixtures of experts, an adapter for the value model (all
its weights are trained), DeepSpeed, FSDP and fp16. Several processes train by DDP.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from trl import RLOOConfig, RLOOTrainer
from trl.trainer.utils import disable_dropout_in_model, shuffle_sequence_dict, split_tensor_dict

from tasks.rl.ppo_loss import adapted, gae, moments, sums, surrogate, token_rewards, value_loss, whiten
from tasks.rl.value import RewardModel, ValueModel
from tasks.rl.value_training import ValueTraining
from tasks.sampling.rollout import Rollouts
from tasks.stage.errors import ConfigError


@dataclass
class PPOConfig(RLOOConfig):
    """RLOO's settings; one answer per prompt will do, as the baseline is V and not the other answers' mean."""

    num_generations: int | None = 1
    """Answers per prompt and rollout."""

    def __post_init__(self) -> None:
        answers = self.num_generations
        self.num_generations = 2  # what RLOO insists on
        super().__post_init__()
        self.num_generations = answers


class PPOTrainer(Rollouts, ValueTraining, RLOOTrainer):
    """PPO. `args.beta` only has to be non-zero, which makes RLOO keep a reference; the penalty is `kl_coef`."""

    reward_funcs: list[Any]
    _name = "PPO"
    _tag_names: ClassVar[list[str]] = ["trl", "ppo"]
    _paper: ClassVar[dict[str, str]] = {"title": "Proximal Policy Optimization Algorithms", "id": "1707.06347"}

    def __init__(
        self,
        *args: Any,
        value_model: Any,
        gamma: float,
        gae_lambda: float,
        kl_coef: float,
        kl_target: float | None,
        kl_horizon: float,
        value_clip: float,
        value_coef: float,
        value_learning_rate: float,
        missing_eos_penalty: float,
        whiten_advantages: bool,
        **kwargs: Any,
    ) -> None:
        """Positional and other arguments are RLOO's; `value_model` is a sequence classifier, the rest is as in `ppo:`.

        Raises:
            ConfigError: DeepSpeed, FSDP or fp16 is asked for.
        """
        super().__init__(*args, **kwargs)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or self.args.fp16:
            raise ConfigError("ppo trains in bf16 or fp32, several processes by DDP; not by DeepSpeed, FSDP or in fp16")
        disable_dropout_in_model(value_model)
        if self.args.gradient_checkpointing:
            value_model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        self.value_model = self.accelerator.prepare_model(ValueModel(value_model).train())
        self.reward_funcs = [RewardModel(f) if isinstance(f, PreTrainedModel) else f for f in self.reward_funcs]
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.kl_coef = kl_coef
        self.kl_target = kl_target
        self.kl_horizon = kl_horizon
        self.value_clip = value_clip
        self.value_coef = value_coef
        self.value_learning_rate = value_learning_rate
        self.missing_eos_penalty = missing_eos_penalty
        self.whiten_advantages = whiten_advantages
        self._buffered_inputs: list[dict[str, Tensor]] | None = None
        self._scores = torch.empty(0)
        self._caught: list[Tensor] = []
        self._drawn_logps: Tensor | None = None

    # A rollout. RLOO keeps only sums of what is needed here per token, so that is caught on the way.

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        per_function = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        scores = (per_function * self.reward_weights.to(per_function.device)).nansum(1)
        if self.reward_clip_range:
            scores = scores.clamp(*self.reward_clip_range)
        start = self.accelerator.process_index * len(prompts)
        self._scores = scores[start : start + len(prompts)]
        return per_function

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> list[list[int]]:
        answers = self.draw_answers(prompt_ids, images, multimodal_fields)
        if answers is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields)
        # Under autocast, padded further or at another temperature, a forward pass over the answers gives others.
        as_drawn = not self.args.bf16 and self.pad_to_multiple_of is None
        self._drawn_logps = answers.logps if as_drawn and answers.temperature == self.temperature else None
        return answers.ids

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        logps = self._drawn_logps
        self._drawn_logps = None  # the policy's come first, then the reference's
        scores = super()._get_per_token_logps_and_entropies(*args, **kwargs) if logps is None else (logps, None, None)
        self._caught.append(scores[0].float())
        return scores

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        self._caught.clear()
        rollout = super()._generate_and_score_completions(inputs)
        old_logps, ref_logps = self._caught
        mask = rollout["completion_mask"]
        batch = {key: rollout[key] for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
        with torch.no_grad():
            values = self._values(batch, self.args.per_device_train_batch_size) * mask
        last = rollout["completion_ids"].gather(1, mask.sum(1, keepdim=True) - 1)[:, 0]
        ended = torch.isin(last, torch.tensor(self.eos_token_ids, device=last.device))
        scores = self._scores - self.missing_eos_penalty * ~ended
        kl = (old_logps - ref_logps) * mask
        advantages = gae(token_rewards(scores, kl, mask, self.kl_coef), values, self.gamma, self.gae_lambda)
        returns = advantages + values
        self._log_rollout(kl, ended, returns, values, mask)
        if self.whiten_advantages:
            advantages = whiten(advantages, mask, *self._moments(advantages, mask))
        batch |= {"old_logps": old_logps, "values": values, "returns": returns, "advantages": advantages}
        return batch | {"weight": mask / self._mean(mask.sum(1))}

    def _log_rollout(self, kl: Tensor, ended: Tensor, returns: Tensor, values: Tensor, mask: Tensor) -> None:
        """Log what a rollout shows, and let the KL coefficient follow."""
        mode = "train" if self.model.training else "eval"
        metrics = self._metrics[mode]
        nats = self._mean(kl.sum(1))
        metrics["kl"][-1] = nats  # RLOO's is per token, the target and the literature's are per answer
        metrics["kl_coef"].append(self.kl_coef)
        metrics["eos_rate"].append(self._mean(ended))
        unexplained, variance = self._moments(returns - values, mask)[1], self._moments(returns, mask)[1]
        metrics["explained_variance"].append((1 - unexplained / variance.clamp(min=1e-8)).item())
        if self.kl_target is not None and mode == "train":
            self.kl_coef = adapted(self.kl_coef, nats, self.kl_target, self.args.generation_batch_size, self.kl_horizon)

    def _values(self, batch: dict[str, Tensor], size: int) -> Tensor:
        """Compute V before each token of the answer is chosen, `(B, C)`, `size` rows at a time; anything at padding."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1).split(size)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1).split(size)
        values = torch.cat([self.value_model(*rows) for rows in zip(ids, attention_mask, strict=True)])
        return values[:, batch["prompt_ids"].size(1) - 1 : -1]

    def _mean(self, x: Tensor) -> float:
        """Compute the mean over all processes, each of which has as many rows."""
        return self.accelerator.reduce(x.float().mean(), "mean").item()

    def _moments(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and variance over the answers' tokens of all processes."""
        return moments(self.accelerator.reduce(sums(x, mask)))

    # An update.

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Tensor]:
        steps = self.args.steps_per_generation
        parts = self._buffered_inputs
        if self.model.training and parts and self._step % steps == 0 and self._step % (steps * self.num_iterations):
            rollout = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            self._buffered_inputs = split_tensor_dict(shuffle_sequence_dict(rollout), steps)
        return super()._prepare_inputs(generation_batch)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        logps, entropy, _ = self._get_per_token_logps_and_entropies(
            model, ids, attention_mask, inputs["completion_ids"].size(1), compute_entropy=True
        )
        old_logps = inputs["old_logps"]
        values = self._values(inputs, len(ids))
        log_ratio = logps - old_logps
        ratio = torch.exp(log_ratio.detach())
        parts = {
            "policy_loss": surrogate(logps, old_logps, inputs["advantages"], self.epsilon_low, self.epsilon_high),
            "value_loss": value_loss(values, inputs["values"], inputs["returns"], self.value_clip),
            "entropy": entropy.detach(),
            "clip_fraction": ((ratio < 1 - self.epsilon_low) | (ratio > 1 + self.epsilon_high)).float(),
            "approx_kl": ratio - 1 - log_ratio.detach(),  # joschu.net/blog/kl-approx.html, "k3"
        }
        means = torch.stack([(x * inputs["weight"]).sum(1).mean() for x in parts.values()])
        global_means = self.accelerator.reduce(means.detach(), "mean").tolist()
        for name, value in zip(parts, global_means, strict=True):
            self._metrics["train" if self.model.training else "eval"][name].append(value)
        return means[0] + self.value_coef * means[1]
