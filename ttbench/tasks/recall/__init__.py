"""The task `recall` and what it alone needs."""
