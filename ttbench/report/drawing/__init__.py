"""Figures of a summary."""
