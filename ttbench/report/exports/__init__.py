"""What was measured, handed to tools that keep track of experiments."""
