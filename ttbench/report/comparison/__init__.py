"""Two checkpoints on the same targets: what differs, and what is shown."""
