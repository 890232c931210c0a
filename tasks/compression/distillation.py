"""A student's trainer: TRL's `SFTTrainer` with a teacher's distribution beside the labels.

The loss of a token that carries loss is

    teacher_weight · temperature² · D(teacher ‖ student)  +  (1 − teacher_weight) · cross-entropy of the row's token

D is the generalised Jensen-Shannon divergence of GKD (Agarwal et al., arXiv:2306.13649, equation 1) at a temperature,
whose square keeps the gradient's size (Hinton et al., arXiv:1503.02531, section 2). With `on_policy` a share of the
batches is answered by the student first, and learnt from the teacher alone (GKD, algorithm 1).

Neither of TRL 1.16's own trainers does this. `DistillationTrainer` learns from the student's samples only, and not from
rows of answers. `GKDTrainer` hands the temperature to the sampling but not to the divergence, divides the loss of
sampled answers by the number of tokens of the rows they replaced, draws its coin from a generator that a resumed run
finds in another state, and learns from no token's label. This trainer leaves out: the teacher's logits kept on disk, a
head in chunks (memory is tokens with loss × vocabulary), DeepSpeed and FSDP for the teacher, tokenizers that differ.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig
from trl import SFTTrainer
from trl.models.utils import unwrap_model_for_generation

from tasks.models.turn_ends import turn_end
from tasks.sampling.generate import draw, plan
from tasks.stage.errors import ModelError

IGNORED = -100
"""Label of a token without loss."""
SAMPLED = "sampled"
"""Mark of a batch that the student answered: its labels are the student's own."""
PARTS = ("divergence", "cross_entropy", "teacher_agreement")
"""Means over tokens in the log: both parts of the loss, in nats, and the share with the same likeliest token."""


