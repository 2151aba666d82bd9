"""Cells divided into tasks of a cluster, and the files by which the run's folder knows them.

    <run>/cluster/tasks/<index>.json       the cells of a task, in the order in which they run
                  started/<index>.<writer> where and when a task began; a task may begin twice, on two nodes
                  jobs.json                what was submitted: job ids, and which tasks they are
                  logs/                    what tasks printed

A task is a group of quality cells of one checkpoint, which share a process, or all cells of one timing comparison:
every checkpoint and round at one context, which must be measured on one node, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ttbench.errors import StoreError
from ttbench.runs.executors.base import is_timing
from ttbench.runs.plan import groups
from ttbench.store.files import make_folder, node, write_whole, writer_name
from ttbench.store.record import now
from ttbench.store.store import Store
from ttbench.types import Cell, canonical_json, json_bytes

TaskKind = Literal["quality", "timing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterTask:
    """One task: cells that run on one node, one after the other."""

    index: int  # within the run, from 0
    kind: TaskKind
    cells: tuple[Cell, ...]

    @property
    def on_gpu(self) -> bool:
        return self.cells[0].device != "cpu"

    @property
    def threads(self) -> int:
        return max(cell.threads for cell in self.cells)

    @property
    def resources(self) -> tuple[str, bool, int]:
        """What tasks of one array have in common."""
        return (self.kind, self.on_gpu, self.threads)


def divide(cells: Iterable[Cell], *, cells_per_task: int | None = None) -> tuple[ClusterTask, ...]:
    """Cells as tasks, those with equal resources after each other."""
    parts: list[tuple[Cell, ...]] = []
    comparisons: dict[tuple[Any, ...], list[Cell]] = {}
    for group in groups(cells):
        if is_timing(group[0]):
            cell = group[0]
            key = (cell.task, cell.context_len, cell.device, cell.threads, canonical_json(dict(cell.params)))
            comparisons.setdefault(key, []).append(cell)
            continue
        step = cells_per_task or len(group)
        parts += [group[start : start + step] for start in range(0, len(group), step)]
    parts += map(tuple, comparisons.values())
    tasks = [ClusterTask(index=0, kind="timing" if is_timing(part[0]) else "quality", cells=part) for part in parts]
    order = list(dict.fromkeys(task.resources for task in tasks))
    tasks.sort(key=lambda task: order.index(task.resources))
    return tuple(ClusterTask(index=index, kind=task.kind, cells=task.cells) for index, task in enumerate(tasks))


def cluster_folder(store: Store) -> Path:
    return store.folder / "cluster"


def write_tasks(store: Store, tasks: Sequence[ClusterTask]) -> None:
    """Store the tasks of a run. Raises StoreError."""
    for folder in ("", "tasks", "started", "logs"):
        make_folder(cluster_folder(store) / folder)
    for task in tasks:
        data = {"index": task.index, "kind": task.kind, "cells": [cell.to_json() for cell in task.cells]}
        write_whole(_task_path(store, task.index), json_bytes(json.dumps(data)))


def _task_path(store: Store, index: int) -> Path:
    return cluster_folder(store) / "tasks" / f"{index}.json"


def read_task(store: Store, index: int) -> ClusterTask:
    """A task of a run. Raises StoreError where there is none."""
    path = _task_path(store, index)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return ClusterTask(
            index=data["index"], kind=data["kind"], cells=tuple(Cell.from_json(cell) for cell in data["cells"])
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"cannot read the cluster task {path}: {error}; submit the run again") from error


def read_tasks(store: Store) -> tuple[ClusterTask, ...]:
    """The tasks of a run, in order; none where nothing was submitted. Raises StoreError."""
    found = sorted(int(path.stem) for path in (cluster_folder(store) / "tasks").glob("[0-9]*.json"))
    return tuple(read_task(store, index) for index in found)


def note_start(store: Store, index: int) -> None:
    """Say that a task begins here and now."""
    data = {"node": node(), "pid": os.getpid(), "time": now(), "job": os.environ.get("SLURM_JOB_ID")}
    path = cluster_folder(store) / "started" / f"{index}.{writer_name()}.json"
    write_whole(path, json_bytes(json.dumps(data)))


def starts(store: Store) -> dict[int, list[dict[str, Any]]]:
    """Where and when tasks began, by task."""
    found: dict[int, list[dict[str, Any]]] = {}
    for path in sorted((cluster_folder(store) / "started").glob("[0-9]*.json")):
        note = {"node": "a node", "time": "a time that its note does not tell"}
        # A note says nothing of a cell: a damaged one must not keep a run from being collected.
        with contextlib.suppress(ValueError, TypeError):
            note |= json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(int(path.name.partition(".")[0]), []).append(note)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What was handed to a cluster for a run."""

    executor: str
    jobs: tuple[tuple[str, int, int], ...]  # job id, its first task, number of tasks

    @property
    def job_ids(self) -> tuple[str, ...]:
        return tuple(job_id for job_id, _, _ in self.jobs)


def write_submission(store: Store, found: Submission) -> None:
    data = {"executor": found.executor, "jobs": [list(job) for job in found.jobs]}
    write_whole(cluster_folder(store) / "jobs.json", json_bytes(json.dumps(data)))


def read_submission(store: Store) -> Submission | None:
    """What was submitted for a run; None: nothing. Raises StoreError."""
    path = cluster_folder(store) / "jobs.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        jobs = tuple((str(job_id), int(first), int(num)) for job_id, first, num in data["jobs"])
        return Submission(executor=data["executor"], jobs=jobs)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"cannot read {path}: {error}; the cluster's own commands still know the run's jobs"
        ) from error
