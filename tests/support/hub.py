"""Helpers: folders in the layout of the hub's data sets, whose columns are pictures or sounds as the hub has them."""

import json
from pathlib import Path
from typing import Any


def publish(folder: Path, split: str, rows: list[dict[str, Any]], features: dict[str, Any], config: str) -> None:
    """Write a split of a data set: Parquet whose metadata names the features, and a README that names the splits.

    Args:
        folder: of the data set, `org/name`; splits that are there already stay.
        split: name of the split.
        rows: pictures and sounds as `{bytes, path}`.
        features: column to the feature of `datasets`.
        config: name of the configuration.
    """
    import datasets
    import pyarrow
    from pyarrow import parquet

    (folder / config).mkdir(parents=True, exist_ok=True)
    described = {"huggingface": json.dumps({"info": {"features": datasets.Features(features).to_dict()}})}
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(described)
    parquet.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
    splits = sorted(path.name.partition("-")[0] for path in (folder / config).glob("*.parquet"))
    files = [{"split": name, "path": f"{config}/{name}-*"} for name in splits]
    header = json.dumps({"configs": [{"config_name": config, "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}\n---\n", encoding="utf-8")
