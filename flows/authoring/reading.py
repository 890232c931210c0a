"""How long passages are and how many a prompt shows, so that the longest prompt fits the model's context."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flows.authoring import choices
from flows.authoring.choices import Machine
from flows.authoring.documents import Documents
from flows.authoring.model import Model
from flows.authoring.questions import Questions
from flows.authoring.rows import Lengths, tokens
from tasks.retrieval.prompts import PromptFormat
from tasks.stage.errors import ConfigError

SHAPES = ((120, 4), (100, 3), (80, 2), (50, 2), (30, 2), (16, 2))
"""Words of a passage and passages of a prompt, the first that fits."""
ROWS = 200
"""Rows that are made to measure their tokens."""
ROOM = 24
"""Tokens of an instruction that is planted in a passage."""


@dataclass(frozen=True)
class Shape:
    """Passages and prompts."""

    words: int
    """Most words of a passage."""
    form: PromptFormat
    lengths: Lengths
    """Tokens of rows with as many passages as a prompt takes."""
    longest: int
    """Tokens of the longest prompt with its reply."""
    reply: int
    """Tokens of the longest reply with its quote."""
    answer: int
    """Tokens of the longest answer without one."""
    why: str


def form(passages: int) -> PromptFormat:
    """Give the wording of prompts and replies."""
    return PromptFormat(
        passages=passages,
        passage="[{number}] {text}",
        question="{passages}\n\n{question} Quote the passage that says it, with its number, then answer in few words.",
        reply="{quote} [{number}] {answer}",
        abstain="The passages do not say it.",
        citation=r"\[(\d+)\]",
    )


def rounds(asked: Questions) -> int:
    """Choose how many rows are made of each training question: up to 4, fewer where there are many."""
    return max(1, min(4, 1000 // max(1, len(asked.train))))


def shape(
    model: Model, documents: Documents, read: Callable[[int], Questions], here: Machine
) -> tuple[Questions, Shape]:
    """Choose the longest passages, and the most of them, that fit.

    Args:
        model: the model that reads.
        documents: to answer by.
        read: finds the answers of the questions in passages of at most so many words.
        here: the machine.

    Raises:
        ConfigError: not even two short passages fit the context.
    """
    most = min(model.context, choices.GPU_CONTEXT if here.gpu else choices.CPU_CONTEXT)
    said = "its context" if most == model.context else f"the most on a {'GPU' if here.gpu else 'CPU'}"
    needed = 0
    for words, passages in SHAPES:
        asked = read(words)
        made = _measured(model, documents, [*asked.train, *asked.test], words, form(passages))
        needed = made.longest
        if needed <= most:
            lengths = replace(made.lengths, rows=rounds(asked) * len(asked.train))
            why = f"the longest prompt and reply take {needed} tokens of {most}, {said}"
            return asked, replace(made, lengths=lengths, why=why)
    raise ConfigError(
        f"--model: {model.name} reads {most} tokens, {said}, and two passages of {SHAPES[-1][0]} words with question, "
        f"quote and answer take {needed}; take a model that reads more, or shorter quotes"
    )


def _measured(
    model: Model, documents: Documents, rows: Sequence[dict[str, str]], words: int, wording: PromptFormat
) -> Shape:
    """Make rows of random passages, and one of the longest of everything, and count their tokens."""
    rng = random.Random(0)
    texts = [chunk.text for chunk in documents.chunks(words)]
    longest = sorted(texts, key=len, reverse=True)[: wording.passages]
    few = rows if len(rows) <= ROWS else rng.sample(list(rows), ROWS)
    whole, prompts, replies, answers = [], [], [], []
    for row in few:
        drawn = rng.sample(texts, min(wording.passages, len(texts)))
        asked = [{"role": "user", "content": wording.render(row["question"], drawn)}]
        said = [*asked, {"role": "assistant", "content": wording.answer(row["quote"], 1, row["answer"])}]
        prompts.append(tokens(model, asked, prompt=True))
        whole.append(tokens(model, said, prompt=False))
        replies.append(whole[-1] - prompts[-1])
        answers.append(len(model.tokenizer(row["answer"], add_special_tokens=False)["input_ids"]))
    question = max((row["question"] for row in rows), key=len)
    opening = tokens(model, [{"role": "user", "content": wording.render(question, longest)}], prompt=True)
    reply = 8 * -(-round(1.25 * max(replies)) // 8)
    lengths = Lengths(max(1, len(rows)), sorted(whole), sorted(prompts), sorted(replies))
    total = opening + reply + ROOM
    return Shape(words, wording, lengths, total, reply, 8 * -(-round(1.25 * max(answers)) // 8) + 8, "")
