"""Fused Triton twins of the ops, the settings that they are started with, and their compilation ahead of time."""
