"""The format of a reader's prompt: what is rendered, what a response says, and which templates are refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.retrieval.prompts import PROMPT, PromptFormat, Reply, parse, read_format
from tasks.stage.artifact import write_json
from tasks.stage.errors import ArtifactError, ConfigError

FORM = PromptFormat(
    passages=2,
    passage="{text} [{number}]",
    question="{passages}\n{question}",
    reply="{quote} [{number}] {answer}",
    abstain="{subject}: not in the passages.",
    citation=r"\[(\d+)\]",
)


def test_passages_are_numbered_from_one_before_the_question() -> None:
    assert FORM.render("Who?", ["It is Bo.", "It is {question}."]) == "It is Bo. [1]\nIt is {question}. [2]\nWho?"
    assert FORM.render("Who?", []) == "Who?"


def test_more_passages_than_the_prompt_takes_are_refused() -> None:
    with pytest.raises(ValueError, match="3 passages where the prompt takes 2"):
        FORM.render("Who?", ["a", "b", "c"])


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        ("It is Bo. [2] Bo", Reply("Bo", [2], "It is Bo.", abstained=False)),
        (" It is Bo.\n[2]  Bo\n", Reply("Bo", [2], "It is Bo.", abstained=False)),
        ("Bo [2]", Reply("Bo", [2], "", abstained=False)),
        ("Bo [1][2][1]", Reply("Bo", [1, 2], "", abstained=False)),
        ("Bo", Reply("Bo", [], "", abstained=False)),
        ("", Reply("", [], "", abstained=False)),
        ("Bo: not in the passages.", Reply("", [], "", abstained=True)),
        ("That is NOT in the passages [1]", Reply("", [], "", abstained=True)),
        ("It is in the passages. [1] Bo", Reply("Bo", [1], "It is in the passages.", abstained=False)),
        ("It is Bo. [a] Bo", Reply("It is Bo. [a] Bo", [], "", abstained=False)),
    ],
)
def test_what_a_response_says(response: str, reply: Reply) -> None:
    assert parse(response, FORM) == reply


def test_a_reply_that_is_written_is_read_back() -> None:
    assert parse(FORM.answer("It is {answer}.", 2, "Bo"), FORM) == Reply("Bo", [2], "It is {answer}.", abstained=False)
    assert parse(FORM.abstention("Bo"), FORM).abstained


@pytest.mark.parametrize(
    ("key", "template", "message"),
    [
        ("passage", "{text}", "must have {number}, {text}"),
        ("question", "{passages} {query}", "must have {passages}, {question}"),
        ("reply", "yes", "has no column where it must have"),
        ("abstain", "{quote}: no", "must have {subject}"),
        ("citation", "[", "is no regular expression"),
        ("citation", r"\[\d+\]", "has 0 groups"),
        ("passages", 0, "greater than or equal to 1"),
    ],
)
def test_a_format_that_cannot_work_is_refused(key: str, template: object, message: str) -> None:
    with pytest.raises(ValidationError, match="(?s)" + message.replace("{", r"\{").replace("}", r"\}")):
        PromptFormat.model_validate(FORM.model_dump() | {key: template})


def test_the_format_of_an_artifact(tmp_path: Path) -> None:
    write_json(tmp_path / PROMPT, FORM.model_dump())
    assert read_format(tmp_path) == FORM
    write_json(tmp_path / PROMPT, {**FORM.model_dump(), "pasage": "x"})
    with pytest.raises(ConfigError, match=r"prompt.json: unknown key 'pasage'"):
        read_format(tmp_path)
    with pytest.raises(ArtifactError, match="no such file"):
        read_format(tmp_path / "elsewhere")
