"""What the architecture of a plug-in must be, asked before anything is identified: it would break every command."""

from __future__ import annotations

from typing import Any

from ttbench.errors import PlugInError
from ttbench.models.base import Dialect, SequenceModel


def require_architecture(found: Any) -> None:
    """Raises PlugInError when an object is no architecture, or names no dialect of its config."""
    if not (isinstance(found, type) and issubclass(found, SequenceModel)):
        raise PlugInError(f"it is no class made from ttbench.models.base.SequenceModel, but {found!r}")
    dialects = getattr(found, "DIALECTS", None)
    if not isinstance(dialects, tuple) or not dialects or not all(isinstance(each, Dialect) for each in dialects):
        raise PlugInError(f"its DIALECTS must be a tuple of one Dialect at least, and are {dialects!r}")
