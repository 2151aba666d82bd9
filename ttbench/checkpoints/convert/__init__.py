"""Checkpoints of other formats, written in the layout that is read."""
