"""Which recipe fits a model and data that a user brings?"""
