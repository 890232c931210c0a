"""The wording in which passages are put before a reader, and in which it answers; `prompt.json` of a data artifact.

Training rows, evaluation and serving go through `PromptFormat`, so a reader is asked as it was trained. With the tiny
recipe's format, one question and its answer read:

    Bedot lives in Lovar. [1]
    Bedot has a pet called Zumi. [2]
    Where does Bedot live?

    Bedot lives in Lovar. [1] Lovar
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationInfo, field_validator

from tasks.stage import config
from tasks.stage.artifact import read_json
from tasks.stage.config import Strict

PROMPT = "prompt.json"
"""File of a data artifact that holds the format in which its questions are asked."""
_HOLES = {
    "passage": ("{number}", "{text}"),
    "question": ("{passages}", "{question}"),
    "reply": ("{quote}", "{number}", "{answer}"),
    "abstain": (),
}
"""Columns that each template must hold, in braces; `abstain` may hold `{subject}`."""


class Reply(NamedTuple):
    """What a response says."""

    answer: str
    """The answer without its quotation and citations; empty where the response abstains."""
    cited: list[int]
    """Numbers of the passages it cites, from 1, each once and in the order of the response."""
    quote: str
    """The sentence that it quotes; empty where there is none."""
    abstained: bool
    """Whether it says that the passages do not hold the answer."""


class PromptFormat(Strict):
    """How passages and question become a user's message, and what an answer looks like."""

    passages: int = Field(ge=1)
    """Most passages in a prompt."""
    least_relevance: float | None = Field(default=None, gt=0, lt=1)
    """Probability of answering below which a passage that was found is not shown; null shows all of them."""
    passage: str
    """One passage, with `{number}` (from 1) and `{text}`; passages are joined by line feeds."""
    question: str
    """The user's message, with `{passages}` and `{question}`."""
    reply: str
    """An answer, with `{quote}`, `{number}` of the passage quoted, and `{answer}`."""
    abstain: str
    """What is said where no passage holds the answer; `{subject}` stands for whom the question is about."""
    citation: str
    """Regular expression of a citation; its first group is the passage's number."""

    @field_validator(*_HOLES)
    @classmethod
    def _has_holes(cls, template: str, info: ValidationInfo) -> str:
        """Refuse a template that lacks a column or names another one."""
        asked = _HOLES[str(info.field_name)]
        allowed = {*asked, "{subject}"} if info.field_name == "abstain" else set(asked)
        found = re.findall(r"\{\w*\}", template)
        if set(asked) - set(found) or set(found) - allowed:
            wanted = ", ".join(sorted(allowed))
            raise ValueError(f"'{template}' has {', '.join(found) or 'no column'} where it must have {wanted}")
        return template

    @field_validator("citation")
    @classmethod
    def _has_a_group(cls, pattern: str) -> str:
        """Refuse what is no regular expression, or one without a group for the number."""
        try:
            groups = re.compile(pattern).groups
        except re.error as e:
            raise ValueError(f"'{pattern}' is no regular expression: {e}") from None
        if groups != 1:
            raise ValueError(f"'{pattern}' has {groups} groups; it needs one, around the passage's number")
        return pattern

    def render(self, question: str, texts: Sequence[str], first: int = 1) -> str:
        """Write the user's message that asks `question` with the passages `texts`, numbered from `first`.

        Raises:
            ValueError: more passages than `passages`.
        """
        if len(texts) > self.passages:
            raise ValueError(f"{len(texts)} passages where the prompt takes {self.passages}")
        passages = "\n".join(
            filled(self.passage, number=str(number), text=text) for number, text in enumerate(texts, first)
        )
        return filled(self.question, passages=passages, question=question).strip("\n")

    def answer(self, quote: str, number: int, answer: str) -> str:
        """Write the reply that quotes the passage of this number, and answers."""
        return filled(self.reply, quote=quote, number=str(number), answer=answer)

    def abstention(self, subject: str) -> str:
        """Write the reply that the passages do not say it of `subject`."""
        return filled(self.abstain, subject=subject)


def filled(template: str, **columns: str) -> str:
    """Put the columns in place of their names in braces, once: braces in a passage are its own."""
    return re.sub(r"\{(\w+)\}", lambda hole: columns[hole[1]], template)


def parse(response: str, form: PromptFormat) -> Reply:
    """Read a response: what follows the last citation is the answer, what precedes the first one the quotation.

    A response that cites nothing, or says nothing after its citations, is its own answer. One that holds the words of
    `form.abstain` abstains, whatever else it says.
    """
    words = " ".join(response.split())
    if _plain(filled(form.abstain, subject="")) in _plain(words):
        return Reply(answer="", cited=[], quote="", abstained=True)
    found = list(re.finditer(form.citation, words))
    cited = list(dict.fromkeys(int(citation[1]) for citation in found))
    if not found:
        return Reply(answer=words, cited=cited, quote="", abstained=False)
    before, after = words[: found[0].start()].strip(), words[found[-1].end() :].strip()
    if not after:
        return Reply(answer=before, cited=cited, quote="", abstained=False)
    return Reply(answer=after, cited=cited, quote=before, abstained=False)


def read_format(data: Path) -> PromptFormat:
    """Read `prompt.json` of a data artifact. Raises ArtifactError where there is none, ConfigError where it is bad."""
    path = data / PROMPT
    return config.parse(path, read_json(path), PromptFormat)


def _plain(text: str) -> str:
    """Lower the case and keep letters, digits and single spaces."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())
