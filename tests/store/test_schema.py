"""One declared schema for each task: files of rows are read together, whatever is missing in one of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from test_store import cells, new_store, record  # noqa: F401  a fixture among them

from ttbench.errors import StoreError
from ttbench.registry import TASKS
from ttbench.store.rows import METRICS_KEY, read_rows, together
from ttbench.store.store import Store
from ttbench.tasks.base import Task, declared_columns
from ttbench.types import Cell, Figure, Sample

DECLARED = {"document": "text", "hits": "whole", "nats": "real", "steady": "truth"}
BUILT_IN = [name for name in TASKS if TASKS[name].startswith("ttbench.")]


def stored(folder: Path, cell: Cell, *samples: dict[str, Any], **changes: Any) -> Store:
    made = tuple(
        Sample(
            keys={name: each[name] for name in each if name == "document"},
            values={name: each[name] for name in each if name != "document"},
        )
        for each in samples
    )
    store = new_store(folder, (cell,))
    store.write_cell(record(cell, samples=made, columns={"param_limit": "whole", **DECLARED}, **changes))
    return store


@pytest.fixture
def files(tmp_path: Path, cells: tuple[Cell, ...]) -> list[Path]:  # noqa: F811
    full = {"document": "a", "hits": 1, "nats": 0.5, "steady": True}
    empty = dict.fromkeys(full)
    unlimited = dataclasses.replace(cells[0], params={**cells[0].params, "limit": None})
    return [
        stored(tmp_path, cells[0], full, full).write_rows(),
        stored(tmp_path, unlimited, empty).write_rows(),
        stored(tmp_path, cells[1], status="error", reason="why").write_rows(),
    ]


def test_runs_of_a_task_have_one_schema_whatever_is_missing(files: list[Path]) -> None:
    schemas = [pq.read_schema(path).remove_metadata() for path in files]
    own = {name: str(schemas[1].field(name).type) for name in (*DECLARED, "param_limit")}
    assert own == {"document": "string", "hits": "int64", "nats": "double", "steady": "bool", "param_limit": "int64"}
    assert schemas[0] == schemas[1] == schemas[2]
    assert not any(pa.types.is_null(field.type) for schema in schemas for field in schema if field.name in own)


def test_runs_are_read_together(files: list[Path]) -> None:
    for order in (files, files[::-1]):
        read = ds.dataset([str(path) for path in order]).to_table()
        assert read.num_rows == 4
        assert read["hits"].to_pylist().count(1) == 2
        assert len(pd.concat([pd.read_parquet(path) for path in order])) == 4


def test_polars_and_duckdb_read_them_together(files: list[Path]) -> None:
    polars = pytest.importorskip("polars")
    duckdb = pytest.importorskip("duckdb")
    for order in (files, files[::-1]):
        assert polars.scan_parquet(order).collect()["hits"].sum() == 2
        names = ", ".join(f"'{path}'" for path in order)
        assert duckdb.sql(f"select sum(hits), count(*) from read_parquet([{names}])").fetchall() == [(2, 4)]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"document": "a", "other": 1}, "gives column 'other', which its `columns` do not declare"),
        ({"hits": 0.5}, "gives 0.5 in column 'hits', declared as whole"),
        ({"hits": True}, "gives True in column 'hits', declared as whole"),
        ({"document": 1}, "gives 1 in column 'document', declared as text"),
    ],
)
def test_a_column_that_is_not_declared_so_is_refused(
    tmp_path: Path,
    cells: tuple[Cell, ...],  # noqa: F811
    values: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(ValueError, match=words):
        stored(tmp_path, cells[0], values)


def test_tasks_that_declare_one_name_differently_are_refused_together(
    tmp_path: Path,
    cells: tuple[Cell, ...],  # noqa: F811
) -> None:
    store = new_store(tmp_path, cells)
    store.write_cell(record(cells[0], samples=(), columns={"hits": "whole"}))
    store.write_cell(record(cells[1], samples=(), columns={"hits": "real"}))
    assert str(store.rows()["hits"].dtype) == "float64"
    store.write_cell(record(cells[2], samples=(), columns={"hits": "text"}))
    with pytest.raises(StoreError, match="column 'hits' holds values of several kinds"):
        store.rows()


def test_a_column_of_one_name_has_one_type_in_all_tasks() -> None:
    found: dict[str, set[str]] = {}
    for name in BUILT_IN:
        task: type[Task] = TASKS.load(name)
        assert task.columns, f"{name} declares no columns"
        for column, kind in declared_columns(task).items():
            found.setdefault(column, set()).add(kind)
    assert {column: kinds for column, kinds in found.items() if len(kinds) > 1} == {}


def test_parameters_are_declared_by_their_annotations(fakes: ModuleType) -> None:
    found = declared_columns(fakes.FakeQuality)
    assert found["param_limit"] == "whole"
    assert found["param_protocol"] == "text"
    assert found["param_sleep_s"] == "real"


def test_a_row_is_extrapolated_by_what_was_read(tmp_path: Path, cells: tuple[Cell, ...]) -> None:  # noqa: F811
    for number, (read, extrapolated) in enumerate([(1000, False), (1024, False), (1025, True)]):
        store = new_store(tmp_path / str(number), cells)
        sample = Sample(keys={}, values={"sequence_tokens": read})
        store.write_cell(record(dataclasses.replace(cells[0], context_len=2048), samples=(sample,)))
        assert set(store.rows()["extrapolated"]) == {extrapolated}


FIGURE = Figure(name="hits", title="Hits against context", metric="hits", references=("chance",), log_y=True)


def test_figures_of_a_task_are_kept_in_its_cells_and_travel_with_its_rows(
    tmp_path: Path,
    cells: tuple[Cell, ...],  # noqa: F811
) -> None:
    store = stored(tmp_path, cells[0], {"document": "a", "hits": 1, "nats": 0.5, "steady": True}, figures=(FIGURE,))
    assert store.read(cells[0].cell_id).figures == (FIGURE,)
    (figure,) = read_rows(store.write_rows()).attrs["figures"][cells[0].task]
    assert Figure.from_json({**figure, "later": 1}) == FIGURE


def test_rows_of_before_have_the_figures_that_built_in_tasks_declare_today(tmp_path: Path) -> None:
    kept = {METRICS_KEY: b'{"memory": [], "probe": [], "gone": []}'}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"task": ["memory"]}).replace_schema_metadata(kept), path)
    figures = read_rows(path).attrs["figures"]
    # The probe declares none, so that its metrics say what is drawn; of a task that is gone nobody knows more.
    assert list(figures) == ["memory"]
    assert "state" in [figure["name"] for figure in figures["memory"]]


def rows_in(folder: Path, cell: Cell, *samples: dict[str, Any], **changes: Any) -> pd.DataFrame:
    return stored(folder, cell, *samples, **changes).rows()


def test_rows_of_two_files_are_put_together_as_rows_of_one(tmp_path: Path, cells: tuple[Cell, ...]) -> None:  # noqa: F811
    one, two = cells[:2]
    first = rows_in(tmp_path / "1", one, {"document": "a", "hits": 1, "nats": 0.5}, {"document": "b", "steady": True})
    second = rows_in(tmp_path / "2", two, {"document": "a", "nats": 2.0}, choices={"width": 4})
    found = together([second, first])
    assert list(found["document"]) == ["a", "a", "b"]
    assert found["hits"].tolist() == [pd.NA, 1, pd.NA]
    assert str(found["hits"].dtype) == "Int64"
    assert found["choice_width"].tolist() == [4, pd.NA, pd.NA]
    assert list(found).index("choice_width") < list(found).index("sample") < list(found).index("nats")
    assert found.attrs["metrics"] == first.attrs["metrics"] == second.attrs["metrics"]
    assert set(found.attrs["environments"]) == {*first.attrs["environments"], *second.attrs["environments"]}
    pd.testing.assert_frame_equal(together([first]), first)


def test_rows_whose_columns_or_metrics_disagree_are_not_put_together(
    tmp_path: Path,
    cells: tuple[Cell, ...],  # noqa: F811
) -> None:
    rows = rows_in(tmp_path / "1", cells[0], {"document": "a", "nats": 0.5})
    with pytest.raises(StoreError, match="column 'nats' holds values of several kinds"):
        together([rows, rows.assign(nats="many")])
    other = rows.copy()
    other.attrs = {**rows.attrs, "metrics": {task: [] for task in rows.attrs["metrics"]}}
    with pytest.raises(StoreError, match="were measured with other metrics; measure the older ones again"):
        together([rows, other])
