"""Which model is promoted, on what evidence, and where an answer comes from."""
