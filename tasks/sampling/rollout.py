"""What PPO and GRPO do faster than the trainers of TRL they stand on: drawing answers, and scoring them token by token.

A mixin in front of `RLOOTrainer` or `GRPOTrainer`. It takes over where `_generate` and `_fold` are valid and leaves all
else (vLLM, continuous batching, images, DeepSpeed, FSDP, other models and settings) to TRL.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from trl.models.utils import unwrap_model_for_generation

from tasks.sampling.generate import DrawnAnswers, draw, plan
from tasks.sampling.packing import Folded, can_fold, fold


class Rollouts:
    """Faster rollouts for a TRL trainer, to be named before it among the bases."""

    def draw_answers(
        self: Any, prompts: Sequence[list[int]], images: Any, fields: dict[str, Any]
    ) -> DrawnAnswers | None:
        """Draw an answer to each prompt of token ids; None where TRL's own path is to be taken."""
        if self.use_vllm or self.use_transformers_continuous_batching or images or fields:
            return None
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            return None
        checkpointing = self.args.gradient_checkpointing_kwargs
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing
        ) as model:
            how = plan(model, self.generation_config)
            return None if how is None else draw(model, prompts, how)

    def _get_per_token_logps_and_entropies(
        self: Any,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Score answers as TRL does, on folded batches: log-probabilities and entropies `(B, C)`, 0 at padding."""
        inner = self.accelerator.unwrap_model(model)
        images = any(value is not None and value is not False for value in kwargs.values())
        if images or self.is_deepspeed_enabled or self.is_fsdp_enabled or not can_fold(inner):
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        size = batch_size or len(input_ids)
        logps, entropies = [], []
        for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True):
            folded = fold(ids, mask)
            if folded is None:
                scores = super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                    model, ids, mask, logits_to_keep, None, compute_entropy
                )
            else:
                answers = ids[:, -logits_to_keep:]
                scores = self._scored(model, folded, answers, mask[:, -logits_to_keep:].bool(), compute_entropy)
            logps.append(scores[0])
            entropies.append(scores[1])
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _scored(
        self: Any, model: Any, folded: Folded, answers: Tensor, mask: Tensor, compute_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return log-probabilities and, if asked for, entropies of the answers `(B, C)`, by TRL's head."""
        before = (folded.places[:, -answers.size(1) :] - 1).clamp(min=0)  # the token that each one is predicted from
        labels = torch.full_like(folded.ids, -100).view(-1)
        labels[before[mask]] = answers[mask]
        with self.accelerator.autocast():
            output = model(
                input_ids=folded.ids,
                attention_mask=folded.mask,
                position_ids=folded.positions,
                shift_labels=labels.view_as(folded.ids),
                fused_lm_head=True,
            )

        def back(values: Tensor) -> Tensor:
            return values.reshape(-1)[before].masked_fill(~mask, 0.0)

        return back(output.log_probs), back(output.entropy) if compute_entropy else None
