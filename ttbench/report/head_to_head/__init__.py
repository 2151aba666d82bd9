"""Checkpoints head to head: verdicts of all pairs, a leaderboard, crossing points, and fronts of quality and cost."""
