"""Helpers: published benchmarks as small local folders in the layout of their hub ids, and recipes that ask them."""

import json
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Features, List, Value
from pyarrow import parquet

TEXT = Value("string")
FRUIT = ("apples", "pears", "plums", "figs", "dates", "limes", "nuts", "kiwis", "olives", "grapes")
SUBJECTS = ("high_school_geography", "sociology")
SOCIAL = (
    "econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
    "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
    "public_relations", "security_studies", "sociology", "us_foreign_policy",
)  # fmt: skip
"""Subjects of the group `mmlu_social_sciences`."""


def publish(folder: Path, configs: dict[str, dict[str, list[dict[str, Any]]]], features: dict[str, Any]) -> None:
    """Write a data set as the hub has it: Parquet files whose metadata names the features, and a card with a licence.

    Args:
        folder: of the data set, `org/name`.
        configs: configuration to split to rows.
        features: column to the feature of `datasets`.
    """
    described = {"huggingface": json.dumps({"info": {"features": Features(features).to_dict()}})}
    card: dict[str, Any] = {"license": "mit", "configs": []}
    for config, splits in configs.items():
        files = []
        for split, rows in splits.items():
            path = folder / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.Table.from_pylist(rows).replace_schema_metadata(described), path)
            files.append({"split": split, "path": f"{config}/{split}-*"})
        card["configs"].append({"config_name": config, "data_files": files})
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n", encoding="utf-8")


def gsm8k(root: Path, rows: int = 6) -> None:
    """Write problems in words, whose answer stands behind `####`."""

    def problem(n: int) -> dict[str, str]:
        question = f"Ann has {n} {FRUIT[n % 10]} in one bag and buys {n + 2} more of them on day {n}. How many has she?"
        return {"question": question, "answer": f"She has {n}+{n + 2}={2 * n + 2}.\n#### {2 * n + 2}"}

    splits = {"train": [problem(n) for n in range(100, 108)], "test": [problem(n) for n in range(rows)]}
    publish(root / "openai/gsm8k", {"main": splits}, {"question": TEXT, "answer": TEXT})


def arc_easy(root: Path, rows: int = 6) -> None:
    """Write questions with four answers, of which one is right."""

    def question(n: int) -> dict[str, Any]:
        text = f"Which of these would a farmer with {n} fields of {FRUIT[n % 10]} need most of all?"
        choices = {"text": [f"{FRUIT[(n + k) % 10]} and water" for k in range(4)], "label": ["A", "B", "C", "D"]}
        return {"id": f"Q{n}", "question": text, "choices": choices, "answerKey": "ABCD"[n % 4]}

    features = {"id": TEXT, "question": TEXT, "choices": {"text": List(TEXT), "label": List(TEXT)}, "answerKey": TEXT}
    starts = {"train": range(200, 206), "validation": range(300, 302), "test": range(rows)}
    splits = {split: [question(n) for n in numbers] for split, numbers in starts.items()}
    publish(root / "allenai/ai2_arc", {"ARC-Easy": splits}, features)


def lambada(root: Path, rows: int = 6) -> None:
    """Write passages whose last word is to be guessed."""
    texts = [f"He had {n} baskets and in each of them he had put {FRUIT[n % 10]}" for n in range(rows)]
    publish(
        root / "EleutherAI/lambada_openai", {"default": {"test": [{"text": text} for text in texts]}}, {"text": TEXT}
    )


def wikitext(root: Path, rows: int = 3) -> None:
    """Write pages, some of them longer than a small model's context."""
    pages = [
        f" = Page {n} = \n\n" + f" The {FRUIT[n]} are ripe in month {n} , and sweet . \n" * (1 + 9 * n)
        for n in range(rows)
    ]
    splits = {split: [{"page": page} for page in pages] for split in ("train", "validation", "test")}
    publish(root / "EleutherAI/wikitext_document_level", {"wikitext-2-raw-v1": splits}, {"page": TEXT})


def mmlu(root: Path, subjects: tuple[str, ...] = SOCIAL, rows: int = 2) -> None:
    """Write questions of several subjects; the k-th subject has `rows + k % 3` of them."""

    def question(subject: str, n: int) -> dict[str, Any]:
        text = f"In {subject.replace('_', ' ')}, how many {FRUIT[n % 10]} are there in case number {n}?"
        return {"question": text, "subject": subject, "choices": [str(n + k) for k in range(4)], "answer": n % 4}

    features = {"question": TEXT, "subject": TEXT, "choices": List(TEXT), "answer": Value("int64")}
    configs = {
        subject: {
            "test": [question(subject, n) for n in range(rows + k % 3)],
            "dev": [question(subject, n) for n in range(50, 55)],
        }
        for k, subject in enumerate(subjects)
    }
    publish(root / "cais/mmlu", configs, features)
