"""Questions in other words: what stays, what is made up, and that nothing happens where nothing is asked for."""

from tasks.retrieval.rewording import Rewording, reworded

ROWS = [{"anchor": "Where does Ada live?", "positive": "Ada lives in Olvar."}] * 300
TEXTS = ["Ada lives in Olvar."]


def anchors(**settings: float) -> list[list[str]]:
    made = reworded(ROWS, Rewording.model_validate({"longest": 4, "copies": 1, **settings}), TEXTS, seed=0)
    assert {row["positive"] for row in made} == {"Ada lives in Olvar."}
    return [row["anchor"].split() for row in made]


def test_words_that_the_chunk_lacks_are_left_out_and_the_name_stays() -> None:
    words = anchors(dropped_words=0.5, added_words=0)
    assert all("Ada" in kept for kept in words)
    assert 600 < sum(map(len, words)) < 900, "the name, and half of three words"
    assert {len(kept) for kept in words} == {1, 2, 3, 4}


def test_words_are_made_up_of_the_chunks_letters() -> None:
    words = anchors(dropped_words=0.0, added_words=2)
    assert {len(kept) for kept in words} == {4, 5, 6}
    new = {word for kept in words for word in kept} - set(ROWS[0]["anchor"].split())
    assert len(new) > 100
    assert all(len(word) <= 4 and set(word.lower()) <= set("adalivesinolvar") | {"w", "h", "e", "r"} for word in new)


def test_a_question_begins_with_a_capital_letter_where_it_did() -> None:
    assert all(kept[0][0].isupper() for kept in anchors(dropped_words=0.5, added_words=2))
    lower = [{"anchor": "who is ada", "positive": "Ada."}] * 50
    made = reworded(lower, Rewording(copies=1, dropped_words=0.0, added_words=1, longest=2), TEXTS, seed=0)
    assert all(row["anchor"][0].islower() for row in made)


def test_nothing_asked_for_is_nothing_done() -> None:
    assert reworded(ROWS, Rewording(copies=1, dropped_words=0.0, added_words=0, longest=1), TEXTS, seed=0) == ROWS


def test_a_question_keeps_a_word() -> None:
    rows = [{"anchor": "Who? When?", "positive": "Ada."}] * 100
    made = reworded(rows, Rewording(copies=1, dropped_words=0.99, added_words=0, longest=1), [], seed=0)
    assert {row["anchor"] for row in made} == {"Who?", "When?"}


def test_copies_are_drawn_each_for_itself() -> None:
    rows = [{"anchor": f"Where does Ada live in {at}?", "positive": "Ada lives in Olvar."} for at in range(40)]
    made = reworded(rows, Rewording(copies=3, dropped_words=0.3, added_words=2, longest=4), TEXTS, seed=0)
    assert len(made) == 120
    first, second = ([row["anchor"] for row in made[at : at + 40]] for at in (0, 40))
    assert sum(one != other for one, other in zip(first, second, strict=True)) > 30
