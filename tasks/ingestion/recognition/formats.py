"""The formats in which others publish rows, each as the maps that make rows of our sets of them.

A format is tried, not guessed: its maps are rendered on a sample, and the share of rows that pass is how sure it is.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.ingestion.cleaning import walk
from tasks.ingestion.mapping import MEDIA, kind_of, render, validate
from tasks.ingestion.recognition.columns import is_text, media, messages, named, ranked, values
from tasks.ingestion.recognition.sample import Sample
from tasks.ingestion.values import BadRow
from tasks.stage.errors import DataError

Map = dict[str, Any]
SURE = 0.5
"""Share of the sample's rows that a format's map has to make, 0 to 1."""
ASKED = ("question", "query", "prompt", "instruction", "problem", "user", "input", "title", "source", "text")
REPLIED = (
    "answer", "reply", "response", "completion", "output", "solution", "assistant", "target", "answers", "label",
)  # fmt: skip
"""Names of columns that ask and that reply, in lower case, the likeliest first."""
RATED = ("completion", "response", "answer", "reply", "output")
"""Names of columns of replies that may have a verdict beside them."""
LABELS = ("label", "liked", "desirable", "thumbs_up", "is_good", "kto_tag")
"""Names of columns that say whether a reply is a good one."""
VERDICTS = {
    "good", "bad", "yes", "no", "true", "false", "1", "0", "1.0", "0.0", "-1", "up", "down", "positive", "negative",
    "liked", "disliked", "like", "dislike", "desirable", "undesirable", "accepted", "rejected", "chosen",
}  # fmt: skip
"""Values of such columns, in lower case."""
EXAMPLE = 'map: {messages: [{role: user, content: "{QUESTION}"}, {role: assistant, content: "{ANSWER}"}]}'


@dataclass(frozen=True)
class Format:
    """A format, and the maps that make rows of its rows."""

    name: str
    maps: dict[str, list[Map]]
    """Kind of set (`sft`, `preferences`, …, `eval`) to the maps that make its rows, more than one where a row is two.
    The first kind is what the format is there for."""
    media: str | None = None
    """`images` or `audio`, where rows have some."""
    sure: float = 0.0
    """Share of the sample's rows that the first map makes, 0 to 1."""
    before: dict[str, Any] = field(default_factory=dict)
    """The first row of the sample that it makes a row of."""
    after: dict[str, Any] = field(default_factory=dict)
    """That row."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why the others are no rows, to their number."""


def recognise(sample: Sample) -> Format:
    """Find the format of a sample's rows.

    Raises:
        DataError: it is none that is known; the message names the columns, and a map to write.
    """
    tried = [_tried(candidate, sample.rows) for candidate in _candidates(sample)]
    fitting = [found for found in tried if found.sure >= SURE]
    if fitting:
        if next(iter(fitting[0].maps)) != "feedback":
            _check_verdicts(sample)
        return fitting[0]
    near = max(tried, key=lambda found: found.sure, default=None)
    why = ""
    if near is not None and near.reasons:
        reason, count = Counter(near.reasons).most_common(1)[0]
        why = f"; as {near.name}, {count} of {len(sample.rows)} rows fail: {reason}"
    held = ", ".join(_described(sample, column) for column in sample.columns)
    raise DataError(
        f"{sample.name}: its format is not known{why}; its columns are {held}. Rename them, or "
        f"write the data.yaml of a recipe yourself with a map of them (docs/data.md), e.g. {EXAMPLE}"
    )


def _described(sample: Sample, column: str) -> str:
    """Name a column, with what it holds where that is not text alone: `answer (45 text, 15 objects)`."""
    words = {str: "text", bool: "true or false", int: "numbers", float: "numbers", list: "lists", dict: "objects"}
    counts = Counter("null" if row[column] is None else words.get(type(row[column]), "other") if column in row
                     else "missing" for row in sample.rows)  # fmt: skip
    if set(counts) == {"text"}:
        return column
    return f"{column} ({', '.join(f'{count} {what}' for what, count in counts.most_common())})"


def _check_verdicts(sample: Sample) -> None:
    """Refuse replies with a verdict in words or numbers, which would be learnt whether they are good or bad.

    Raises:
        DataError: with the column, its two values, and what a verdict is.
    """
    label = named(sample.columns, *LABELS)
    rated = named(sample.columns, *RATED) is not None and named(sample.columns, *ASKED) is not None
    if label is None or not rated or named(sample.columns, "chosen", "rejected"):
        return
    found = {str(value).strip().lower() for value in values(sample.rows, label)}
    if len(found) == 2 and found <= VERDICTS:
        raise DataError(
            f"{sample.name}: column '{label}' is a verdict, {' or '.join(sorted(found))}, and a verdict on a reply is "
            f"true or false: write it so for `--methods kto`; to learn from all replies alike, take the column out"
        )


