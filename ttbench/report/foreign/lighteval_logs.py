"""Details of lighteval (`details_*.parquet`, by `--save-details`): a row for each document, its scores in `metric`.

A document is known by question, choices and gold answer. Which way a metric is better stands in the results file
(`config_tasks`); without it, higher.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ttbench.errors import UsageError
from ttbench.report.foreign.scores import DocumentScore, ForeignLog, finite, one_each, share_or_mean
from ttbench.types import canonical_json, digest

TOOL, PATTERN = "lighteval", "details_*.parquet"
_NAME = re.compile(r"details_(.+)_(\d{4}-\d\d-\d\dT.+)\.parquet")


def read(files: list[Path], name: str) -> ForeignLog:
    """The scores in details of lighteval. Raises UsageError for what is damaged, or logged twice."""
    by_task: dict[str, list[Path]] = {}
    for path in files:
        match = _NAME.fullmatch(path.name)
        by_task.setdefault(match[1] if match else path.stem.removeprefix("details_"), []).append(path)
    one_each(by_task, name)
    scores = [score for task, (path, *_) in by_task.items() for score in _scores(path, task)]
    lower = _lower_is_better(files)
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.metric, []).append(score.value)
    kinds = {each: share_or_mean(each, mine, "lower" if each in lower else "higher") for each, mine in values.items()}
    return ForeignLog(tool=TOOL, name=name, scores=tuple(scores), kinds=kinds)


def _scores(path: Path, task: str) -> Iterator[DocumentScore]:
    try:
        # not read_table, which takes `name=value` in a folder for a column
        rows = pq.ParquetFile(path).read(columns=["doc", "metric", "model_response"]).to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise UsageError(f"{path} is no file of lighteval's details ({type(error).__name__}: {error})") from error
    for number, row in enumerate(rows):
        where, doc = f"{path.name}, row {number}", row["doc"]
        document = digest(canonical_json([doc["query"], doc["choices"], doc["gold_index"]]))
        prompt = digest(canonical_json(row["model_response"].get("input")))
        for metric, value in row["metric"].items():
            if value is not None:
                yield DocumentScore(
                    benchmark=task,
                    document=document,
                    prompt=prompt,
                    metric=metric,
                    value=finite(value, f"{where}, {metric}"),
                )


def _lower_is_better(files: list[Path]) -> set[str]:
    """Metrics that the results files call better the lower they are."""
    found: set[str] = set()
    roots = dict.fromkeys(folder for path in files for folder in path.parents)
    for folder in roots:
        if folder.name != "details":
            continue
        for path in sorted((folder.parent / "results").rglob("results_*.json")):
            try:
                tasks = json.loads(path.read_text(encoding="utf-8")).get("config_tasks", {})
            except ValueError as error:
                raise UsageError(f"{path} is no results file of lighteval: {error}") from error
            found |= {name for task in tasks.values() for name in _lower(task)}
    return found


def _lower(task: Any) -> Iterator[str]:
    metrics = task.get("metrics", ()) if isinstance(task, dict) else ()
    for metric in metrics:
        if isinstance(metric, dict) and metric.get("higher_is_better") is False:
            yield str(metric.get("metric_name"))
