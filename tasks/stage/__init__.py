"""What every stage is given: its life, recipe files, artifacts, errors, progress, the launcher."""
