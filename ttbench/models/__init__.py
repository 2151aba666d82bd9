"""Architectures: one file each, named in `ttbench.registry.ARCHITECTURES`."""
