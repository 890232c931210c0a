"""Emoji with their names: the pictures of this recipe.

Noto Emoji (Apache-2.0) in 64 x 64 pixels, as the npm package `emoji-datasource-google` (MIT) has them with the names
that Unicode gives. One raw row of each generator:

    named      {"picture": b"\\x89PNG…", "name": "fox face", "kind": "Animals & Nature", "group": "1F98A"}
    questions  {"picture": b"\\x89PNG…", "name": "fox face", "choices": ["teacup without handle.", "fox face.", …],
                "kind": "Animals & Nature", "group": "1F98A"}

Pictures of one thing are one group, in one part alone: a man, a woman and a person who lift weights, whatever the tone
of their skin, and the faces of the clock. Left out are letters, digits and signs of writing, and the flags of
countries, whose names cannot be told from how others look.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tasks.ingestion.npm import package_folder

Part = Literal["train", "test"]

LEFT_OUT = {"alphanum", "country-flag", "keycap", "skin-tone", "subdivision-flag"}
"""Subcategories without pictures of things."""
PEOPLE = {0x1F468, 0x1F469, 0x1F9D1}
"""Code points of man, woman and person, in whose place an emoji of a profession has any."""
MODIFIERS = {0xFE0F, 0x200D, 0x2640, 0x2642, 0x27A1, *range(0x1F3FB, 0x1F400)}
"""Code points that join others or say of a person the sex, the tone of the skin or the direction."""


def _group(code_points: str, name: str) -> str:
    """Name what may not be parted, by an emoji's code points, e.g. `1F469-200D-1F680`."""
    if name.startswith("clock face"):
        return "clock face"
    points = [int(point, 16) for point in code_points.split("-")]
    return "-".join("person" if point in PEOPLE else f"{point:X}" for point in points if point not in MODIFIERS)


def _emoji(version: str, sha256: str, part: Part, test_share: float) -> list[dict[str, Any]]:
    """List the emoji of one part in the package's order, each with the path of its picture. Words name one alone."""
    folder = package_folder("emoji-datasource-google", version, sha256)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for entry in json.loads((folder / "emoji.json").read_text(encoding="utf-8")):
        if not entry["has_img_google"] or entry["subcategory"] in LEFT_OUT:
            continue
        name = " ".join(entry["name"].lower().split())
        group = _group(entry["unified"], name)
        place = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
        if (place < test_share) == (part == "test"):
            row = {"path": folder / "img/google/64" / entry["image"], "name": name, "kind": entry["category"]}
            rows.setdefault(tuple(sorted(name.split())), {**row, "group": group})
    return list(rows.values())


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    path: Path = row["path"]
    return {"picture": path.read_bytes(), **{key: row[key] for key in ("name", "kind", "group")}}


def named(version: str, sha256: str, part: Part, test_share: float) -> Iterator[dict[str, Any]]:
    """Yield emoji with their names.

    Args:
        version: of the npm package.
        sha256: of its archive, as hex.
        part: which emoji.
        test_share: share of the groups that are in `test` alone, 0 to 1.
    """
    for row in _emoji(version, sha256, part, test_share):
        yield _shown(row)


def questions(
    version: str, sha256: str, test_share: float, candidates: int, seed: int, limit: int
) -> Iterator[dict[str, Any]]:
    """Yield emoji of the part `test`, one of each group, each with names to choose from.

    All names are of emoji that are asked about, and each is once right and wrong in `candidates` - 1 other rows: who
    does not look is right by chance, whatever names it likes.

    Args:
        version: of the npm package.
        sha256: of its archive, as hex.
        test_share: share of the groups that are in `test` alone, 0 to 1.
        candidates: names to choose from.
        seed: of the choice of emoji and of the candidates.
        limit: most rows.
    """
    rng = random.Random(seed)
    first = {row["group"]: row for row in reversed(_emoji(version, sha256, "test", test_share))}
    rows = sorted(first.values(), key=lambda row: row["group"])
    rng.shuffle(rows)
    rows = rows[:limit]
    shifts = rng.sample(range(1, len(rows)), candidates - 1)
    for number, row in enumerate(rows):
        names = [rows[(number + shift) % len(rows)]["name"] for shift in (0, *shifts)]
        rng.shuffle(names)
        yield {**_shown(row), "choices": [f"{name}." for name in names]}
