"""Stages are files, what they share is a folder, and each folder answers one question (docs/architecture.md)."""
