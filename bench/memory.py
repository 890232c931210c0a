"""Resident memory of a process and all below it, as the kernel tells it."""

import os
from pathlib import Path


def resident(root: int) -> int:
    """Add up the resident memory, in bytes, of a process and all below it."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                pages[int(entry.name)] = int((entry / "statm").read_text().split()[1])
            except (OSError, IndexError):  # it has ended meanwhile
                continue
    below = {root}
    grown = True
    while grown:
        found = {process for process, parent in parents.items() if parent in below} - below
        below |= found
        grown = bool(found)
    return sum(pages.get(process, 0) for process in below) * os.sysconf("SC_PAGE_SIZE")
