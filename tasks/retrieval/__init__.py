"""How documents reach a prompt: read, cut into chunks, found by their words and their meaning, and shown to a reader."""
