"""The task `adapt` and what it alone needs."""
