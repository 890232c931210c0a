"""Online DPO (Guo et al., arXiv:2402.04792) on TRL's `RLOOTrainer`.

The policy samples two answers to each prompt, a judge prefers one, the policy is updated at once: `RLOOTrainer` samples
(with vLLM where there is one), keeps the reference and the adapter, and calls graders; judging and the loss are here.

TRL 1.16 has an `OnlineDPOTrainer` (`trl.experimental`) that is not used. It knows scores of single answers and no judge
of pairs; a tie counts as a win of the first answer and is learnt (`mask = first_half >= second_half`); gradients of
accumulated batches are added up and not averaged, because its `training_step` replaces the one that divides; a list of
betas fails on a float index; the KL that it logs counts the padding after an answer; graders are logged as one sum, so
that no gold metric can stand beside; and the chat template takes no arguments (`enable_thinking`). Most of this is in
one method of 150 lines, so that correcting it would be replacing it.

What is left out: several updates on one pair of answers, more than two answers to a prompt, several judges.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu
from trl import RLOOTrainer

from tasks.judges.opening import OpenJudge
from tasks.judges.protocol import Judgement, Pair, judge_pairs, spoken
from tasks.sampling.rollout import Rollouts
from tasks.stage.errors import ConfigError

Loss = Literal["sigmoid", "ipo", "hinge"]


def preference_loss(margins: Tensor, beta: float, loss_type: Loss) -> Tensor:
    """Compute the loss of each pair, by how much more the policy moved towards the preferred answer than to the other.

    Args:
        margins: `log π(y+)/π_ref(y+) - log π(y-)/π_ref(y-)`, any shape, in nats.
        beta: the larger, the closer the policy stays to the reference.
        loss_type: `sigmoid` is DPO (arXiv:2305.18290, eq. 7), `ipo` is IPO (arXiv:2310.12036, eq. 17), `hinge` is SLiC
            (arXiv:2305.10425) in the form of Guo et al.
    """
    if loss_type == "sigmoid":
        return -logsigmoid(beta * margins)
    if loss_type == "ipo":
        return (margins - 1 / (2 * beta)).square()
    return relu(1 - beta * margins)


class OnlineDPOTrainer(Rollouts, RLOOTrainer):
    """Two answers to each prompt, a judge's preference, one update.

    `args.num_generations` is 2, a rollout is one step's answers (`steps_per_generation` is
    `gradient_accumulation_steps`), and `args.beta` only has to be non-zero, which makes RLOO keep a reference.
    """

    _name = "Online DPO"
    _tag_names: ClassVar[list[str]] = ["trl", "online-dpo"]
    _paper: ClassVar[dict[str, str]] = {
        "title": "Direct Language Model Alignment from Online AI Feedback",
        "id": "2402.04792",
    }

    def __init__(
        self, *args: Any, judge: OpenJudge, dpo_beta: float, dpo_loss: Loss, gold: int | None, **kwargs: Any
    ) -> None:
        """Positional and other arguments are RLOO's.

        Args:
            judge: who prefers.
            dpo_beta: see `preference_loss`.
            dpo_loss: likewise.
            gold: which of the graders says what is really wanted; None for none.

        Raises:
            ConfigError: a pair of answers would be torn apart.
        """
        super().__init__(*args, **kwargs)
        if self.args.per_device_train_batch_size % 2:
            raise ConfigError(
                f"trainer.per_device_train_batch_size is {self.args.per_device_train_batch_size}; it counts answers, "
                f"which come in pairs: make it even"
            )
        self.judge = judge
        self.dpo_beta = dpo_beta
        self.dpo_loss = dpo_loss
        self.gold = gold
        self._preferences = torch.empty(0)
        self._caught: list[Tensor] = []

    # A rollout.

    def _generate_single_turn(self, prompt_ids: Any, images: Any, multimodal_fields: Any) -> list[list[int]]:
        answers = self.draw_answers(prompt_ids, images, multimodal_fields)
        if answers is None:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields)
        return answers.ids

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        per_grader: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        start = self.accelerator.process_index * len(prompts)
        scores = [0.0] * len(prompts)
        if self.gold is not None:
            scores = per_grader[start : start + len(prompts), self.gold].tolist()
        answers = [str(turns[-1]["content"]).strip() for turns in completions]
        pairs = [
            Pair(spoken(prompts[i]), (answers[i], answers[i + 1]), (scores[i], scores[i + 1]))
            for i in range(0, len(prompts), 2)
        ]
        judgements = self._judged(pairs)
        self._log_judge(pairs, judgements)
        signs = [0.0 if j is None or j.winner is None else 1.0 - 2.0 * j.winner for j in judgements]
        self._preferences = torch.tensor(signs, device=self.accelerator.device)
        return per_grader

    def _judged(self, pairs: Sequence[Pair]) -> list[Judgement | None]:
        """Ask for verdicts; None for a pair that the judge is not shown: equal answers, or one it must not see."""
        accepts = self.judge.constitution.accepts
        is_shown = [pair.answers[0] != pair.answers[1] and all(map(accepts, pair.answers)) for pair in pairs]
        questions = list(compress(pairs, is_shown))
        verdicts = iter(judge_pairs(*self.judge, questions) if questions else [])
        return [next(verdicts) if yes else None for yes in is_shown]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scores = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if not torch.is_grad_enabled():  # RLOO keeps only sums of what is needed here for each answer
            self._caught.append(scores[0].float())
        return scores

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a rollout whose rows are pairs, so that no shuffling or splitting parts them: `(P, 2, …)`."""
        self._caught.clear()
        rollout = super()._generate_and_score_completions(inputs)
        logps, ref_logps = self._caught
        mask = rollout["completion_mask"]
        ref_logps = (ref_logps * mask).sum(1).view(-1, 2)
        self._log_rollout((logps * mask).sum(1).view(-1, 2) - ref_logps)
        keys = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        pairs = {key: rollout[key].unflatten(0, (-1, 2)) for key in keys}
        return {**pairs, "ref_logps": ref_logps, "preferences": self._preferences}

    def _log_judge(self, pairs: Sequence[Pair], judgements: Sequence[Judgement | None]) -> None:
        """Log how often the judge decides, agrees with gold, and goes by the place (0.5 is not at all)."""
        both = zip(pairs, judgements, strict=True)
        won = [(pair.best, j.winner) for pair, j in both if j is not None and j.winner is not None]
        votes = [vote for j in judgements if j is not None for vote in (j.forward, j.reverse)]
        read = [vote for vote in votes if vote is not None]
        agreements = [best == winner for best, winner in won if best is not None]
        self._log_shares(
            {
                "judge/ties": (len(pairs) - len(won), len(pairs)),
                "judge/agreement": (sum(agreements), len(agreements)),
                "judge/position_bias": (sum(vote > 0.5 for vote in read), sum(vote != 0.5 for vote in read)),
                "judge/unreadable": (len(votes) - len(read), len(votes)),
            }
        )

    def _log_rollout(self, log_ratios: Tensor) -> None:
        """Log where the policy is on its fresh answers, before it learns from them.

        Args:
            log_ratios: `log π/π_ref` of each answer, `(P, 2)`, in nats.
        """
        metrics = self._metrics["train" if self.model.training else "eval"]
        for key in ("reward", "reward_std", "frac_reward_zero_std", "kl"):
            metrics[key].pop()  # RLOO's own: of graders without weight, and a KL per token
        signs = self._preferences
        decided = signs.abs()
        margins = signs * (log_ratios[:, 0] - log_ratios[:, 1])
        chosen = torch.where(signs < 0, log_ratios[:, 1], log_ratios[:, 0])
        self._log_shares(
            {
                "kl": (log_ratios.sum(), log_ratios.numel()),
                # DPO's implicit reward (arXiv:2305.18290, eq. 5, without the term of the prompt): what the policy
                # thinks that the judge likes in its answers.
                "reward": (self.dpo_beta * log_ratios.sum(), log_ratios.numel()),
                "rewards/chosen": (self.dpo_beta * (chosen * decided).sum(), decided.sum()),
                "rewards/rejected": (self.dpo_beta * (chosen * decided - margins).sum(), decided.sum()),
                "rewards/margins": (self.dpo_beta * margins.sum(), decided.sum()),
                "rewards/accuracies": ((margins > 0).sum(), decided.sum()),
            }
        )

    def _log_shares(self, parts: dict[str, tuple[Any, Any]]) -> None:
        """Log numerator over denominator, each summed over all processes; a share of nothing is left out."""
        sums = torch.tensor([list(map(float, part)) for part in parts.values()], device=self.accelerator.device)
        metrics = self._metrics["train" if self.model.training else "eval"]
        for name, (numerator, denominator) in zip(parts, self.accelerator.reduce(sums).tolist(), strict=True):
            if denominator:
                metrics[name].append(numerator / denominator)

    # An update.

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], -1).flatten(0, 1)
        attention_mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], -1).flatten(0, 1)
        mask = inputs["completion_mask"].flatten(0, 1)
        logps, entropy, _ = self._get_per_token_logps_and_entropies(
            model, ids, attention_mask, mask.size(1), compute_entropy=True
        )
        self._log_shares({"entropy": ((entropy.detach() * mask).sum(), mask.sum())})
        log_ratios = (logps * mask).sum(1).view(-1, 2) - inputs["ref_logps"]
        margins = inputs["preferences"] * (log_ratios[:, 0] - log_ratios[:, 1])
        # A mean over all pairs, ties included: micro-batches and accumulation then make no difference.
        return (preference_loss(margins, self.dpo_beta, self.dpo_loss) * inputs["preferences"].abs()).mean()
