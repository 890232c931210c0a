"""lm-evaluation-harness with our rows and our progress; its results hold nothing of the machine.

Imports torch and the harness, so a stage imports it inside its `main`. `lm_eval.evaluate` is used instead of
`simple_evaluate`, which also starts half a dozen processes to describe the machine.
"""

import contextlib
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from datasets import Dataset
from jinja2.exceptions import TemplateError
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.task import TaskConfig
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length

from tasks.evaluation import context as context_length
from tasks.evaluation.context import TooLong
from tasks.evaluation.pictures import MARK
from tasks.evaluation.requests import generation_lengths, pair_lengths, without_system
from tasks.evaluation.shown import media
from tasks.models.folder import PROMPT, load_causal_lm, load_tokenizer
from tasks.models.turn_ends import RAISED, end_tokens
from tasks.stage.config import suggest
from tasks.stage.errors import ConfigError, ModelError
from tasks.stage.progress import Progress

logging.getLogger("lm_eval").setLevel(logging.WARNING)


class RowsTask(ConfigurableTask):
    """A task whose rows are given: nothing is downloaded, and the datasets cache is not involved."""

    def __init__(self, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self._rows = rows
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Serve the rows as the split `test`."""
        self.dataset = {"test": Dataset.from_list(self._rows)}

    def doc_to_text(self, doc: Any, doc_to_text: Any = None) -> Any:
        """Write the question, behind a `MARK` for each picture or sound of the row."""
        text = super().doc_to_text(doc, doc_to_text)
        return MARK * len(media(doc)) + text if isinstance(text, str) else text


class ReportingLM(HFLM):
    """A Hugging Face model that reports each batch."""

    def __init__(self, *args: Any, progress: Progress, too_long: TooLong, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._progress = progress
        self._too_long = too_long
        self.unanswered: set[tuple[str, int]] = set()
        self._total = 0
        self._done = 0
        self._ends = end_tokens(self.model, self.tokenizer)
        self._published = False
        self.warned = False

    @contextlib.contextmanager
    def as_published(self) -> Iterator[None]:
        """Render and tokenize as the harness's own class inside the block, for scores that others publish too."""
        self._published = True
        self.add_bos_token = None  # as the tokenizer has it
        try:
            yield
        finally:
            self._published = False
            self.add_bos_token = False

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Answer the requests, greedily or as the task says; one that is left out as too long gets "".

        Raises:
            DataError: a prompt and its answer are longer than the context, unless `too_long` is `unanswered`.
        """
        prompts, answers = generation_lengths(self, requests, self.max_gen_toks)
        fit, unanswered = context_length.answerable(requests, prompts, answers, self.max_length, self._too_long)
        self.unanswered |= unanswered
        self._begin(len(fit))
        texts = super().generate_until([requests[i] for i in fit], disable_tqdm=True) if fit else []
        text_by_number = dict(zip(fit, texts, strict=True))
        return [text_by_number.get(i, "") for i in range(len(requests))]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score the given continuations, in nats. Raises DataError when one does not fit the context."""
        prompts, answers = pair_lengths(self, requests)
        context_length.require_scorable(requests, prompts, answers, self.max_length)
        self._begin(len(requests))
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Score whole texts, in nats, in windows as long as the context."""
        self._begin(len(requests))
        scores: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return scores

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation by the model's template. The harness would leave out a system message it refuses.

        Raises:
            ModelError: the template refuses the conversation.
        """
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                    **self.chat_template_args,
                )
            )
        except (TemplateError, *RAISED) as e:
            roles = ", ".join(message["role"] for message in chat_history)
            if self._published and "system" in roles:
                return without_system(self, chat_history, add_generation_prompt)
            raise ModelError(f"the chat template refuses a conversation of {roles} ({e})") from e

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenize a prompt and an answer, apart.

        The harness moves white space at the end of the prompt into the answer. In a chat template that is the line
        break after `assistant`, which no model is trained to write: it doubled the loss of short answers.
        """
        if self._published:
            pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
            return pair
        return self.tok_encode(context), self.tok_encode(continuation)

    def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = super()._model_generate(context, *args, **kwargs)
        self._report(len(context), "answering")
        answers = tokens[:, context.shape[1] :]  # the end token is no part of the text, nor is anything behind it
        ended = torch.isin(answers, torch.tensor(self._ends, device=answers.device)).cumsum(1) > 0
        answers[ended] = self.tokenizer.pad_token_id
        return tokens

    def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
        logits = super()._model_call(inps, *args, **kwargs)
        self._report(len(inps), "scoring references")
        return logits

    def _begin(self, rows: int) -> None:
        self._total = rows
        self._done = 0

    def _report(self, rows: int, label: str) -> None:
        self._done += rows
        self._progress.update(min(self._done, self._total), self._total, label)


def build_task(path: Path, task: dict[str, Any], rows: list[dict[str, Any]]) -> RowsTask:
    """Build one task. Raises ConfigError for a key that lm-eval does not know, or more than one filter."""
    fields = set(TaskConfig.__dataclass_fields__)
    for key in task:
        if key not in fields:
            raise ConfigError(f"{path}: unknown key '{key}'{suggest(key, fields)} (lm-eval TaskConfig)")
    if len(task.get("filter_list", [])) > 1:
        raise ConfigError(f"{path}: filter_list has more than one filter; keep one, so that each row has one score")
    return RowsTask({**task, "test_split": "test"}, rows)


def load(
    folder: Path,
    device: str,
    dtype: str,
    batch_size: int,
    chat_template_args: dict[str, Any],
    too_long: TooLong,
    progress: Progress,
) -> ReportingLM:
    """Load a model folder for evaluation, on `device` in `dtype`."""
    model = load_causal_lm(folder, dtype, soft_prompt=True, quantized=True).to(device)
    soft = model.active_peft_config.num_virtual_tokens if (folder / PROMPT).exists() else 0
    tokenizer = load_tokenizer(folder)
    notices = logging.getLogger("lm_eval.models.huggingface")
    notices.setLevel(logging.ERROR)  # it warns that a loaded model ignores the arguments for loading one
    lm = ReportingLM(
        model,
        tokenizer=tokenizer,
        add_bos_token=False,  # the chat template writes every special token there is
        batch_size=batch_size,
        chat_template_args=chat_template_args,
        too_long=too_long,
        progress=progress,
        max_length=resolve_max_length(model.config, tokenizer) - soft,  # a soft prompt takes its place in the context
    )
    notices.setLevel(logging.WARNING)
    return lm


def ask(lm: Any, tasks: list[RowsTask], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Ask every row of every task.

    Returns:
        For each task, in the order of its rows: `id`, `question`, `answer`, `response` (empty where only the reference
        was scored), `images` and `audio` where the row has some, `scores`, and `unanswered: true` for a question
        left out as too long, whose scores are 0, and `uncontrolled: true` for one whose pictures or sound a control
        could not replace.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for task in tasks:
        task.set_fewshot_seed(seed)
    results = lm_eval.evaluate(
        lm,
        {"tasks": {task.task_name: task for task in tasks}},
        bootstrap_iters=0,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        log_samples=True,
    )
    samples = results["samples"]
    left_out = {"unanswered": lm.unanswered, "uncontrolled": getattr(lm, "uncontrolled", set())}
    return {task.task_name: [_row(task, sample, left_out) for sample in samples[task.task_name]] for task in tasks}


def _row(task: RowsTask, sample: dict[str, Any], left_out: dict[str, set[tuple[str, Any]]]) -> dict[str, Any]:
    """Return one question with its answer and scores, as `ask` describes it."""
    doc = sample["doc"]
    response = sample["filtered_resps"][0]
    names = {"unanswered": sample["doc_id"], "uncontrolled": doc["id"]}
    marks = {mark: True for mark, rows in left_out.items() if (task.task_name, names[mark]) in rows}
    return {
        "id": doc["id"],
        "question": str(task.doc_to_text(doc)).replace(MARK, ""),
        "answer": str(task.doc_to_target(doc)),
        "response": response if isinstance(response, str) else "",
        **{column: doc[column] for column in ("images", "audio") if doc.get(column)},
        "scores": {name: 0.0 if "unanswered" in marks else float(sample[name]) for name in sample["metrics"]},
        **marks,
    }
