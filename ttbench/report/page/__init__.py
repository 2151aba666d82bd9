"""A report as one HTML file that needs no network: verdicts, leaderboard, figures, tables, samples, environment."""
