"""docs/columns.md is made from the declarations, and no column of published results is missing from it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ttbench.declare import ColumnDeclaration
from ttbench.registry import TASKS
from ttbench.report import tidy
from ttbench.store.rows import COLUMNS, SAMPLE
from ttbench.tasks.base import declarations

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")
ROWS, TABLES = PAGE.split("## Tables and comparisons")
BUILT_IN = [name for name in TASKS if TASKS[name].startswith("ttbench.")]
DECLARED: dict[str, Mapping[str, ColumnDeclaration]] = {
    "rows": {**COLUMNS, **SAMPLE},
    "tables": {**tidy.HEAD, **tidy.TAIL},
    **{name: declarations(TASKS.load(name)) for name in BUILT_IN},
}


def listed(part: str) -> set[str]:
    """The columns that have a line of their own."""
    return set(re.findall(r"^\| `(\w+)` \| (?:text|integer|float|boolean) \|", part, re.M))


def headed(pattern: str) -> dict[str, set[str]]:
    """The columns of published CSVs."""
    paths = sorted((ROOT / "results").glob(pattern))
    assert paths
    return {str(path): set(path.read_text(encoding="utf-8").split("\n", 1)[0].split(",")) for path in paths}


def test_the_page_is_made_from_the_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    assert importlib.import_module("columns").page() == PAGE, "make columns"


def test_the_page_has_every_column_of_published_rows() -> None:
    paths = sorted((ROOT / "results").glob("*/*/rows.parquet"))
    assert paths
    for path in paths:
        assert set(pq.read_schema(path).names) <= listed(ROWS), path


def test_the_page_has_every_column_of_published_tables_and_comparisons() -> None:
    # Columns that a table keeps from rows are named in the text before the listing.
    kept = set(re.findall(r"`(\w+)`", TABLES.split("| column |")[0])) | {"task"}
    kept |= {name for name in listed(ROWS) if name.startswith("param_")}
    for path, names in {**headed("*/*/table.csv"), **headed("*/*/comparisons.csv")}.items():
        assert names <= listed(TABLES) | kept, path


@pytest.mark.parametrize("place", DECLARED)
def test_every_column_says_what_it_holds_and_its_unit(place: str) -> None:
    for name, column in DECLARED[place].items():
        assert re.fullmatch(r"\S.{3,}[^.\s]", column.meaning), name
        assert column.unit is None or column.kind in ("whole", "real"), name
        # these names say their unit
        unit = "bytes" if name.endswith("_bytes") else "nats" if name.endswith("nats") else None
        unit = "s" if name.endswith(("_s", "_seconds")) and column.kind == "real" else unit
        unit = {"bytes_per_s": "bytes/s", "flops_per_s": "FLOP/s"}.get("_".join(name.split("_")[-3:]), unit)
        assert unit in (None, column.unit), name


@pytest.mark.parametrize("task", BUILT_IN)
def test_no_task_takes_the_name_of_a_column_that_all_rows_have(task: str) -> None:
    assert not DECLARED["rows"].keys() & DECLARED[task].keys()
