"""docs/columns.md and docs/rows.schema.json, made from the declarations of columns: `make columns`."""

from __future__ import annotations

import json
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttbench.declare import ColumnDeclaration
from ttbench.engines.hf.hf_kind import HF_CHOICES
from ttbench.registry import ARCHITECTURES, TASKS
from ttbench.report import summary, tidy
from ttbench.store import rows
from ttbench.tasks.base import Task, declarations
from ttbench.types import READABLE, SCHEMA_VERSION, Status

PAGE = Path(__file__).parents[1] / "docs" / "columns.md"
SCHEMA = PAGE.with_name("rows.schema.json")
# Types as Parquet, polars and a CSV's reader call them.
JSON_TYPES = {"text": "string", "whole": "integer", "real": "number", "truth": "boolean"}
TYPES = {"text": "text", "whole": "integer", "real": "float", "truth": "boolean"}
OF_ROWS = (*summary.CHECKPOINT, *summary.APART, *summary.SETTINGS, *summary.TIMING_SETTINGS, "seed", "context_len")


def page() -> str:
    """The text of docs/columns.md."""
    tasks = {name: TASKS.load(name) for name in TASKS if TASKS.entry_point(name) is None}
    return "\n".join([*_opening(), *_rows(tasks), *_tables(tasks)]) + "\n"


def _opening() -> Iterator[str]:
    yield "# Columns"
    yield ""
    yield "What each column of `rows.parquet`, `table.csv` and `comparisons.csv` holds. This page is made from the"
    yield "declarations in the code by `make columns`; a test holds it against them. A row in JSON Schema is"
    yield "`docs/rows.schema.json`."
    yield ""
    yield from textwrap.wrap(
        "Missing is null, never NaN, -1 or an empty text. Units are SI and raw: seconds, bytes, nats, counts; tokens "
        "are those of the checkpoint's tokenizer. A number without a unit is a share, a count of its own, or an index.",
        width=120,
    )


def _rows(tasks: Mapping[str, type[Task]]) -> Iterator[str]:
    yield from ("", "## Rows", "", "One row is one observation: a window, a trial, a question, a timed repeat.", "")
    yield from _listing({**rows.COLUMNS, **rows.SAMPLE})
    yield from ("", "### Choices of models", "")
    yield from textwrap.wrap(
        "What a checkpoint's config says where its architecture leaves it open, and how engine `hf` reads: "
        "`choice_<name>`. A file has the columns of the models in it; null: another architecture's, or not used.",
        width=120,
    )
    yield ""
    yield from _listing({f"choice_{name}": column for name, column in choices().items()})
    for name, task in tasks.items():
        yield from ("", f"### Rows of {name}", "", "Parameters are `param_<name>`.", "")
        yield from _listing(declarations(task))


def choices() -> dict[str, ColumnDeclaration]:
    """The choices of every architecture and engine here. Raises ValueError where a name has two meanings."""
    found = dict(HF_CHOICES)
    for name in ARCHITECTURES:
        if ARCHITECTURES.entry_point(name) is None:
            for choice, column in ARCHITECTURES.load(name).CHOICES.items():
                if found.setdefault(choice, column) != column:
                    raise ValueError(f"choice '{choice}' of {name} means something else elsewhere; call it otherwise")
    return found


def _tables(tasks: Mapping[str, type[Task]]) -> Iterator[str]:
    axes = {axis for task in tasks.values() for metric in task.metrics for axis in metric.axes} - {"context_len"}
    yield from ("", "## Tables and comparisons", "")
    kept, extra = (", ".join(f"`{name}`" for name in names) for names in (OF_ROWS, sorted(axes)))
    yield from textwrap.wrap(
        "One row of `table.csv` is one number, one row of `comparisons.csv` two checkpoints on the same targets at one "
        "point. A meaning that begins with `table` or `comparison` is of that file alone. A column without a single "
        "value is left out of a file. The columns of rows that tell numbers apart keep their names and meanings: "
        f"`task`, the parameters, {kept}, and the axes {extra}.",
        width=120,
    )
    yield ""
    yield from _listing({**tidy.HEAD, **tidy.TAIL})


def _listing(columns: Mapping[str, ColumnDeclaration]) -> Iterator[str]:
    yield from ("| column | type | unit | meaning |", "|---|---|---|---|")
    for name, column in columns.items():
        meaning = column.meaning.replace("|", "\\|")
        yield f"| `{name}` | {TYPES[column.kind]} | {column.unit or ''} | {meaning} |"


def schema() -> str:
    """The text of docs/rows.schema.json: one row, as JSON or as a line of `rows.parquet`, in JSON Schema 2020-12.

    Two tasks may give one name to numbers of two kinds; then it is a number. Other packages' tasks have more columns.
    """
    found: dict[str, Any] = {}
    choices_of = {f"choice_{name}": column for name, column in choices().items()}
    tasks = {name: TASKS.load(name) for name in TASKS if TASKS.entry_point(name) is None}
    for columns in ({**rows.COLUMNS, **rows.SAMPLE}, choices_of, *map(declarations, tasks.values())):
        for name, column in columns.items():
            kind, unit = JSON_TYPES[column.kind], {"x-unit": column.unit} if column.unit else {}
            held = found.setdefault(name, {"type": [kind, "null"], "description": column.meaning, **unit})
            if held["type"][0] != kind:
                if {held["type"][0], kind} != {"integer", "number"}:
                    raise ValueError(f"column '{name}' is {held['type'][0]} in one task and {kind} in another")
                held["type"] = ["number", "null"]
    found["schema"] = {"enum": list(READABLE), "description": rows.COLUMNS["schema"].meaning}
    found["status"] = {"enum": list(typing.get_args(Status)), "description": rows.COLUMNS["status"].meaning}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A row of ttbench, schema {SCHEMA_VERSION}",
        "description": "One observation. Missing is null; in schema 1 some columns are not there.",
        "type": "object",
        "required": ["cell_id", "schema", "task", "checkpoint", "context_len", "status", "sample"],
        "properties": found,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
