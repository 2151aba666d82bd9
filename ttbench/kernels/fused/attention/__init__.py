"""Fused twins of steps of attention over keys and values that are kept."""
