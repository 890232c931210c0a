"""What is in a model folder: its checks, loading and saving, chat template, ends of turns, layers."""
