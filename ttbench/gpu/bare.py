"""What a Python lacks that only just runs a model: names of annotations, so that modules can be imported.

A machine with a GPU that can fetch nothing has torch and what comes with it. jaxtyping gives this package names for
the shapes of tensors in annotations and computes nothing; where it is missing, names that mean nothing stand for it.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Shape:
    """Stands for `Float`, `Int` and the others: any subscript of it is `object`."""

    def __class_getitem__(cls, item: Any) -> type[object]:
        return object


class _Annotations(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> type[_Shape]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Shape


def stand_in() -> None:
    """Let modules import jaxtyping where it is not installed, for this process."""
    if "jaxtyping" not in sys.modules and importlib.util.find_spec("jaxtyping") is None:
        sys.modules["jaxtyping"] = _Annotations("jaxtyping")


def absent() -> bool:
    """Whether names without meaning stand for jaxtyping here."""
    return isinstance(sys.modules.get("jaxtyping"), _Annotations)
