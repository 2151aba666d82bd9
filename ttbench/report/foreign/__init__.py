"""Logs that other tools wrote, as rows: lm-eval, inspect_ai, lighteval."""
