"""Grouping of rows without a DataFrame per group."""

from __future__ import annotations

import pandas as pd
import pytest

from ttbench.report.columns import all_rows

FRAME = pd.DataFrame(
    {
        "name": ["b", "a", "b", None, None],
        "depth": [0.5, 0.5, float("nan"), float("nan"), 0.5],
        "size": pd.array([1, None, 3, 4, 5], dtype="Int64"),
    }
)


def test_missing_is_none_whatever_the_type_of_the_column() -> None:
    rows = all_rows(FRAME)
    assert rows.values("name").tolist() == ["b", "a", "b", None, None]
    assert rows.values("depth").tolist() == [0.5, 0.5, None, None, 0.5]
    assert rows.values("size").tolist() == [1, None, 3, 4, 5]
    assert rows.values("absent").tolist() == [None] * 5


@pytest.mark.parametrize("names", [["name"], ["name", "depth"], ["depth"], ["absent"], []])
def test_split_agrees_with_pandas_and_keeps_the_order_of_first_appearance(names: list[str]) -> None:
    found = [(tuple(key.values()), part.values("size").tolist()) for key, part in all_rows(FRAME).split(names)]
    expected: dict[tuple[object, ...], list[object]] = {}
    for _, row in FRAME.astype(object).where(FRAME.notna(), None).iterrows():
        expected.setdefault(tuple(row.get(name) for name in names), []).append(row["size"])
    assert found == list(expected.items())


def test_once_keeps_the_first_row_of_equal_ones() -> None:
    assert all_rows(FRAME).once(["name"]).values("size").tolist() == [1, None, 4]


def test_numbers_come_as_floats_and_a_column_without_a_name_is_ones() -> None:
    rows = all_rows(FRAME).equal({"name": None})
    assert rows.floats("size").tolist() == [4.0, 5.0]
    assert rows.floats(None).tolist() == [1.0, 1.0]
    assert rows.present("depth").tolist() == [False, True]


def test_equal_selects_and_an_empty_frame_splits_into_nothing() -> None:
    assert all_rows(FRAME).equal({"name": "b", "depth": 0.5}).floats("size").tolist() == [1.0]
    assert list(all_rows(pd.DataFrame()).split(["name"])) == []
