"""The package's version, in a module of its own: what names it in rows must not import the interface."""

__version__ = "0.1.0"
