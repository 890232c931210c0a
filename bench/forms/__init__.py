"""Every form of a model in every runtime, side by side: `python -m bench.forms`."""
