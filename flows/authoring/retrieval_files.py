"""Settings of what finds passages: documents to passages, the retriever, and the index of both."""

from flows.authoring import questions
from flows.authoring.choices import Machine
from flows.authoring.documents import BOUNDS, Documents, chunk_settings
from flows.authoring.encoders import Encoder
from flows.authoring.questions import Questions
from flows.authoring.reading import Shape
from flows.authoring.yaml_text import line, section

FUSION = {
    "depth": 50, "lexical_weights": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "rrf_c": 60,
    "metric": "ndcg@10",
}  # fmt: skip


def passages(docs: Documents, shape: Shape) -> str:
    """Write the settings of the passages."""
    chunk = chunk_settings(shape.words).model_dump()
    said = {"words": f"most words of a passage; {shape.why}", "overlap": "words repeated", "join": "short paragraphs"}
    lines = [
        "# Documents, cut into passages, with the lexical index over them. See docs/retrieval.md.",
        line("seed", 0), line("threads", 1),
        line("unreadable", "skip", "a document that gives no passage: left out and named; or refuse"),
        line("report_examples", 5),
        *section("bounds", BOUNDS.model_dump(), {}, "of one document"),
        *section("chunk", chunk, said),
        line("index_titles", True, "whether headings above a passage are searched too"),
        *section("lexical", questions.LEXICAL.model_dump(), {"words": "regular expression of a word"}, "BM25"),
        "sources:",
    ]  # fmt: skip
    for key, source in docs.sources.items():
        count = sum(name.startswith(f"{key}/") for name in docs.read)
        lines.append(line(key, ..., f"{count} documents; give their sha256 of report.json to refuse others", 2))
        lines += [line(k, v, indent=4) for k, v in source.items()]
    return "\n".join(lines) + "\n"


def retriever(task: str, asked: Questions, encoder: Encoder, here: Machine) -> str:
    """Write the settings of the retriever, which is measured on the test questions `task`."""
    batch = max(2, min(64 if here.gpu else 32, len(asked.train) // 4))
    epochs = 20 if encoder.scratch else 4
    steps = max(10, min(300, epochs * len(asked.train) // batch))
    rate = 1e-3 if encoder.scratch else 2e-5
    trainer = {
        "max_steps": steps, "per_device_train_batch_size": batch, "per_device_eval_batch_size": batch,
        "learning_rate": rate, "lr_scheduler_type": "cosine", "warmup_steps": max(1, steps // 10),
        "batch_sampler": "no_duplicates", **({"bf16": True} if here.gpu else {"use_cpu": True}),
        "logging_steps": max(1, steps // 20), "save_steps": max(1, steps // 20) * 10,
    }  # fmt: skip
    comments = {
        "max_steps": f"{epochs} times {len(asked.train)} questions, {batch} a step, 10 to 300",
        "learning_rate": "random weights" if encoder.scratch else "usual for tuning an encoder",
        "batch_sampler": "two questions with one answer are not each other's negatives",
    }
    return "\n".join([
        f"# {encoder.why}. See docs/retrieval.md.",
        line("seed", 1), line("threads", here.threads, "of torch and BLAS; changes the bits"), line("launch", None),
        line("dataset", "prompts", "questions to learn from"), line("test", task, "questions that are measured"),
        line("max_left_out", 0.05, "share of rows of which nothing is learnt"),
        line("max_cut", 0.5, "share of rows with a text that the encoder does not read to its end"),
        *section("encoder", encoder.source, {}),
        line("embed_titles", True, "whether headings are embedded with the passages below them"),
        line("negatives", {"count": 1, "skip": 0, "among": 8}, "passages that look right and are not, a question"),
        line("rewording", None), line("scale", 20.0, "of the cosines in the loss; 1 / temperature"),
        line("dimensions", None), line("teacher", None), line("batch_size", 32, "passages embedded at a time"),
        line("bootstrap_samples", 1000), *section("fusion", FUSION, {"depth": "passages of each leg"}),
        *section("trainer", trainer, comments, "SentenceTransformerTrainingArguments"),
    ]) + "\n"  # fmt: skip


def index(here: Machine) -> str:
    """Write the settings of the index."""
    return "\n".join([
        "# Lexical and dense index, and how they are fused. See docs/retrieval.md.",
        line("seed", 0), line("threads", here.threads, "of torch, BLAS and FAISS; changes the bits"),
        line("dataset", "prompts", "its validation questions choose the fusion"),
        line("embed_titles", True, "as the retriever"), line("batch_size", 32, "passages embedded at a time"),
        line("dimensions", None), line("dense", {"kind": "flat", "shard_rows": 65536}, "exact"),
        *section("fusion", FUSION, {"lexical_weights": "tried; 0 and 1 are one leg alone"}),
    ]) + "\n"  # fmt: skip
