"""Columns that grow while records are read, held as Arrow arrays by the part, so that Python objects never pile up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ttbench.errors import StoreError

Part = dict[str, pa.Array]  # columns of equally many rows


def type_of(column: str, values: Iterable[Any]) -> pa.DataType:
    """The type that holds all the values; null where each is None. Raises StoreError when no type does."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.null()
    if kinds <= {bool}:
        return pa.bool_()
    if kinds <= {int}:
        return pa.int64()
    if kinds <= {int, float}:
        return pa.float64()
    if kinds == {str}:
        return pa.string()
    raise disagreement(column, sorted(kind.__name__ for kind in kinds))


def disagreement(column: str, kinds: Iterable[str]) -> StoreError:
    """What to tell the user where a column holds values that no type holds."""
    return StoreError(
        f"column '{column}' holds values of several kinds ({', '.join(kinds)}); the cells are kept: "
        "run the tasks that disagree apart, or rename the column in one of them"
    )


def array(name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values as an array of that type. Raises StoreError when they do not fit."""
    try:
        # Arrow cuts real numbers to whole ones without a word.
        if pa.types.is_integer(kind) and float in set(map(type, values)):
            raise pa.ArrowInvalid("real numbers among whole ones")
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        # Another version of the task, or a task that declares nothing, means something else by the name.
        raise disagreement(name, sorted({type(value).__name__ for value in values if value is not None})) from error


class Growing:
    """Columns to which rows are added, and which are handed out in parts."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}  # of the parts so far, by name, in order of first appearance
        self.num_rows = 0  # since the last part
        self._columns: dict[str, list[Any]] = {}

    def add(self, columns: Mapping[str, Sequence[Any]], num_rows: int) -> None:
        """Add rows; columns that are not among those given hold nothing in them."""
        for name, values in columns.items():
            held = self._columns.get(name)
            if held is None:
                held = self._columns[name] = [None] * self.num_rows
            elif len(held) < self.num_rows:
                held.extend([None] * (self.num_rows - len(held)))
            held.extend(values)
        self.num_rows += num_rows

    def part(self, declared: Mapping[str, pa.DataType]) -> Part:
        """The rows since the last part; columns that are not declared have the type of their values."""
        found = {}
        for name, values in self._columns.items():
            values.extend([None] * (self.num_rows - len(values)))
            kind = declared.get(name) or type_of(name, values)
            found[name] = array(name, values, kind)
        self.types = joined(self.types, {name: column.type for name, column in found.items()})
        self._columns, self.num_rows = {}, 0
        return found


_KINDS = {pa.bool_(): "bool", pa.int64(): "int", pa.float64(): "float", pa.string(): "str"}


def joined(types: Mapping[str, pa.DataType], later: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Types that hold the values of both, by column, the earlier columns first. Raises StoreError as `type_of`."""
    found = dict(types)
    for name, kind in later.items():
        found[name] = _joined(name, found.get(name, pa.null()), kind)
    return found


def _joined(name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both. Raises StoreError when none does."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise disagreement(name, sorted((_KINDS[one], _KINDS[other])))


def tables(parts: Iterable[tuple[Part, Sequence[int], Part]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of one schema from parts: columns of cells, how many rows each cell has, and columns of these rows."""
    for cells, counts, rows in parts:
        places = pa.array([place for place, count in enumerate(counts) for _ in range(count)], type=pa.int32())
        arrays = []
        for field in schema:
            if field.name in rows:
                found = rows[field.name]
            elif field.name in cells:
                found = cells[field.name].take(places)
            else:
                found = pa.nulls(len(places))
            arrays.append(found if found.type == field.type else _cast(field.name, found, field.type))
        yield pa.Table.from_arrays(arrays, schema=schema)


def _cast(name: str, found: pa.Array, kind: pa.DataType) -> pa.Array:
    """Whole numbers of one part among real ones of another. Raises StoreError where a real number cannot be them."""
    try:
        return found.cast(kind)
    except pa.ArrowInvalid as error:
        raise disagreement(name, sorted((_KINDS[found.type], _KINDS[kind]))) from error
