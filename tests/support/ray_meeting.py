"""`python -m tests.support.ray_meeting FOLDER`: pieces of work on Ray that end once both nodes have one.

How Ray places short pieces depends on how fast each node starts its processes; these last until both have started.
"""

import sys
import time
from pathlib import Path

from tasks.stage.ray_cluster import Tasks
from tests.support.ray_trip import ADDRESS

PIECES = 6
NODES = 2
WAIT = 240.0
"""Seconds after which a piece gives up, and returns what it has seen."""


def meet(folder: Path, piece: int) -> tuple[int, int]:
    """Name this node in a folder and wait for the others; returns the number of the piece and how many nodes came."""
    import ray

    (folder / ray.get_runtime_context().get_node_id()).touch()
    deadline = time.monotonic() + WAIT
    while (came := len(list(folder.iterdir()))) < NODES and time.monotonic() < deadline:
        time.sleep(0.1)
    return piece, came


if __name__ == "__main__":
    place = Path(sys.argv[1]).absolute()
    with Tasks(ADDRESS, place, (), "this test") as tasks:
        for piece, came in tasks.each(meet, ((place, piece) for piece in range(PIECES))):
            sys.stdout.write(f"{piece} {came}\n")
