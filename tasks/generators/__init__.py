"""Which rows a program writes. A recipe names one as `file.function`, e.g. `arithmetic.sums`."""