def mapped(kind: str, template: Map, row: dict[str, Any]) -> dict[str, Any]:
    """Make the row that the data stage would, without its pictures and sounds. Raises BadRow."""
    words = {key: value for key, value in template.items() if key not in MEDIA}
    return validate(kind, walk(render(words, row), [], Counter()))


def _tried(candidate: Format, rows: Sequence[dict[str, Any]]) -> Format:
    kind, (template, *_) = next(iter(candidate.maps.items()))
    reasons: Counter[str] = Counter()
    pair: tuple[dict[str, Any], dict[str, Any]] | None = None
    for row in rows:
        try:
            made = mapped(kind, template, row)
            pair = pair or (row, made)
        except BadRow as e:
            reasons[str(e)] += 1
    before, after = pair or ({}, {})
    sure = 1 - sum(reasons.values()) / len(rows)
    return Format(candidate.name, candidate.maps, candidate.media, sure, before, after, dict(reasons))


def _candidates(sample: Sample) -> Iterator[Format]:
    """Yield the formats that the columns allow, the most specific first."""
    shown = media(sample.rows, sample.columns)
    columns = [column for column in sample.columns if shown is None or column != shown[1]]
    found = {column: values(sample.rows, column) for column in columns}
    talks = {c: template for c in columns if (template := messages(found[c], c)) is not None}
    texts = [c for c in columns if c not in talks and is_text(found[c])]
    for candidate in (
        *_preferences(columns, talks, texts), *_ranked(found, texts), *_unpaired(columns, talks, texts),
        *_conversations(columns, talks), *_completions(columns, talks), *_alpaca(texts), *_questions(found, texts),
        *_texts(texts),
    ):  # fmt: skip
        if shown is None:
            yield candidate
        elif next(iter(candidate.maps)) in ("sft", "preferences"):
            own = {kind: [{**m, shown[0]: [f"{{{shown[1]}}}"]} for m in maps] for kind, maps in candidate.maps.items()}
            yield Format(f"{candidate.name}, with {shown[0]}", own, shown[0])


