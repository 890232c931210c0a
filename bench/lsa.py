"""Vectors of actual text without an encoder: TF-IDF and a truncated SVD (latent semantic analysis, Deerwester, 1990).

    python -m bench.lsa --chunks 100000 --out vectors.npy

The text is what stands in the Python files, notes and licences of this environment, 64 words a chunk, copies left out.
Such vectors lie in clusters, as those of an encoder do, and 100,000 of them take a minute or two and not an hour. The
first 1,000 rows of the file are of chunks that are not among the others: questions.
"""

import argparse
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WORDS, DIMENSIONS, VOCABULARY = 64, 384, 30_000
"""Words of a chunk, dimensions of its vector, and words that count, the most frequent ones."""
QUESTIONS = 1_000
SUFFIXES = {".py", ".txt", ".md", ".rst"}


def texts(chunks: int) -> list[str]:
    """List different chunks of the text, spread over all of it."""
    found: dict[str, None] = {}
    for path in _files():
        words = path.read_text(encoding="utf-8", errors="replace").split()
        found.update({" ".join(words[at : at + WORDS]): None for at in range(0, len(words) - WORDS // 2, WORDS)})
        if len(found) > 3 * chunks:
            break
    every = list(found)
    if len(every) < chunks:
        raise SystemExit(f"only {len(every)} chunks of text in this environment; ask for fewer")
    return [every[at] for at in np.random.default_rng(0).permutation(len(every))[:chunks]]


def _files() -> Iterator[Path]:
    """Yield the files with text, in an order of names."""
    for root in (sysconfig.get_paths()["stdlib"], *site.getsitepackages()):
        yield from (path for path in sorted(Path(root).rglob("*")) if path.suffix in SUFFIXES and path.is_file())


def vectors(of: list[str]) -> Any:
    """Return their vectors of length 1, float32 of shape [texts, DIMENSIONS]."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counted = TfidfVectorizer(max_features=VOCABULARY, sublinear_tf=True, dtype=np.float32).fit_transform(of)
    made = TruncatedSVD(DIMENSIONS, n_iter=2, random_state=0).fit_transform(counted).astype(np.float32)
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)


def main() -> None:
    """Write the vectors to a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.lsa", description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    np.save(args.out, vectors(texts(args.chunks + QUESTIONS)))


if __name__ == "__main__":
    main()
