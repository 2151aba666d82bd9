"""The task `probe` and what it alone needs."""
