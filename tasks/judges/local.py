"""A judge in a model folder: it compares how likely it finds the two labels as its reply. Nothing is sampled.

Imports no torch by itself, so a stage may import it at the top.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.models.chat_template import render
from tasks.models.folder import check_folder, load_causal_lm, load_tokenizer
from tasks.stage.errors import ModelError


class LocalJudge:
    """A causal language model asked through its chat template."""

    def __init__(
        self,
        folder: Path,
        labels: tuple[str, str],
        *,
        batch_size: int,
        device: str,
        dtype: str,
        chat_template_args: dict[str, Any],
    ) -> None:
        """Load the judge.

        Args:
            folder: the model folder.
            labels: replies to compare, one token each.
            batch_size: prompts read at once.
            device: where it runs, e.g. `cpu`, `cuda`.
            dtype: of the weights, a torch name.
            chat_template_args: passed to the chat template.

        Raises:
            ModelError: the folder cannot be used, or a label is not one token.
        """
        check_folder(folder)
        self.name = "local"
        self._tokenizer = load_tokenizer(folder)
        self._template_args = chat_template_args
        special = [token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._labels = self._label_tokens(folder, labels)
        self._model = load_causal_lm(folder, dtype).to(device).eval()
        self._longest = self._model.config.max_position_embeddings
        self._batch_size = batch_size
        self._tokens = 0

    def __call__(self, prompts: Sequence[str]) -> list[float | None]:
        """Return P(first label) against the second; None for a prompt that is longer than the model's context."""
        ids = self._tokenizer([self._rendered(p) for p in prompts], add_special_tokens=False)["input_ids"]
        self._tokens += sum(map(len, ids))
        readable = [i for i, tokens in enumerate(ids) if len(tokens) <= self._longest]
        votes: list[float | None] = [None] * len(prompts)
        for start in range(0, len(readable), self._batch_size):
            batch = readable[start : start + self._batch_size]
            for i, probability in zip(batch, self._probabilities([ids[i] for i in batch]), strict=True):
                votes[i] = probability
        return votes

    def usage(self) -> dict[str, float | None]:
        """Count the tokens read; one token decides, and none is written."""
        return {"prompt_tokens": self._tokens, "completion_tokens": 0, "cost": None}

    def _probabilities(self, ids: list[list[int]]) -> list[float]:
        import torch

        padded = self._tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        batch = padded.to(self._model.device)
        # Counted from the first token that is no padding, for models whose positions are absolute.
        positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = self._model(**batch, position_ids=positions, logits_to_keep=1, use_cache=False).logits[:, -1]
        first, second = (logits[:, token].double() for token in self._labels)
        # In float64: bfloat16 rounds what is near a half to a half, and that is a tie.
        probabilities: list[float] = torch.sigmoid(first - second).tolist()
        return probabilities

    def _rendered(self, prompt: str) -> str:
        # An answer that spells the token which ends a turn would else speak for the judge.
        messages = [{"role": "user", "content": self._special.sub(" ", prompt)}]
        return render(self._tokenizer, messages, add_generation_prompt=True, chat_template_args=self._template_args)

    def _label_tokens(self, folder: Path, labels: tuple[str, str]) -> list[int]:
        """Find each label's token right after the prompt, where a tokenizer may write it unlike anywhere else."""
        start = self._rendered("?")
        before = self._tokenizer(start, add_special_tokens=False)["input_ids"]
        tokens = []
        for label in labels:
            whole = self._tokenizer(start + label, add_special_tokens=False)["input_ids"]
            if whole[:-1] != before:
                raise ModelError(
                    f"{folder}: the label '{label}' is {len(whole) - len(before)} tokens; choose labels of one token "
                    f"each in the recipe's judge/constitution.yaml, e.g. [A, B]"
                )
            tokens.append(whole[-1])
        return tokens
