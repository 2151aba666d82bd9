"""Rows have a schema with a number: published as JSON Schema, read one version back, refused when it is later."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ttbench.errors import StoreError
from ttbench.report.table import summarise
from ttbench.store.rows import metadata, parquet_bytes, read_rows
from ttbench.types import READABLE, SCHEMA_VERSION
from ttbench.version import __version__

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted((ROOT / "results").glob("*/*/rows.parquet"))
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "rows.schema.json").read_text(encoding="utf-8"))
FITS = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def test_the_schema_is_made_from_the_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    assert json.loads(importlib.import_module("columns").schema()) == SCHEMA, "make columns"
    assert SCHEMA["title"].endswith(f"schema {SCHEMA_VERSION}")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parts[-3])
def test_published_rows_keep_the_schema(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    assert set(SCHEMA["required"]) <= set(table.column_names)
    for name in table.column_names:
        told = SCHEMA["properties"][name]
        for value in set(table[name].to_pylist()):
            fits = value in told["enum"] if "enum" in told else any(FITS[kind](value) for kind in told["type"])
            assert fits, (name, value)


def written(rows: pd.DataFrame, path: Path) -> Path:
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(metadata(rows.attrs))
    path.write_bytes(parquet_bytes(table))
    return path


def test_rows_of_a_later_schema_are_refused_and_those_of_the_one_before_are_read(tmp_path: Path) -> None:
    assert {int(read_rows(path)["schema"].iloc[0]) for path in PUBLISHED} == {SCHEMA_VERSION}
    # rows of schema 1 do not say which code measured them
    rows = read_rows(ROOT / "results/bench/cpu/rows.parquet")
    before = rows.assign(schema=min(READABLE), code_digest=None, ttbench=None)
    before.attrs = rows.attrs
    found = summarise(read_rows(written(before, tmp_path / "before.parquet")))
    assert found["value"].tolist() == summarise(rows)["value"].tolist()
    later = read_rows(ROOT / "results/bench/cpu/rows.parquet").assign(schema=SCHEMA_VERSION + 1)
    with pytest.raises(StoreError, match=rf"rows of schema {SCHEMA_VERSION + 1}, and this version of ttbench reads"):
        read_rows(written(later, tmp_path / "later.parquet"))
    with pytest.raises(StoreError, match="holds no rows of ttbench: they do not say which task"):
        read_rows(written(pd.DataFrame({"a": [1]}), tmp_path / "other.parquet"))


@pytest.mark.parametrize("column", ["task_version", "architecture_version", "code_digest"])
def test_results_of_two_versions_are_two_lines_never_one_number(column: str) -> None:
    rows = read_rows(ROOT / "results/bench/cpu/rows.parquet")
    mine = rows.loc[(rows["checkpoint"] == "ttt-linear") & (rows["context_len"] == 256)]
    other = mine.assign(**{column: 99 if column != "code_digest" else "f" * 32}, cell_id=mine["cell_id"] + "b")
    both = pd.concat([mine, other])
    both.attrs = rows.attrs
    alone, found = (
        [number for number in summarise(part).to_dict("records") if number["metric"] == "bits_per_byte"]
        for part in (mine, both)
    )
    assert len(found) == 2 * len(alone) > 0
    pooled = [(number["value"], number["num_samples"]) for number in alone]
    assert sorted((number["value"], number["num_samples"]) for number in found) == sorted(2 * pooled)


def test_the_citation_is_of_this_version_and_names_no_person() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["cff-version"] == "1.2.0"
    assert found["version"] == __version__
    assert found["license"] == "Apache-2.0"
    assert found["authors"] == [{"name": "The ttbench authors"}]
