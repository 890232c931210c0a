"""Invented people: documents that tell facts about them, and questions that nobody answers without the documents.

A person has a name that is no word of any language, and one value for each of five attributes: town, year of birth,
room, pet and food. A document is one person, a fact a paragraph. One raw row:

    {"question": "Where does Bedot live?", "answer": "Lovar", "subject": "Bedot", "document": "facts/people/0001.txt",
     "quote": "Bedot lives in Lovar.", "kind": "home", "family": "home 0", "group": "Bedot"}

A person is in one part alone, so what is asked in a test was asked of nobody in training, and a test's wordings are of
other families than the training's. `renamed` writes a question and its passages anew about somebody else: whoever
learns from many such rows cannot learn the facts, only to read them (Longpre et al., arXiv:2109.05052).
"""

import random
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple

Part = Literal["train", "test"]

CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aeiou"
SOURCE = "facts"
"""First part of a document's id: the name under which recipes list this source."""


class Attribute(NamedTuple):
    """One thing that can be known about a person."""

    statements: tuple[str, ...]
    """Sentences that tell it, with `{name}` and `{value}`."""
    asked: tuple[str, ...]
    """Wordings of the training's questions, with `{name}`."""
    held_out: tuple[str, ...]
    """Wordings of the test's questions, with `{name}`."""
    value: str
    """Shape of a value: `c` a consonant, `C` a capital one, `v` a vowel, other characters ranges of digits, as in
    `19##`."""


ATTRIBUTES: dict[str, Attribute] = {
    "home": Attribute(
        ("{name} lives in {value}.",),
        (
            "Where does {name} live?",
            "In which town does {name} live?",
            "{name} lives where?",
            "Name the town that {name} lives in.",
            "What is the home of {name}?",
        ),
        ("Can you say where {name} lives?", "Which town is the home of {name}?"),
        "Cvcvc",
    ),
    "birth": Attribute(
        ("{name} was born in {value}.",),
        (
            "When was {name} born?",
            "In which year was {name} born?",
            "{name} was born when?",
            "Name the year in which {name} was born.",
            "What is the birth year of {name}?",
        ),
        ("Can you say when {name} was born?", "Which year was {name} born in?"),
        "19##",
    ),
    "room": Attribute(
        ("{name} works in room {value}.",),
        (
            "Which room does {name} work in?",
            "In which room does {name} work?",
            "{name} works in which room?",
            "Name the room that {name} works in.",
            "What is the room of {name}?",
        ),
        ("Can you say which room {name} works in?", "Which is the room of {name}?"),
        "###",
    ),
    "pet": Attribute(
        ("{name} has a pet called {value}.",),
        (
            "What is the pet of {name} called?",
            "Which pet does {name} have?",
            "{name} has which pet?",
            "Name the pet that {name} has.",
            "How is the pet of {name} called?",
        ),
        ("Can you say which pet {name} has?", "What pet does {name} have?"),
        "Cvcv",
    ),
    "food": Attribute(
        ("{name} likes to eat {value}.",),
        (
            "What does {name} like to eat?",
            "Which food does {name} eat?",
            "{name} likes to eat what?",
            "Name the food that {name} likes.",
            "What is the food that {name} eats?",
        ),
        ("Can you say what {name} likes to eat?", "Which food does {name} like?"),
        "cvcvc",
    ),
}
NAME = "Cvcvc"
"""Shape of a person's name."""


class Person(NamedTuple):
    """Somebody, and what can be known about them."""

    name: str
    values: dict[str, str]
    """Attribute to value."""
    sentences: dict[str, str]
    """Attribute to the sentence that tells it, in the document's order."""
    document: str
    """Id of the document about them."""


def invented(shape: str, rng: random.Random) -> str:
    """Draw a word or a number of a shape, as `Attribute.value` writes it."""
    letters = {"c": CONSONANTS, "C": CONSONANTS.upper(), "v": VOWELS, "#": "0123456789"}
    return "".join(rng.choice(letters.get(place, place)) for place in shape)


