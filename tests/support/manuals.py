"""Six short documents in three formats, and ten questions about each whose answers stand in them word for word."""

import json
from pathlib import Path

MACHINES = {"pump": ".md", "valve": ".txt", "boiler": ".html", "fan": ".md", "sensor": ".txt", "filter": ".md"}
"""What each document is about, and its suffix."""
FACTS = [
    ("What is the {} made of?", "The {} is made of {}.", ["steel", "brass", "copper", "bronze", "tin", "zinc"]),
    ("How long does the {} run?", "The {} runs for {}.", [f"{n} minutes" for n in (3, 14, 25, 36, 47, 58)]),
    ("How often is the {} cleaned?", "The {} is cleaned every {}.", [f"{n} days" for n in (2, 5, 9, 12, 20, 30)]),
    ("How much does the {} weigh?", "The {} weighs {}.", [f"{n} kilograms" for n in (4, 11, 19, 28, 40, 75)]),
    ("Where does the {} stand?", "The {} stands in {}.", ["a hall", "a yard", "a loft", "a shed", "a den", "a bay"]),
    ("When was the {} built?", "The {} was built in {}.", [str(n) for n in (1951, 1963, 1978, 1984, 1999, 2012)]),
    ("Which colour has the {}?", "The {} is painted {}.", ["blue", "red", "green", "grey", "white", "black"]),
    ("Who checks the {}?", "The {} is checked by {}.", ["a cook", "a guard", "a clerk", "a nurse", "a smith", "me"]),
    ("At what heat does the {} stop?", "The {} stops at {}.", [f"{n} degrees" for n in (41, 52, 63, 74, 85, 96)]),
    ("What does the {} cost?", "The {} costs {}.", [f"{n} euros" for n in (110, 230, 350, 470, 590, 810)]),
]  # fmt: skip
"""Question, sentence, and the answer for each machine."""


def write(folder: Path) -> None:
    """Write `docs/` and `questions.jsonl`, whose rows have a question and an answer alone."""
    (folder / "docs").mkdir(parents=True, exist_ok=True)
    rows = []
    for at, (name, suffix) in enumerate(MACHINES.items()):
        told = [sentence.format(name, answers[at]) for _, sentence, answers in FACTS]
        first, second = " ".join(told[:5]), " ".join(told[5:])
        text = f"{first}\n\n{second}\n"
        if suffix == ".html":
            text = f"<h1>The {name}</h1><p>{first}</p><h2>Care</h2><p>{second}</p>"
        elif suffix == ".md":
            text = f"# The {name}\n\n{first}\n\n## Care\n\n{second}\n"
        (folder / "docs" / f"{name}{suffix}").write_text(text)
        rows += [{"question": asked.format(name), "answer": answers[at]} for asked, _, answers in FACTS]
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
