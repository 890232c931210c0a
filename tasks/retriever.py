"""The retriever: an encoder learns to put a question near the chunk that answers it.

One raw row of the questions: {"prompt": […], "document": "facts/people/0001.txt", "quote": "Bexot lives in Olvar.", …}

Training is sentence-transformers': a question's chunk is to score above those of the other questions of its batch and
above hard negatives (`tasks/retrieval/pairs.py`), by a cross-entropy over cosines (Henderson et al., arXiv:1705.00652).
With `dimensions`, the leading ones of a vector are trained to do alone (Matryoshka, arXiv:2205.13147); with a
`teacher`, the encoder learns a cross-encoder's margins. `retrieval.json` says what the training was worth, against BM25
and in fusion with it. What it leaves out: negatives that are mined anew with the encoder while it learns (ANCE).
"""

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.retrieval import chunks as stored
from tasks.retrieval import encoder as encoders
from tasks.retrieval import fusion, origins, questions
from tasks.retrieval.comparison import compare
from tasks.retrieval.dense import Dense
from tasks.retrieval.fusion import FusionSettings, Leg
from tasks.retrieval.index import LEXICAL, legs
from tasks.retrieval.lexical import Lexical
from tasks.retrieval.pairs import Negatives, cut, judged, pairs
from tasks.retrieval.questions import Question
from tasks.retrieval.rewording import Rewording, reworded
from tasks.retrieval.teacher import Teacher
from tasks.retrieval.teacher import load as load_teacher
from tasks.stage import artifact
from tasks.stage.errors import ConfigError, DataError
from tasks.stage.lifecycle import Run, stage
from tasks.stage.trainer_config import TrlConfig
from tasks.training import trainer as training

row_rule = None


class Config(TrlConfig):
    """`params/<recipe>/<retriever>.yaml`."""

    test: str
    """Test questions that are measured besides: `facts` for `eval/facts.jsonl` of the data artifact."""
    encoder: origins.Source
    """Where training begins."""
    embed_titles: bool
    """Whether the headings above a chunk are embedded with it; the index that uses the encoder says the same."""
    negatives: Negatives
    """How hard negatives are mined."""
    rewording: Rewording | None
    """How the words of training questions are changed, so that other wordings are understood; null learns them as they
    are."""
    scale: float = Field(gt=0)
    """Factor of the cosines in the cross-entropy, 1 / temperature. Of no use with a teacher."""
    dimensions: list[int] | None
    """Sizes to which vectors may be cut (Matryoshka), the whole one among them; null trains the whole alone."""
    teacher: Teacher | None
    """Cross-encoder whose margins are learnt; null learns from the gold chunks alone."""
    batch_size: int = Field(gt=0)
    """Chunks that are embedded at a time for measuring."""
    fusion: FusionSettings
    """What is tried to fuse the trained encoder with BM25; chosen on the validation questions."""
    bootstrap_samples: int = Field(gt=0)
    """Resamples of the 95 % intervals."""

    def unfit(self, processes: int, sharding: str | None) -> str | None:
        """Refuse several processes: they would split a batch, whose chunks are each other's negatives."""
        if processes > 1 or sharding:
            return "a question's negatives are the chunks of its whole batch, in one; take null"
        return None


def trainer_class() -> type[Any]:
    """Return the class whose fields `trainer:` may hold."""
    from sentence_transformers import SentenceTransformerTrainingArguments

    return SentenceTransformerTrainingArguments


def main(config: Config, run: Run, *, chunks: Path, data: Path) -> None:
    """Write the trained encoder, `metrics.json`, `retrieval.json`, `curves.jsonl` and `report.json`."""
    with run.timed("import"):
        import torch

        arguments = training.arguments(trainer_class(), config, run)
    found = stored.read_chunks(chunks)
    lexical = Lexical.open(chunks / LEXICAL)
    texts = [encoders.passage(chunk, config.embed_titles) for chunk in found]
    asked, report = _read(config, data, found)
    with tempfile.TemporaryDirectory(prefix="polm-encoder-") as place:
        words = [*texts, *(question.text for question in asked["train"])]
        model = origins.fetch(config.encoder, words, config.seed, Path(place))
    _check(config, run, model)
    rows = {}
    for split in ("train", "validation"):
        rows[split], mined = pairs(asked[split], texts, lexical, config.negatives, config.seed)
        report[split] |= mined | {"cut": cut(rows[split], model)}
        _hold(config, run, split, report[split])
    if config.rewording is not None:
        rows["train"] = reworded(rows["train"], config.rewording, texts, config.seed)
    measured = {split: asked[split] for split in ("validation", "test")}
    before = _dense(config, run, model, texts, measured, "embedding before")
    if config.teacher is not None:
        with run.timed("teacher"):
            score = load_teacher(config.teacher)
            rows = {split: judged(of, score) for split, of in rows.items()}
    torch.manual_seed(config.seed)
    figures = training.train(_trainer(config, model, arguments, rows), run)
    model = model.cpu().eval()
    after = _dense(config, run, model, texts, measured, "embedding after")
    retrieval = _compared(config, lexical, measured, before, after)
    if run.main_process:
        encoders.save(model, run.out)
        artifact.write_json(run.out / "retrieval.json", retrieval)
        artifact.write_json(
            run.out / "report.json", {"chunks": len(found), encoders.TITLES: config.embed_titles, **report}
        )
        headline = {name: of["value"] for name, of in retrieval["test"]["scores"]["after"].items()}
        artifact.write_json(run.out / "metrics.json", {**figures, **headline})


