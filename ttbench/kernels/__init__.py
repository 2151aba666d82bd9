"""Ops: one file each, holding a token-by-token reference and the chunked torch form under one signature."""
