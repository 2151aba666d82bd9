"""What became of cells, on disk: records, rows, runs."""
