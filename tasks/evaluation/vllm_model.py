"""vLLM as a model of lm-evaluation-harness: its own class, with questions that do not fit found beforehand."""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.evaluation import context as context_length
from tasks.evaluation.context import TooLong
from tasks.evaluation.requests import generation_lengths, pair_lengths
from tasks.stage.errors import ConfigError


def load(
    folder: Path,
    arguments: dict[str, Any],
    dtype: str,
    batch_size: int,
    chat_template_args: dict[str, Any],
    too_long: TooLong,
    seed: int,
) -> Any:
    """Load a model folder into vLLM.

    Args:
        folder: of the model.
        arguments: of the harness's class, and through it of `vllm.LLM`.
        dtype: of the weights, a torch name.
        batch_size: rows handed over at once.
        chat_template_args: passed to the chat template.
        too_long: treatment of a question that does not fit the context.
        seed: of answers that are drawn.

    Raises:
        ConfigError: vLLM is not installed, or the folder holds an adapter.
    """
    if find_spec("vllm") is None:
        raise ConfigError("evaluate.yaml: vllm: vLLM is not installed; `pip install '.[gpu]'`, or set `vllm: null`")
    if (folder / "adapter_config.json").exists():
        raise ConfigError(f"evaluate.yaml: vllm: {folder} is an adapter; set `vllm: null`, for PyTorch")
    from lm_eval.models.vllm_causallms import VLLM

    class CheckedVLLM(VLLM):
        """The harness's vLLM model, whose prompts all fit."""

        def __init__(self) -> None:
            self.unanswered: set[tuple[str, int]] = set()
            template = dict(chat_template_args)
            super().__init__(
                str(folder), dtype=dtype, batch_size=batch_size, seed=seed, chat_template_args=template, **arguments
            )

        @contextlib.contextmanager
        def as_published(self) -> Iterator[None]:
            """Change nothing: it renders and tokenizes as the harness does."""
            yield

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
            """Answer the requests; one that is left out as too long gets "". Raises DataError as `too_long` says."""
            prompts, answers = generation_lengths(self, requests, self.max_gen_toks)
            fit, unanswered = context_length.answerable(requests, prompts, answers, self.max_length, too_long)
            self.unanswered |= unanswered
            texts = super().generate_until([requests[i] for i in fit], disable_tqdm=True) if fit else []
            text_by_number = dict(zip(fit, texts, strict=True))
            return [text_by_number.get(i, "") for i in range(len(requests))]

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            """Score the given continuations, in nats. Raises DataError when one does not fit the context."""
            prompts, answers = pair_lengths(self, requests)
            context_length.require_scorable(requests, prompts, answers, self.max_length)
            scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
            return scores

    return CheckedVLLM()