def divergence(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    """Return the generalised Jensen-Shannon divergence of each token, in nats, without the factor `temperature`².

    Args:
        student: logits `(N, V)`.
        teacher: logits `(N, V)`.
        beta: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher); between, with M = beta · teacher +
            (1 − beta) · student, it is beta · KL(teacher ‖ M) + (1 − beta) · KL(student ‖ M).
        temperature: that both logits are divided by.

    Returns:
        `(N,)`.
    """
    p, q = ((logits.float() / temperature).log_softmax(-1) for logits in (teacher, student))
    if beta == 0:
        return _kl(p, q)
    if beta == 1:
        return _kl(q, p)
    share = torch.tensor(beta, device=p.device)
    mixture = torch.logaddexp(p + share.log(), q + torch.log1p(-share))
    return beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p ‖ q) of log-probabilities `(N, V)`, shape `(N,)`."""
    return functional.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def same_tokens(student: Any, teacher: Any, names: tuple[Any, Any]) -> None:
    """Refuse a pair of tokenizers whose ids mean different tokens: a distribution over them cannot be compared.

    Args:
        student: tokenizer.
        teacher: tokenizer.
        names: folders of both, for the message.

    Raises:
        ModelError: naming the first difference.
    """
    student_tokens = {i: token for token, i in student.get_vocab().items()}
    teacher_tokens = {i: token for token, i in teacher.get_vocab().items()}
    for i in sorted(student_tokens.keys() | teacher_tokens.keys()):
        if student_tokens.get(i) != teacher_tokens.get(i):
            raise ModelError(
                f"{names[0]} and {names[1]}: different tokenizers: token {i} is {student_tokens.get(i)!r} for the "
                f"student and {teacher_tokens.get(i)!r} for the teacher; take a teacher of the same "
                f"family, or the method whose teacher_weight is 0 with `answers`, which passes text on and no "
                f"distribution"
            )
    student_end = _end(student)
    teacher_end = _end(teacher)
    if student_end != teacher_end:
        raise ModelError(
            f"{names[0]} and {names[1]}: the student ends an answer with {student_end!r} and the teacher with "
            f"{teacher_end!r}; take a teacher whose answers end alike"
        )


def _end(tokenizer: Any) -> str:
    """Return the token that ends an answer: by the chat template, or the end of a text where there is none."""
    end = turn_end(tokenizer)
    return str(tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id if end is None else end))


class Distillation(SFTTrainer):
    """`SFTTrainer` that learns from a teacher's distribution."""

    def __init__(
        self,
        *args: Any,
        teacher: Any,
        teacher_weight: float,
        beta: float,
        temperature: float,
        on_policy: float,
        sampling: GenerationConfig | None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of `SFTTrainer`, and these.

        Args:
            teacher: causal language model of the same vocabulary.
            teacher_weight: share of the divergence in the loss, above 0.
            beta: of the divergence.
            temperature: of both distributions.
            on_policy: share of the batches that the student answers.
            sampling: settings of those answers; None where `on_policy` is 0.

        Raises:
            ModelError: the logits differ in width, or the student is of a kind that cannot be sampled from.
        """
        super().__init__(*args, **kwargs)
        widths = [model.config.get_text_config().vocab_size for model in (self.model, teacher)]
        if widths[0] != widths[1]:
            raise ModelError(
                f"the student has {widths[0]} logits and the teacher {widths[1]}; take a teacher of the same family"
            )
        self.sampling_plan = plan(self.model, sampling) if sampling else None
        if on_policy and self.sampling_plan is None:
            raise ModelError(f"{type(self.model).__name__} cannot answer in training; set on_policy to null")
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.teacher_weight = teacher_weight
        self.beta = beta
        self.temperature = temperature
        self.on_policy = on_policy
        self._sums: dict[str, Tensor] = {}

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean over the tokens with loss, of all processes and accumulated batches; log its parts."""
        mode = "train" if model.training else "eval"
        weight = 1.0 if inputs.get(SAMPLED) else self.teacher_weight
        model_inputs = {k: v for k, v in inputs.items() if k not in ("labels", SAMPLED)}
        labels = inputs["labels"][:, 1:]
        loss_mask = labels != IGNORED
        outputs = model(**model_inputs, use_cache=False)
        student = outputs.logits[:, :-1][loss_mask]
        with torch.no_grad():
            teacher = self.teacher(**model_inputs, use_cache=False).logits[:, :-1][loss_mask]
        divergence_sum = divergence(student, teacher, self.beta, self.temperature).sum()
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight < 1):  # else it is only logged
            cross_entropy_sum = functional.cross_entropy(student.float(), labels[loss_mask], reduction="sum")
        tokens = loss_mask.sum()
        argmax_matches = (student.argmax(-1) == teacher.argmax(-1)).sum()
        loss = weight * self.temperature**2 * divergence_sum + (1 - weight) * cross_entropy_sum
        parts = torch.stack([loss, divergence_sum, cross_entropy_sum, argmax_matches, tokens]).detach().double()
        self._sums[mode] = self._sums.get(mode, 0) + self.accelerator.reduce(parts)
        loss = loss / torch.as_tensor(tokens if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss since the last log, and the evaluation's loss: means over tokens, not batches."""
        mode = "train" if self.model.training else "eval"
        if mode in self._sums:
            *sums, tokens = self._sums.pop(mode).tolist()
            loss, *parts = (total / max(tokens, 1) for total in sums)
            for name, mean in zip(PARTS, parts, strict=True):
                self._metrics[mode][name] = [mean]
            if "eval_loss" in logs:
                logs["eval_loss"] = loss
        super().log(logs, start_time)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Return the batches of a step, in a share of the steps answered by the student, and their tokens with loss.

        The coin and the draws depend on the seed and the step alone: a resumed run, whose generator is set only after
        its first batch was fetched, throws the same, and all processes agree.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.on_policy or not batches:
            return batches, items
        step_seed = self.args.seed * 1_000_003 + self.state.global_step
        with torch.random.fork_rng():
            torch.manual_seed(step_seed)
            if torch.rand(()) >= self.on_policy:
                return batches, items
            torch.manual_seed(step_seed * self.accelerator.num_processes + self.accelerator.process_index)
            checkpointing = self.args.gradient_checkpointing_kwargs
            with unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing
            ) as model:
                batches = [self._answer(model, batch) for batch in batches]
        return batches, self._get_num_items_in_batch(batches, device)

    def _answer(self, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace each row's first answer by the student's own, and collate the rows as the trainer does."""
        assert self.sampling_plan is not None, "a share of answers comes with the way to draw them"
        prompts = []
        for padded_ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            ids = padded_ids[mask.bool()].tolist()
            has_loss = labels[mask.bool()] != IGNORED
            prompts.append(ids[: int(has_loss.int().argmax())] if has_loss.any() else ids)
        training = model.training
        answers = draw(model.eval(), prompts, self.sampling_plan).ids
        model.train(training)
        rows = [
            {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return {**self.data_collator(rows), SAMPLED: True}
