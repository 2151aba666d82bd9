"""The task `needle` and what it alone needs."""
