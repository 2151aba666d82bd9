"""The gate of CI: a run against a baseline, red or green, from rows alone."""
