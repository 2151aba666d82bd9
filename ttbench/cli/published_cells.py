"""Cells of published results, read back from their rows: all that `ttbench show RUN CELL` shows but the evidence.

Rows hold a cell's settings, its samples and what it ran on. Prompts, answers and the nats of single tokens are
evidence, which stays with the run; text is made again from the corpus where a sample says its place in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ttbench.checkpoints.naming import zoo_folders
from ttbench.cli import console
from ttbench.report import words
from ttbench.runs.evidence import Measured, view_sample
from ttbench.store.rows import COLUMNS, SETTINGS
from ttbench.types import Metric, Sample

NOT_STORED = (
    "published rows hold no prompts, answers or nats of single tokens: these are evidence, kept by the run alone"
)
_CHECKPOINT = ("name", "architecture", "architecture_version", "provenance", "revision", "weights_digest")
_CELL = (
    *(
        "task",
        "task_version",
        "context_len",
        "corpus",
        "corpus_digest",
        "seed",
        "dtype",
        "device",
        "engine",
        "attention",
    ),
    *("batch_size", "threads", "round", "machine", "software", "code_digest", "schema"),
)


def view_cell(rows: pd.DataFrame, cell_id: str) -> dict[str, Any]:
    """A cell as `ttbench.cli.listing.view_cell` gives it, as far as rows hold it."""
    entries = _entries(rows, cell_id)
    first = entries[0]
    checkpoint = {name: first["checkpoint" if name == "name" else name] for name in _CHECKPOINT}
    params, choices = (
        {name.removeprefix(kind): value for name, value in first.items() if name.startswith(kind) and value is not None}
        for kind in SETTINGS
    )
    environments = rows.attrs.get("environments", {})
    kept = environments.get(first["environment"])
    return {
        "cell_id": cell_id,
        "cell": {**{name: first.get(name) for name in _CELL}, "checkpoint": checkpoint, "params": params},
        **{name: first.get(name) for name in ("status", "reason", "started", "run_id", "ttbench", "cell_s")},
        **{name: first.get(name) for name in ("cell_cpu_s", "load_average", "engine")},
        "kernel_path": json.loads(first["kernel_path"] or "{}"),
        "choices": choices,
        "environment": None if kept is None else json.loads(kept),
        "samples": [{**sample.keys, **sample.values} for sample in _samples(rows, entries)],
        "evidence": None,
    }


def open_sample(rows: pd.DataFrame, cell_id: str, index: int) -> dict[str, Any]:
    """A sample as `ttbench.runs.evidence.open_sample` gives it, without evidence.

    Raises UsageError when the cell has no sample of that number.
    """
    entries = _entries(rows, cell_id)
    first = entries[0]
    measured = Measured(
        cell_id=cell_id,
        checkpoint=first["checkpoint"],
        # what is there under the name is asked for its tokenizer's digest before anything is decoded
        path=zoo_folders().get(first["checkpoint"]),
        samples=_samples(rows, entries),
        **{name: first[name] for name in ("task", "task_version", "tokenizer_digest", "context_len", "status")},
        **{name: first[name] for name in ("corpus", "corpus_digest")},
    )
    return view_sample(measured, index, None)


def environments(rows: pd.DataFrame) -> list[str]:
    """What these rows were measured on, a line for each environment; one line where it was not kept."""
    kept = rows.attrs.get("environments", {})
    named = dict.fromkeys(rows["environment"])
    found = [json.loads(kept[name]) for name in named if name in kept]
    lines = [
        f"measured on {entry['processor']}, {entry['num_cores']} cores, {console.size(entry['memory_bytes'])}, "
        f"{entry['accelerator'] or 'no accelerator'}; Python {entry['python']}, "
        f"torch {entry['packages'].get('torch', 'unknown')}, ttbench {entry['ttbench']}, "
        f"commit {entry['commit'] or 'unknown'}"
        for entry in found
    ]
    if len(found) < len(named):
        lines.append("the environment of these rows was not kept: they were published before rows carried it")
    return lines


def _entries(rows: pd.DataFrame, cell_id: str) -> list[dict[str, Any]]:
    return words.records(rows.loc[rows["cell_id"] == cell_id].sort_values(by="sample"))


def _samples(rows: pd.DataFrame, entries: Sequence[dict[str, Any]]) -> tuple[Sample, ...]:
    """The samples of a cell; none of one that did not end well. What metrics are made of is a value, the rest a key."""
    if entries[0]["status"] != "ok":
        return ()
    metrics = [Metric.from_json(metric) for metric in rows.attrs["metrics"][entries[0]["task"]]]
    made_of = {name for metric in metrics for name in (metric.numerator, metric.denominator)}
    found = []
    for entry in entries:
        own = {
            name: value
            for name, value in entry.items()
            if name not in COLUMNS and name != "sample" and not name.startswith(SETTINGS)
        }
        values = {name: value for name, value in own.items() if name in made_of or isinstance(value, float | bool)}
        keys = {name: value for name, value in own.items() if name not in values and value is not None}
        found.append(Sample(keys=keys, values=values))
    return tuple(found)
