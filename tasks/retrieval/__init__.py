"""How documents reach a prompt: read, cut into chunks, found by words and by meaning, and shown to a reader."""
