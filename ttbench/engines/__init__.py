"""How a model's steps are executed in a process, and whether an engine may be believed."""
