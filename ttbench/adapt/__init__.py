"""Transformer-squared: experts over singular values, and inference in two passes (docs/transformer-squared.md)."""
