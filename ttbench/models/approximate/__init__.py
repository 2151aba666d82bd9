"""Attention approximated by random features, by hashing and by landmarks."""
