"""How a model learns from its own answers."""
