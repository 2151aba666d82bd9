"""The task `genomics` and what it alone needs."""
