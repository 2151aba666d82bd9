"""Titans: a memory that is trained while it reads, alone and beside attention."""