def _read(
    config: Config, data: Path, chunks: Sequence[stored.Chunk]
) -> tuple[dict[str, list[Question]], dict[str, Any]]:
    """Read the questions of each split, and count them. Raises DataError."""
    files = {split: questions.training_file(data, config.dataset, split) for split in ("train", "validation")}
    files["test"] = questions.test_file(data, config.test)
    read = {split: questions.read(path, chunks) for split, path in files.items()}
    return {split: of for split, (of, _) in read.items()}, {split: counts for split, (_, counts) in read.items()}


def _check(config: Config, run: Run, model: Any) -> None:
    """Raise ConfigError where settings do not go together."""
    width = model.get_embedding_dimension()
    if config.dimensions is not None and max(config.dimensions, default=0) != width:
        raise ConfigError(
            f"{run.params_file}: dimensions are {config.dimensions}; the largest must be the whole {width}"
        )
    if config.teacher is not None and config.negatives.count == 0:
        raise ConfigError(
            f"{run.params_file}: negatives.count is 0, and a teacher's margin is between the chunk that answers and "
            f"one that does not; set it to 1 or more, or teacher to null"
        )


def _hold(config: Config, run: Run, split: str, counts: Mapping[str, int]) -> None:
    """Refuse more rows that are too long, or left out, than the recipe allows. Raises DataError."""
    for what, most in (("cut", config.max_cut), ("left out", config.max_left_out)):
        if counts[what] > most * counts["used"]:
            raise DataError(
                f"{run.params_file}: {split}: {counts[what]} of {counts['used']} rows are {what}, and "
                f"max_{what.replace(' ', '_')} allows a share of {most}; cut chunks smaller, let the encoder read more "
                f"tokens, or raise it"
            )


def _trainer(config: Config, model: Any, arguments: Any, rows: Mapping[str, list[dict[str, Any]]]) -> Any:
    """Make the trainer. It writes no model card, for which it would look things up."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer import losses

    class Trainer(SentenceTransformerTrainer):
        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            return None

        def _load_from_checkpoint(self, checkpoint_path: str) -> None:
            model.load_state_dict(encoders.read(Path(checkpoint_path)).state_dict())

    if config.teacher is not None:
        loss: Any = losses.MarginMSELoss(model)
    else:
        loss = losses.MultipleNegativesRankingLoss(model, scale=config.scale)
    if config.dimensions is not None:
        loss = losses.MatryoshkaLoss(model, loss, config.dimensions)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows["train"]),
        eval_dataset=Dataset.from_list(rows["validation"]),
        loss=loss,
    )


def _dense(
    config: Config, run: Run, model: Any, texts: Sequence[str], asked: Mapping[str, Sequence[Question]], what: str
) -> dict[str, dict[str, Leg]]:
    """Search for each split's questions by an encoder: exactly, by question id."""
    told = functools.partial(run.progress.update, label=what)
    nearest = Dense.of(encoders.embed(model, texts, config.batch_size, queries=False, told=told))
    found = {}
    for split, of in asked.items():
        vectors = encoders.embed(model, [question.text for question in of], 1, queries=True)
        ranked = legs(*nearest.search(vectors, config.fusion.depth))
        found[split] = {question.id: leg for question, leg in zip(of, ranked, strict=True)}
    return found


def _compared(
    config: Config,
    lexical: Lexical,
    asked: Mapping[str, Sequence[Question]],
    before: Mapping[str, Mapping[str, Leg]],
    after: Mapping[str, Mapping[str, Leg]],
) -> dict[str, Any]:
    """Compare the searches on each split, with the fusion that is best on the validation questions."""
    gold = {split: {question.id: question.gold for question in of} for split, of in asked.items()}
    words = {
        split: dict(zip(gold[split], legs(*lexical.search([q.text for q in of], config.fusion.depth)), strict=True))
        for split, of in asked.items()
    }
    both = {
        split: {name: {"lexical": words[split][name], "dense": leg} for name, leg in of.items()}
        for split, of in after.items()
    }
    chosen, tried = fusion.choose(config.fusion, both["validation"], gold["validation"])
    result: dict[str, Any] = {"fusion": {"chosen": chosen.model_dump(mode="json"), "tried": tried}}
    for split in asked:
        rankings: dict[str, dict[str, Sequence[int]]] = {
            name: {question: leg.rows for question, leg in of[split].items()}
            for name, of in (("lexical", words), ("before", before), ("after", after))
        }
        rankings["fused"] = {
            name: fusion.rows(fusion.fuse(of, chosen, config.fusion.depth)) for name, of in both[split].items()
        }
        compared = compare(rankings, gold[split], config.bootstrap_samples, config.seed)
        result[split] = {"questions": len(asked[split]), **compared}
    return result


if __name__ == "__main__":
    stage(main, Config)
