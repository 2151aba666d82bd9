"""YAML files as data, checked strictly, with file and line in every message."""
