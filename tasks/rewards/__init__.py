"""What an answer is worth to reinforcement learning."""
