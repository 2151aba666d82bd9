"""Checkpoints as others publish them, written once in the layout that everything here reads."""
