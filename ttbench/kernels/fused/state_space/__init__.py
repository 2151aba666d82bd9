"""Twins of the scans of state space models."""
