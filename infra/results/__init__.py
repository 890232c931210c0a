"""Writes the tables of `docs/results.md` from the artifacts of a run."""
