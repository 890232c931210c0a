"""Tables of readers and of the indexes that they read from."""

from collections.abc import Iterator, Mapping
from typing import Any

from infra.results.artifacts import Artifacts
from infra.results.markdown import bracket, change, code, count, table
from tasks.reporting import retrieval
from tasks.retrieval.scores import METRICS
from tasks.stage.recipe import RETRIEVER

SEARCHES = {
    "lexical": "BM25",
    "before": "encoder, untrained",
    "after": "encoder, trained",
    "fused": "trained, with BM25",
}
"""Searches of `retrieval.json` to their titles."""
CITATIONS = ("precision", "recall", "quoted")
ABSTENTION = ("precision", "recall", "f1", "wrongly", "invented")


def retrievers(artifacts: Artifacts) -> str:
    """Write what each retriever finds for the test questions, before and after its training, beside and with BM25."""
    rows = []
    for name, model in artifacts.graph.models.items():
        path = f"models/{name}/retrieval.json"
        if model.method != RETRIEVER or not (artifacts.folder / path).is_file():
            continue
        test = artifacts.read(path)["test"]
        for leg, title in SEARCHES.items():
            scores = test["scores"][leg]
            over = test["differences"].get(f"{leg} - lexical", {}).get("ndcg@10")
            cells = (_interval(scores[metric]) for metric in METRICS)
            rows.append([code(name), title, *cells, change(over) if over else "–"])
    return table(["retriever", "search", *METRICS, "over BM25, ndcg@10, paired, 95 %"], rows)


def readers(artifacts: Artifacts) -> str:
    """Write what each reader scores under each condition, and the change from its parent."""
    rows = [
        [
            code(row["name"]),
            row["condition"],
            count(row["rows"]),
            *(_interval(row[key]) for key in ("exact_match", "f1", "abstained")),
            change(row["difference"]) if "difference" in row else "–",
        ]
        for row in retrieval.conditions(_board(artifacts))
    ]
    head = ["model", "condition", "rows", "exact match", "F1", "abstained", "exact match over the parent, paired, 95 %"]
    return table(head, rows)


def grounding(artifacts: Artifacts) -> str:
    """Write how well each reader cites and abstains, and what false passages make it say."""
    rows = []
    for reading in retrieval.read(_board(artifacts)):
        rag = reading.result["rag"]
        rows.append(
            [
                code(reading.name),
                *(_interval(rag["citations"][key]) for key in CITATIONS),
                *(_interval(rag["abstention"][key]) for key in ABSTENTION),
                *(_interval(rag.get(attack, {}).get("lure")) for attack in ("contradicting", "poisoned")),
            ]
        )
    head = [
        "model",
        *(f"citation {name}" for name in CITATIONS[:2]),
        "quoted",
        *(f"abstention {name}" for name in ("precision", "recall", "F1")),
        "wrongly abstained",
        "answer invented",
        "document over a passage that contradicts it",
        "false copy believed",
    ]
    return table(head, rows)


def attacks(artifacts: Artifacts) -> str:
    """Write how often instructions in passages were followed, and what they cost."""
    rows = [
        [
            code(row["name"]),
            row["group"].replace("|", "\\|"),
            count(row["rows"]),
            _interval(row["followed"]),
            _interval(row["exact_match"]),
            change(row["difference"]) if row["difference"] else "–",
        ]
        for row in retrieval.attacks(_board(artifacts))
    ]
    return table(
        ["model", "instruction", "rows", "followed", "exact match", "change by the attack, paired, 95 %"], rows
    )


def legs(artifacts: Artifacts) -> str:
    """Write what each leg of an index finds, and what the fusion adds to it."""
    rows = [
        [
            ", ".join(map(code, index["models"])),
            leg,
            *(_interval(index["legs"][leg][metric]) for metric in METRICS),
            change(index["fused_over"][leg]["ndcg@10"]) if leg in index["fused_over"] else "–",
        ]
        for index in retrieval.indexes(_board(artifacts))
        for leg in retrieval.LEGS
    ]
    return table(["read by", "leg", *METRICS, "fused over it, ndcg@10, paired, 95 %"], rows)


def _board(artifacts: Artifacts) -> dict[str, Any]:
    """Return the board with its models in the order of the recipe's graph."""
    return artifacts.board | {"models": dict(_ordered(artifacts))}


def _ordered(artifacts: Artifacts) -> Iterator[tuple[str, Any]]:
    yield from ((model, artifacts.board["models"][model]) for model in artifacts.models())


def _interval(interval: Mapping[str, Any] | None) -> str:
    """Write a value with its interval, or a dash where there is none."""
    return "–" if interval is None else bracket(interval)
