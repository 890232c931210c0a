"""How a model is trained by TRL, on which rows, and what became of each row."""
