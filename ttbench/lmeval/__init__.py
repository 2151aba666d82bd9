"""lm-evaluation-harness on an Engine: its requests answered by any architecture, its tasks run by ttbench."""
