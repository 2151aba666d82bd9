"""Checkpoints: found, identified, read."""
