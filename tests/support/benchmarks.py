"""Helpers: published benchmarks as small local folders in the layout of their hub ids, and recipes that ask them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

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


def ifeval(root: Path, kinds: tuple[str, ...] = ("punctuation:no_comma", "keywords:existence")) -> None:
    """Write instructions that a program checks; each document has the `kinds` and one that no answer breaks."""
    arguments = {"num_sentences": Value("int64"), "relation": TEXT, "keywords": List(TEXT)}
    features = {
        "key": Value("int64"),
        "prompt": TEXT,
        "instruction_id_list": List(TEXT),
        "kwargs": List(arguments),
    }
    said: dict[str, dict[str, Any]] = {
        "keywords:existence": {"keywords": ["e"]},
        "length_constraints:number_sentences": {"num_sentences": 2, "relation": "less than"},
    }
    rows = [
        {
            "key": n,
            "prompt": f"Write about {FRUIT[n]}. Do what instruction {n} says.",
            "instruction_id_list": list(kinds),
            "kwargs": [{**dict.fromkeys(arguments), **said.get(kind, {})} for kind in kinds],
        }
        for n in range(4)
    ]
    publish(root / "google/IFEval", {"default": {"train": rows}}, features)


def settings(tasks: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """An evaluate.yaml that asks `tasks`."""
    base: dict[str, Any] = {
        "seed": 3,
        "threads": 1,
        "tasks": tasks,
        "batch_size": 4,
        "device": "cpu",
        "dtype": "float32",
        "chat_template_args": {},
        "resamples": 200,
        "confidence": 0.95,
    }
    return base | changes


def freeze(root: Path, benchmarks: dict[str, dict[str, Any]], make_artifact: Callable[..., Any]) -> Path:
    """Run the data stage's step for benchmarks, whose data sets lie below the current folder, into an artifact."""
    from tasks.ingestion import benchmarks as stage
    from tasks.ingestion.evaluation_rows import EvaluationRows

    chosen = {name: stage.Benchmark(**said) for name, said in benchmarks.items()}
    params = Path("params/mine/data.yaml")
    for name, known in stage.find(chosen, params).items():
        stage.freeze(known, chosen[name], root, params, 3, EvaluationRows(8, 0.8))
    make_artifact(root, stage="data")
    return root


def wide(chat_model: Path, folder: Path, make_artifact: Callable[..., Any], context: int = 2048) -> Path:
    """The chat model with larger weights and a longer context: it says something else to every question."""
    import torch

    from tasks.models.folder import load_causal_lm, load_tokenizer, save_model

    model, tokenizer = load_causal_lm(chat_model), load_tokenizer(chat_model)
    model.config.max_position_embeddings = context
    texts = [tokenizer.decode([token]) for token in range(model.config.vocab_size)]
    silent = [token for token, text in enumerate(texts) if not (text.isascii() and text.isprintable())]
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
        model.get_output_embeddings().weight[silent] = 0
    save_model(model, tokenizer, folder)
    make_artifact(folder)
    return folder


def evaluate(model: Path, data: Path, tasks: list[dict[str, Any]], name: str = "mine", **changes: Any) -> Path:
    """Run the evaluate stage's `main` in this process, its output becoming an artifact."""
    from tasks.evaluate import Config, main
    from tasks.stage import artifact
    from tasks.stage.config import parse
    from tasks.stage.lifecycle import Run
    from tasks.stage.progress import Progress

    recipe = Path("params/mine/evaluate.yaml")
    out = Path("artifacts/metrics") / name
    manifests = artifact.verify_input("model", model) | artifact.verify_input("data", data)
    config = parse(recipe, settings(tasks, **changes), Config)
    with artifact.writing(out, stage="evaluate", params="0" * 64, inputs={}) as temp:
        run = Run(temp, recipe, out.name, Path(".checkpoints"), manifests, Progress(name), main_process=True)
        main(config, run, model=model, data=data)
    return out


def by_harness(model: Path, task: str, folder: str, shots: int | None, limit: int | None, chat: bool) -> Any:
    """What `lm_eval` itself says of a model folder, as its command would: its own class, its own downloads.

    Args:
        model: a model folder.
        task: name of a task or group.
        folder: of the harness's task files that has it; reading all of them takes long.
        shots: `--num_fewshot`.
        limit: `--limit`.
        chat: `--apply_chat_template`.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from tasks.ingestion.harness_index import home

    with (
        patch("lm_eval.evaluator.add_env_info"),  # it lists the machine's packages, which takes long
        patch("datasets.config.HF_DATASETS_CACHE", Path.cwd() / "cache"),  # else it finds another test's rows
    ):
        return simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=[task],
            num_fewshot=shots,
            batch_size=4,
            device="cpu",
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=True,
            random_seed=3,
            numpy_random_seed=3,
            torch_random_seed=3,
            fewshot_random_seed=3,
            task_manager=TaskManager(include_defaults=False, include_path=str(home() / folder)),
        )
