"""How columns of rows and tables, and parameters of tasks, are declared: type, unit and meaning in one place.

    "nats": real("negative log-likelihood of the window's targets", "nats")          a column
    window: int = parameter(256, "targets in one window", "tokens")                  a field of a task's Params

docs/columns.md is made from these declarations.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from ttbench.types import ColumnType

MEANING, UNIT = "meaning", "unit"  # keys in a field's metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDeclaration:
    """What one column holds."""

    kind: ColumnType
    meaning: str  # one sentence or less, without a full stop; empty: its owner does not say
    unit: str | None = None  # of a number: tokens, s, bytes ...; None: it is no quantity


def text(meaning: str) -> ColumnDeclaration:
    """A column of text."""
    return ColumnDeclaration(kind="text", meaning=meaning)


def truth(meaning: str) -> ColumnDeclaration:
    """A column of true and false."""
    return ColumnDeclaration(kind="truth", meaning=meaning)


def whole(meaning: str, unit: str | None = None) -> ColumnDeclaration:
    """A column of whole numbers."""
    return ColumnDeclaration(kind="whole", meaning=meaning, unit=unit)


def real(meaning: str, unit: str | None = None) -> ColumnDeclaration:
    """A column of floating-point numbers."""
    return ColumnDeclaration(kind="real", meaning=meaning, unit=unit)


def parameter(default: Any, meaning: str, unit: str | None = None) -> Any:
    """A field of a task's Params, with its default."""
    return dataclasses.field(default=default, metadata={MEANING: meaning, UNIT: unit})


def declared_parameters(params: type[Any]) -> dict[str, ColumnDeclaration]:
    """The columns of a task's parameters, `param_<name>`, from the fields of its Params.

    A field whose annotation is of no type that rows hold is left out: it is refused where parameters are read.
    """
    kinds: dict[type, ColumnType] = {str: "text", int: "whole", float: "real", bool: "truth"}
    hints, found = typing.get_type_hints(params), {}
    for field in dataclasses.fields(params):
        mine: set[ColumnType | None] = {kinds.get(kind) for kind in _plain_types(hints[field.name])}
        if "real" in mine:
            mine.discard("whole")
        kind: ColumnType | None = mine.pop() if len(mine) == 1 else None
        if kind is not None:
            meaning, unit = field.metadata.get(MEANING, ""), field.metadata.get(UNIT)
            found[f"param_{field.name}"] = ColumnDeclaration(kind=kind, meaning=meaning, unit=unit)
    return found


def _plain_types(hint: Any) -> set[type]:
    """The types that a field's annotation allows, beside None."""
    if typing.get_origin(hint) is Literal:
        return {type(value) for value in typing.get_args(hint)} - {type(None)}
    # of list[float] no column holds the float
    parts = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else ()
    return set().union(*map(_plain_types, parts)) if parts else {hint} - {type(None)}
