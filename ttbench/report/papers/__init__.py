"""Figures of papers: published numbers beside reruns of the authors' checkpoints and stand-ins of ours."""
