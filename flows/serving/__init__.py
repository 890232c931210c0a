"""The server, its worker processes, and the chat in the terminal."""
