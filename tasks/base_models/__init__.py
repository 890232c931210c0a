"""Where a base model comes from: pre-training, Muon, GGUF."""
