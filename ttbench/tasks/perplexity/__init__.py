"""The task `perplexity` and what it alone needs."""
