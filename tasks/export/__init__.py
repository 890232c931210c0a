"""How a model is served elsewhere, and is it still the same model?"""
