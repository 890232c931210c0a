"""How pictures and sounds reach a language model."""
