"""Training of the zoo."""
