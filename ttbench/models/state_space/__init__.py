"""State space models: the state is a linear recurrence over what was read."""
