"""How a model is made smaller."""