def people(count: int, seed: int) -> list[Person]:
    """Invent `count` people with names of their own, the same for the same arguments."""
    rng = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        names[invented(NAME, rng)] = None
    found = []
    for number, name in enumerate(names, 1):
        values = {kind: invented(attribute.value, rng) for kind, attribute in ATTRIBUTES.items()}
        told = rng.sample(sorted(ATTRIBUTES), len(ATTRIBUTES))
        sentences = {
            kind: rng.choice(ATTRIBUTES[kind].statements).format(name=name, value=values[kind]) for kind in told
        }
        found.append(Person(name, values, sentences, f"{SOURCE}/people/{number:04}.txt"))
    return found


def documents(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield one text a person, `{"name": "people/0001.txt", "text": …}`; the arguments are those of `people`."""
    for person in people(count, seed):
        yield {
            "name": person.document.removeprefix(f"{SOURCE}/"),
            "text": "\n\n".join(person.sentences.values()) + "\n",
        }


def questions(part: Part, count: int, seed: int, test: int, wordings: int) -> Iterator[dict[str, Any]]:
    """Yield questions about the people of one part.

    Args:
        part: whose people are asked about, and in whose wordings.
        count: people in the documents, as for `people`.
        seed: of names and facts, as for `people`.
        test: people that are asked about in `test` alone, the last ones.
        wordings: wordings in which each fact is asked, at most as many as the part has.

    Raises:
        ValueError: a part has no people.
    """
    if not 0 < test < count:
        raise ValueError(f"test is {test}: it must be above 0 and below count, which is {count}")
    everybody = people(count, seed)
    rng = random.Random(f"{seed} {part}")
    for person in everybody[:-test] if part == "train" else everybody[-test:]:
        for kind, attribute in ATTRIBUTES.items():
            phrases = attribute.asked if part == "train" else attribute.held_out
            for at in sorted(rng.sample(range(len(phrases)), min(wordings, len(phrases)))):
                yield {
                    "question": phrases[at].format(name=person.name),
                    "answer": person.values[kind],
                    "subject": person.name,
                    "document": person.document,
                    "quote": person.sentences[kind],
                    "kind": kind,
                    "family": f"{'held out ' if part == 'test' else ''}{kind} {at}",
                    "group": person.name,
                }


def renamed(texts: Sequence[str], rng: random.Random, avoid: Collection[str]) -> Iterator[str]:
    """Yield texts written anew about other people with other values; a word is the same new word in all of them.

    Args:
        texts: e.g. a question, its answer, its quotation and its passages. Each word and number in them that has the
            shape of a name or a value, and is no word of the wordings, is replaced by one of its shape.
        rng: of the new words.
        avoid: words that are not taken: the names that a test asks about.
    """
    new: dict[str, str] = {}

    def fresh(match: re.Match[str]) -> str:
        word = match[0]
        if word in _WORDS or not _INVENTED.fullmatch(word):
            return word
        while word not in new or new[word] in avoid:
            new[word] = invented(_shape(word), rng)
        return new[word]

    for text in texts:
        yield re.sub(r"\w+", fresh, text)


def _shape(word: str) -> str:
    """Return the shape that a word has; a year keeps its century."""
    if word.isdigit():
        return "19##" if len(word) == 4 else "#" * len(word)
    places = "".join("v" if letter in VOWELS else "c" for letter in word.lower())
    return places[0].upper() + places[1:] if word[0].isupper() else places


def _pattern(shape: str) -> str:
    """Write a shape as a regular expression."""
    places = {"c": f"[{CONSONANTS}]", "C": f"[{CONSONANTS.upper()}]", "v": f"[{VOWELS}]", "#": "[0-9]"}
    return "".join(places.get(place, place) for place in shape)


_INVENTED = re.compile("|".join(_pattern(shape) for shape in (NAME, *(a.value for a in ATTRIBUTES.values()))))
"""Names and values of every shape."""
_WORDS = {
    word
    for attribute in ATTRIBUTES.values()
    for template in (*attribute.statements, *attribute.asked, *attribute.held_out)
    for word in re.findall(r"\w+", re.sub(r"\{\w+\}", " ", template))
}
"""Words of the wordings, which `renamed` leaves alone."""
