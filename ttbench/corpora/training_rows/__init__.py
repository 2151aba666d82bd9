"""Rows of text that models are trained on, mixed from corpora and made by seed."""
