"""Models with a scalar head in PPO: the value model V, and the reward model that it starts from."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from tasks.sampling.packing import can_fold, fold


class ValueModel(nn.Module):
    """A sequence classifier whose scalar head looks at every token, on folded batches where that pays."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier
        self._folds = can_fold(classifier.base_model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """V after each token, `(B, L)`, in float32; anything at padding."""
        folded = fold(input_ids, attention_mask) if self._folds else None
        if folded is None:
            return self._values(input_ids=input_ids, attention_mask=attention_mask)
        return folded.back(
            self._values(input_ids=folded.ids, attention_mask=folded.mask, position_ids=folded.positions)
        )

    def _values(self, **inputs: Tensor) -> Tensor:
        values: Tensor = self.classifier.score(self.classifier.base_model(**inputs, use_cache=False).last_hidden_state)
        return values[..., 0].float()


class RewardModel(nn.Module):
    """A sequence classifier as TRL calls it for rewards, on folded batches where that pays."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.values = ValueModel(classifier)
        self.pad = classifier.config.pad_token_id

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Tensor) -> Any:
        """Scores `(B, 1)` as `logits`: as transformers has it, of the last token that is not the padding token."""
        if others:  # e.g. token types, which have to be folded too
            return self.values.classifier(input_ids=input_ids, attention_mask=attention_mask, **others)
        place = torch.arange(input_ids.size(1), device=input_ids.device)
        last = (place * (input_ids != self.pad)).argmax(1, keepdim=True)
        return SequenceClassifierOutput(logits=self.values(input_ids, attention_mask).gather(1, last))
