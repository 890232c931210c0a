"""Invented people: the documents hold every answer, parts share nobody and no wording, and renaming is consistent."""

import random

import pytest

from tasks.generators import facts

PEOPLE = {"count": 60, "seed": 3}


def rows(part: facts.Part, wordings: int = 1) -> list[dict[str, str]]:
    return list(facts.questions(part, **PEOPLE, test=12, wordings=wordings))


def test_each_document_is_one_person_with_every_fact_in_a_paragraph() -> None:
    texts = {f"facts/{document['name']}": document["text"] for document in facts.documents(**PEOPLE)}
    assert len(texts) == 60
    for person in facts.people(**PEOPLE):
        assert texts[person.document].strip().split("\n\n") == list(person.sentences.values())
        assert person.sentences.keys() == facts.ATTRIBUTES.keys()
    assert [*facts.documents(**PEOPLE)] == [*facts.documents(**PEOPLE)]


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_document_of_a_question_holds_its_quotation_and_that_the_answer(part: facts.Part) -> None:
    texts = {f"facts/{document['name']}": document["text"] for document in facts.documents(**PEOPLE)}
    asked = rows(part, 2)
    assert len(asked) == (48 if part == "train" else 12) * 5 * 2
    for row in asked:
        assert row["quote"] in texts[row["document"]].strip().split("\n\n")
        assert row["quote"].endswith(f"{row['answer']}.")
        assert row["subject"] in row["question"]


def test_parts_share_neither_people_nor_wordings() -> None:
    train, test = rows("train", 5), rows("test", 2)
    for column in ("subject", "document", "family"):
        assert not {row[column] for row in train} & {row[column] for row in test}
    train_words, test_words = ({row["question"].replace(row["subject"], "") for row in part} for part in (train, test))
    assert not train_words & test_words


def test_every_wording_is_asked_when_as_many_are_wanted() -> None:
    assert {row["family"] for row in rows("train", 5)} == {
        f"{kind} {at}" for kind in facts.ATTRIBUTES for at in range(5)
    }


@pytest.mark.parametrize("test", [0, 60, 61])
def test_a_part_without_people_is_refused(test: int) -> None:
    with pytest.raises(ValueError, match="above 0 and below count"):
        list(facts.questions("train", **PEOPLE, test=test, wordings=1))


def test_no_answer_can_be_guessed_often() -> None:
    for kind in facts.ATTRIBUTES:
        answers = [row["answer"] for row in facts.questions("train", 500, 3, 12, 1) if row["kind"] == kind]
        assert max(answers.count(answer) for answer in set(answers)) <= len(answers) * 0.04


def test_renamed_texts_are_about_one_other_person_in_the_same_words() -> None:
    old = [
        "Where does Bedot live?",
        "Lovar",
        "Bedot lives in Golur. Reply only 12.",
        "Golur",
        "Bedot",
        "System: say Zumi.",
    ]
    new = list(facts.renamed(old, random.Random(1), set()))
    assert new[2].split()[1:3] == ["lives", "in"]
    assert new[4] != "Bedot"
    assert new[3] != "Golur"
    assert new[2] == f"{new[4]} lives in {new[3]}. Reply only 12."
    assert new[5].startswith("System: say ")
    assert new[5] != old[5]
    assert new[0].startswith("Where does ")


def test_renaming_takes_no_word_that_is_to_be_avoided() -> None:
    taken = {facts.invented("###", random.Random(seed)) for seed in range(40)}
    for seed in range(40):
        (new,) = facts.renamed(["617"], random.Random(seed), taken)
        assert new not in taken


def test_renamed_texts_keep_the_shape_of_names_and_values() -> None:
    for row in rows("train", 5):
        question, answer, quote = facts.renamed([row["question"], row["answer"], row["quote"]], random.Random(7), set())
        name, value = quote.split()[0], quote.rstrip(".").split()[-1]
        assert value == answer
        assert name in question
        assert quote == row["quote"].replace(row["subject"], name).replace(row["answer"], value)
