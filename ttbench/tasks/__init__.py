"""Tasks: one file per kind of measurement. A task sees an Engine, never a model."""
