"""The reinforcement-learning trainers that TRL lacks."""