def _asks(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def _says(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def _pairs(
    prompt: Any, chosen: Any, rejected: Any, question: str, better: str, worse: str, group: str
) -> dict[str, list[Map]]:
    """Maps of preferences: pairs, what is chosen as lessons, each side with its label, and pairs to be judged."""
    opening = {} if prompt is None else {"prompt": prompt}
    maps: dict[str, list[Map]] = {"preferences": [{**opening, "chosen": chosen, "rejected": rejected}]}
    if prompt is not None:
        maps["sft"] = [{"prompt": prompt, "completion": chosen}]
        sides = ((chosen, True), (rejected, False))
        maps["feedback"] = [{"prompt": prompt, "completion": side, "label": label} for side, label in sides]
    else:
        maps["sft"] = [{"messages": chosen}]
    maps["eval"] = [{"question": question, "answer": better, "worse": worse, "group": group}]
    return maps


def _preferences(columns: list[str], talks: dict[str, str], texts: list[str]) -> Iterator[Format]:
    chosen = named(columns, "chosen", "preferred", "accepted", "better", "positive", "winner", "win")
    rejected = named(columns, "rejected", "dispreferred", "refused", "worse", "negative", "loser", "lose")
    if chosen is None or rejected is None:
        return
    prompt = named(columns, "prompt", "question", "instruction", "query", "input", "context")
    if chosen in talks and rejected in talks:
        a, b = _inner(talks[chosen]), _inner(talks[rejected])
        sides = (f"{{{a}|last(assistant)}}", f"{{{b}|last(assistant)}}")
        if prompt in talks:
            p = _inner(talks[str(prompt)])
            asked = (f"{{{p}|last(user)}}", *sides, f"{{{p}|first(user)}}")
            yield Format(
                "preferences, conversational (TRL, explicit prompt)",
                _pairs(talks[str(prompt)], talks[chosen], talks[rejected], *asked),
            )
        asked = (f"{{{a}|last(user)}}", *sides, f"{{{a}|first(user)}}")
        yield Format(
            "preferences, conversational (TRL, implicit prompt)", _pairs(None, talks[chosen], talks[rejected], *asked)
        )
        if prompt in texts:
            p = f"{{{prompt}}}"
            yield Format(
                "preferences, a prompt of text and conversational replies",
                _pairs(_asks(p), talks[chosen], talks[rejected], p, *sides, p),
            )
    elif chosen in texts and rejected in texts and prompt is not None:
        sides = (f"{{{chosen}}}", f"{{{rejected}}}")
        if prompt in talks:
            p = _inner(talks[prompt])
            opening: Any = talks[prompt]
            question, group = f"{{{p}|last(user)}}", f"{{{p}|first(user)}}"
        else:
            question = group = f"{{{prompt}}}"
            opening = _asks(question)
        yield Format(
            "preferences, standard (TRL, explicit prompt)",
            _pairs(opening, _says(sides[0]), _says(sides[1]), question, *sides, group),
        )


def _inner(template: str) -> str:
    return template[1:-1]


def _ranked(found: dict[str, list[Any]], texts: list[str]) -> Iterator[Format]:
    prompt = named(texts, *ASKED)
    for column, items in found.items():
        if prompt is not None and (sides := ranked(items, column)) is not None:
            p = f"{{{prompt}}}"
            maps = _pairs(_asks(p), _says(sides[0]), _says(sides[1]), p, *sides, p)
            yield Format("ranked answers (as in UltraFeedback), best against worst", maps)


def _unpaired(columns: list[str], talks: dict[str, str], texts: list[str]) -> Iterator[Format]:
    prompt, reply = named(columns, *ASKED), named(columns, *RATED)
    label = named(columns, *LABELS)
    if prompt is None or reply is None or label is None or not {prompt, reply} <= {*talks, *texts}:
        return
    asked = talks[prompt] if prompt in talks else _asks(f"{{{prompt}}}")
    said = talks[reply] if reply in talks else _says(f"{{{reply}}}")
    maps = {"feedback": [{"prompt": asked, "completion": said, "label": f"{{{label}}}"}]}
    yield Format("unpaired preferences (TRL)", maps)


def _conversations(columns: list[str], talks: dict[str, str]) -> Iterator[Format]:
    usual = [c for c in (named(columns, "messages", "conversations", "conversation", "dialogue", "chat", "text"),) if c]
    for column in dict.fromkeys([*usual, *talks]):
        if column not in talks:
            continue
        template = talks[column]
        inner = _inner(template) if "|turns" in template else f"{column}"
        name = "conversations (TRL, OpenAI)"
        if "|json" in template:
            name = "conversations kept as JSON text"
        elif "|turns" in template:
            name = "conversations in other keys or with tools (ShareGPT, OpenAI), or as a transcript"
        reply = {"question": f"{{{inner}|first(user)}}", "answer": f"{{{inner}|first(assistant)}}"}
        asked = {"prompt": _asks(reply["question"]), "answer": reply["answer"]}
        yield Format(name, {"sft": [{"messages": template}], "eval": [reply], "prompts": [asked]})


def _completions(columns: list[str], talks: dict[str, str]) -> Iterator[Format]:
    prompt, reply = named(columns, "prompt"), named(columns, "completion", "response")
    if prompt in talks and reply in talks:
        p, r = str(prompt), str(reply)
        asked = {"question": f"{{{_inner(talks[p])}|last(user)}}", "answer": f"{{{_inner(talks[r])}|last(assistant)}}"}
        group = {"group": f"{{{_inner(talks[p])}|first(user)}}"}
        yield Format(
            "prompt and completion, conversational (TRL)",
            {"sft": [{"prompt": talks[p], "completion": talks[r]}], "eval": [{**asked, **group}]},
        )


def _exchange(question: str, reply: str, answer: str) -> dict[str, list[Map]]:
    return {
        "sft": [{"messages": [*_asks(question), *_says(reply)]}],
        "eval": [{"question": question, "answer": answer}],
        "prompts": [{"prompt": _asks(question), "answer": answer}],
    }


def _alpaca(texts: list[str]) -> Iterator[Format]:
    instruction, extra, output = (named(texts, name) for name in ("instruction", "input", "output"))
    if instruction and output:
        question = f"{{{instruction}}}" + (f"\n\n{{{extra}|default()}}" if extra else "")
        yield Format("instruction, input, output (Alpaca)", _exchange(question, f"{{{output}}}", f"{{{output}}}"))


def _questions(found: dict[str, list[Any]], texts: list[str]) -> Iterator[Format]:
    asked = named(texts, *ASKED)
    context = named(texts, "context", "passage", "document")
    for replied in (name for name in REPLIED if named(found, name) not in (None, asked)):
        column = str(named(found, replied))
        if asked is None:
            return
        question = f"{{{context}}}\n\n{{{asked}}}" if context not in (None, asked, column) else f"{{{asked}}}"
        reply = f"{{{column}}}"
        if column in texts:
            solved = sum("####" in str(value) for value in found[column]) >= 0.8 * len(found[column])
            answer = f"{{{column}:#### *(.+)}}" if solved else reply
            yield Format("questions and answers", _exchange(question, reply, answer))
        elif all(isinstance(value, dict) and "text" in value for value in found[column]):
            first = f"{{{column}|get(text.0)}}"
            yield Format("questions and answers about a passage (SQuAD)", _exchange(question, first, first))


def _texts(texts: list[str]) -> Iterator[Format]:
    if column := named(texts, "text", "content", "document", "completion"):
        yield Format("texts, for language modelling (TRL)", {"pretrain": [{"text": f"{{{column}}}"}]})


def kinds(found: Format) -> list[str]:
    """List the kinds of sets that a format's rows can be in, those to be asked aside."""
    return [kind for kind in found.maps if kind_of(kind) != "eval"]
