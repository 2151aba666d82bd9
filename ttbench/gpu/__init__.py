"""First use on a GPU: `make gpu`, one command that finds out what works and how fast, and writes it into one file."""
