"""Twins of what every block has around its op: norms, gates, convolutions, rotations; and what twins share."""
