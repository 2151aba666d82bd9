"""Rows as plain columns, and parts of them: what grouping needs, without a DataFrame per group. Missing is None."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ttbench.types import Scalar


class Columns:
    """The columns of a DataFrame as arrays of plain values, with codes for grouping made at first use."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.names = tuple(str(name) for name in rows.columns)
        self.num_rows = len(rows)
        self._values = {name: _plain(rows[name].tolist()) for name in self.names}
        self._codes: dict[str, np.ndarray] = {}

    def values(self, name: str) -> np.ndarray:
        """Entries of a column, object [N]; all None when there is no such column."""
        if name not in self._values:
            self._values[name] = np.full(self.num_rows, None, dtype=object)
        return self._values[name]

    def codes(self, name: str) -> np.ndarray:
        """Whole numbers that are equal where entries are, in order of first appearance, [N]."""
        if name not in self._codes:
            seen: dict[Any, int] = {}
            self._codes[name] = np.array([seen.setdefault(value, len(seen)) for value in self.values(name)], dtype=int)
        return self._codes[name]


def _plain(values: list[Any]) -> np.ndarray:
    entries = np.empty(len(values), dtype=object)
    entries[:] = [None if value is None or value is pd.NA or value != value else value for value in values]
    return entries


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of `columns`, by their places."""

    columns: Columns
    places: np.ndarray = field(repr=False)  # [N]

    def __len__(self) -> int:
        return len(self.places)

    def values(self, name: str) -> np.ndarray:
        """Entries of a column in this part, object [N]."""
        return self.columns.values(name)[self.places]

    def floats(self, name: str | None) -> np.ndarray:
        """Entries of a column without missing ones, float64 [N]; ones without a name."""
        return np.ones(len(self)) if name is None else self.values(name).astype(np.float64)

    def first(self, name: str) -> Scalar:
        """The entry of the first row."""
        return self.values(name)[0]

    def present(self, name: str) -> np.ndarray:
        """Where a column is not missing, bool [N]."""
        return np.array([value is not None for value in self.values(name)], dtype=bool)

    def select(self, keep: np.ndarray) -> Part:
        """The rows for which `keep`, bool [N], is true."""
        return Part(self.columns, self.places[keep])

    def equal(self, wanted: Mapping[str, Scalar]) -> Part:
        """The rows whose columns have these values."""
        keep = np.ones(len(self), dtype=bool)
        for name, value in wanted.items():
            keep &= np.array([entry == value for entry in self.values(name)], dtype=bool)
        return self.select(keep)

    def split(self, names: Sequence[str]) -> Iterator[tuple[dict[str, Scalar], Part]]:
        """Parts with equal entries in these columns, missing ones equal to each other, in order of first appearance."""
        labels = self._labels(names)
        _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(inverse.ravel(), kind="stable")
        edges = np.cumsum(np.bincount(inverse.ravel(), minlength=len(first)))
        parts = np.split(order, edges[:-1]) if len(first) else []
        for group in np.argsort(first):
            part = Part(self.columns, self.places[parts[group]])
            yield {name: part.first(name) for name in names}, part

    def once(self, names: Sequence[str]) -> Part:
        """The first row of each set of equal entries in these columns."""
        _, first = np.unique(self._labels(names), return_index=True)
        return Part(self.columns, self.places[np.sort(first)])

    def _labels(self, names: Sequence[str]) -> np.ndarray:
        labels = np.zeros(len(self), dtype=np.int64)
        for name in names:
            codes = self.columns.codes(name)[self.places]
            # small again after each column, so that the product never overflows
            _, labels = np.unique(labels * (self.columns.num_rows + 1) + codes, return_inverse=True)
            labels = labels.ravel()
        return labels


def all_rows(rows: pd.DataFrame) -> Part:
    """A DataFrame as a part that holds every row."""
    return Part(Columns(rows), np.arange(len(rows)))
