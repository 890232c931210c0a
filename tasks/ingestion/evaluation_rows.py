"""The evaluation rows that no training row may contain, whatever set or wording it comes in."""

from tasks.ingestion.cleaning import Contamination
from tasks.ingestion.ledger import Item, Ledger
from tasks.ingestion.mapping import parts
from tasks.stage.data_folder import set_folder


class EvaluationRows:
    """What may not be trained on: groups, questions, and answers that are long enough to be n-grams."""

    def __init__(self, ngram: int, overlap: float) -> None:
        """Begin with none.

        Args:
            ngram: words in an n-gram.
            overlap: share of an evaluation text's n-grams, 0 to 1, from which a training row is dropped.
        """
        self._index = Contamination(ngram, overlap)
        self._groups: dict[str, str] = {}

    def protect(self, items: list[Item]) -> None:
        """Remember the rows of an evaluation set."""
        for item in items:
            name = f"{item.set}#{item.id}"
            self._groups[item.group] = name
            if item.families:  # its question is asked of every picture or sound; what is held out is that
                continue
            self._index.add(name, item.row["question"], whole=True)
            self._index.add(name, item.row["answer"], whole=False)

    def protect_texts(self, name: str, whole: list[str], long: list[str]) -> None:
        """Remember the texts of one document of a published benchmark.

        Args:
            name: of the document, `set#id`.
            whole: texts that count however short they are.
            long: texts that count where they are long enough to be n-grams.
        """
        for text in dict.fromkeys(whole):
            self._index.add(name, text, whole=True)
        for text in dict.fromkeys(long):
            if text not in whole:
                self._index.add(name, text, whole=False)

    def keep_out(self, set_name: str, items: list[Item], ledger: Ledger) -> list[Item]:
        """Drop rows that would train and contain an evaluation row. Rows of the test split leave by another door."""
        clean = []
        for item in items:
            overlap = None if item.split == "test" else self._contained(item)
            if overlap is None:
                clean.append(item)
            else:
                ledger.contaminate(set_name, item, *overlap)
        return clean

    def _contained(self, item: Item) -> tuple[str, float] | None:
        """Find the evaluation row that a row contains, and the share of it; None where it contains none."""
        overlap = self._index.find(parts(item.row))
        if overlap is None and item.group in self._groups:
            return self._groups[item.group], 1.0
        return overlap


def evaluation_files(name: str, items: list[Item], evaluation: EvaluationRows, ledger: Ledger) -> dict[str, list[Item]]:
    """Keep the test split of an evaluation set, and keep training rows away from it."""
    ledger.drop_many(name, "in the training splits", [item for item in items if item.split != "test"])
    tested = [item for item in items if item.split == "test"]
    evaluation.protect(tested)
    ledger.protected[name] = len(tested)
    return {f"eval/{name.removeprefix('eval:')}": tested}


def training_files(name: str, items: list[Item], evaluation: EvaluationRows, ledger: Ledger) -> dict[str, list[Item]]:
    """Keep the training and validation split of a training set, without rows that contain an evaluation row."""
    clean_items = evaluation.keep_out(name, items, ledger)
    ledger.drop_many(name, "in the test split", [item for item in clean_items if item.split == "test"])
    return {
        f"{set_folder(name)}/{split}": [item for item in clean_items if item.split == split]
        for split in ("train", "validation")
    }
