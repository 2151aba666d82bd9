"""Times of cells that this machine has not run: its rates, measured once in a process of their own and kept.

Rates are kept in the user's cache folder, by everything that decides them: machine, threads, dtype, engine, the
checkpoint's sizes, torch and the code. Those measured while the machine was busy are measured again once it is quiet.
Torch-free: the process that measures imports torch, this one never does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ttbench.code import code_digest
from ttbench.errors import CacheError, StoreError
from ttbench.machine import measure
from ttbench.machine.rates import Pace, Rates, fit_pace
from ttbench.machine.user_cache import cache_folder
from ttbench.machine.work import Work
from ttbench.packages import import_path
from ttbench.registry import TASKS
from ttbench.runs.estimate import CellEstimate
from ttbench.runs.plan import Plan, groups
from ttbench.runs.times.vouching import Reading, looked, probes
from ttbench.store.files import write_whole
from ttbench.types import Cell, Cost, canonical_json, digest

VERSION = 2  # bumped when what is measured changes
BUDGET_S = 3.0  # of reading, over all checkpoints
MOST_JOB_S = 0.6  # of reading, for one of them
TIMEOUT_S = 120.0  # a process that takes longer tells nothing more
BUSY = 0.75  # load average for each core, from which on a machine is busy
# What is measured, and what of it every process needs to begin.
KINDS = ("start", "load", "pace", "module", "corpus", "compress")
BEGINNINGS = ("start", "load")
_SPREAD = 5.0  # earlier cells correct rates by no more, either way
_CHUNK = 65_536

Known = dict[str, dict[str, Any]]  # key -> what was measured
Wanted = dict[str, tuple[str, Any]]  # key -> kind, and what of that kind


def with_times(plan: Plan, cells: Iterable[Cell], *, measuring: bool = True) -> Plan:
    """The plan with the seconds of `cells`, and of the processes that they run in, filled in where they can be told.

    Args:
        cells: those still to run.
        measuring: measure rates that are not known; False uses only those that are.
    """
    cells = tuple(cells)
    known = _load(cells)
    if measuring and (missing := _missing(plan, cells, known)):
        known |= _measure(missing)
    estimates = dict(plan.estimates)
    for cell in cells:
        estimates[cell.cell_id] = _timed(cell, plan.estimates[cell.cell_id], known)
    for group in groups(cells):
        for cell in _served(group):
            estimate = estimates[cell.cell_id]
            if not estimate.exact:
                estimates[cell.cell_id] = _timed(cell, _without_calls(estimate), known)
        first = group[0].cell_id
        estimates[first] = dataclasses.replace(
            estimates[first], setup_s=_setup(group, known), probes_s=_probes(group, known)
        )
    return dataclasses.replace(plan, estimates=estimates)


def _missing(plan: Plan, cells: Sequence[Cell], known: Known) -> Wanted:
    """What has to be measured before the times of `cells` can be told.

    Rates of cells that earlier runs tell are not, but for the probes that go before them, and for what every process
    needs to begin. What a busy machine gave is measured again, but not for the beginnings alone.
    """
    fresh = known.keys() if busy() else {key for key, found in known.items() if not found.get("busy")}
    parts = groups(cells)
    paced = [cell for cell in cells if not plan.estimates[cell.cell_id].exact]
    paced += [group[0] for group in parts if _looked(group, _reading(group[0], known)) is not None]
    rates = {key: what for key, what in _wanted(paced).items() if key not in fresh}
    begins = _wanted([group[0] for group in parts], only=BEGINNINGS)
    return {**{key: what for key, what in begins.items() if key not in known}, **rates}


def _served(group: tuple[Cell, ...]) -> list[Cell]:
    """Cells of a process that read nothing themselves: an earlier one read the same text in longer stretches."""
    seen, served = set(), []
    for cell in group:
        task = TASKS.load(cell.task)
        if task().shares(task.Params(**cell.params)):
            key = canonical_json([cell.task, dict(cell.params), cell.corpus_digest, cell.seed])
            served += [cell] if key in seen else []
            seen.add(key)
    return served


def _without_calls(estimate: CellEstimate) -> CellEstimate:
    return dataclasses.replace(estimate, work=dataclasses.replace(estimate.work, calls=()), similar=())


def _timed(cell: Cell, estimate: CellEstimate, known: Known) -> CellEstimate:
    rates = _rates(cell, known)
    if estimate.exact or rates is None:
        return estimate
    compress_s = known.get(_compress_key(), {}).get("seconds", 0.0)

    def told(work: Work) -> float:
        return rates.seconds(work, compress_s=compress_s)

    off = [spent / expected for work, spent in estimate.similar if (expected := told(work)) > 0]
    factor = min(max(statistics.median(off), 1 / _SPREAD), _SPREAD) if off else 1.0
    return dataclasses.replace(estimate, seconds=factor * told(estimate.work))


def _setup(group: tuple[Cell, ...], known: Known) -> float | None:
    """Seconds before the first cell of a process: its start, its imports, its checkpoint, corpora and probes."""
    first = group[0]
    start = known.get(_start_key(first))
    if start is None:
        return None
    modules = {name for cell in group for name in TASKS.load(cell.task).imports}
    corpora = {cell.corpus_digest for cell in group if cell.corpus_digest is not None}
    keys = [_load_key(first), *map(_module_key, modules), *(_corpus_key(corpus) for corpus in corpora)]
    opened = sum(known[key]["seconds"] for key in keys if key in known)
    return start["seconds"] + opened + _probes(group, known)


def _probes(group: tuple[Cell, ...], known: Known) -> float:
    """Seconds of the probes that go before the first score of a process; none where their findings are kept."""
    rates, reading = _rates(group[0], known), _reading(group[0], known)
    num_tokens = _looked(group, reading)
    if num_tokens is None or rates is None or reading is None:
        return 0.0
    return rates.seconds(probes(num_tokens, reading), compress_s=0.0)


def _looked(group: tuple[Cell, ...], reading: Reading | None) -> int | None:
    return looked(group, max_context=None if reading is None else reading.max_context)


def _reading(cell: Cell, known: Known) -> Reading | None:
    found = known.get(_pace_key(cell, 1))
    return None if found is None else Reading(**found["reading"])


def _rates(cell: Cell, known: Known) -> Rates | None:
    cost = cell.checkpoint.cost
    paces = {
        size: _pace(known[key], batch_size=size, cost=cost)
        for size in _batch_sizes(cell)
        if (key := _pace_key(cell, size)) in known
    }
    return Rates(paces=paces, window=None if cost is None else cost.window) if paces else None


def _pace(found: Mapping[str, Any], *, batch_size: int, cost: Cost | None) -> Pace:
    return fit_pace(
        {int(size): seconds for size, seconds in found["times"].items()},
        batch_size=batch_size,
        step_s=found["step_s"],
        score_s=found["score_s"],
        window=None if cost is None else cost.window,
        attention=None if cost is None else cost.flops_per_context_token / cost.flops_per_token,
    )


def _batch_sizes(cell: Cell) -> tuple[int, ...]:
    """One sequence, and as many as the cell is asked to read at once."""
    return tuple(sorted({1, cell.batch_size}))


# What is known


def _key(kind: str, *parts: Any) -> str:
    facts = [
        VERSION,
        kind,
        measure.machine_fingerprint(),
        sys.version_info[:2],
        importlib.metadata.version("torch"),
        *parts,
    ]
    return digest(canonical_json(facts))


def _start_key(cell: Cell) -> str:
    return _key("start", cell.threads)


def _module_key(name: str) -> str:
    return _key("module", name)


def _corpus_key(corpus_digest: str) -> str:
    return _key("corpus", corpus_digest)


def _compress_key() -> str:
    return _key("compress")


def _sizes(cell: Cell) -> list[Any]:
    """What decides how long a checkpoint takes to read, whatever the code."""
    checkpoint = cell.checkpoint
    sizes = [checkpoint.architecture, checkpoint.config_digest, checkpoint.num_params, checkpoint.weight_bytes]
    return [*sizes, cell.dtype, cell.placement, cell.engine, cell.attention]


def _load_key(cell: Cell) -> str:
    return _key("load", *_sizes(cell), cell.threads)


def _pace_key(cell: Cell, batch_size: int) -> str:
    code = code_digest(architecture=cell.checkpoint.architecture, task=None, engine=cell.engine)
    return _key("pace", code, *_sizes(cell), cell.threads, batch_size)


def _folder() -> Path:
    return cache_folder() / "rates"


def busy() -> bool:
    """Whether other programs keep the processor from a run that begins now."""
    load = measure.load_average()
    return load is not None and load > BUSY * measure.num_cores()


def _load(cells: Iterable[Cell]) -> Known:
    known: Known = {}
    for key in _wanted(cells):
        # A file that is not there, cut or of another layout is measured again.
        with contextlib.suppress(OSError, ValueError, CacheError):
            found = json.loads((_folder() / f"{key}.json").read_text())
            if isinstance(found, dict):
                known[key] = found
    return known


def _wanted(cells: Iterable[Cell], *, only: Collection[str] = KINDS) -> Wanted:
    """What has to be measured for these cells by its key, of some kinds only."""
    found: Wanted = {}
    for cell in cells:
        found[_start_key(cell)] = ("start", cell.threads)
        found[_load_key(cell)] = ("load", cell)
        found |= {_pace_key(cell, size): ("pace", (cell, size)) for size in _batch_sizes(cell)}
        found |= {_module_key(name): ("module", name) for name in TASKS.load(cell.task).imports}
        if cell.corpus is not None and cell.corpus_digest is not None:
            found[_corpus_key(cell.corpus_digest)] = ("corpus", cell.corpus)
            found[_compress_key()] = ("compress", None)
    return {key: what for key, what in found.items() if what[0] in only}


# Measuring


def _measure(missing: Wanted) -> Known:
    """Measure in one process per number of threads; what cannot be measured is left out.

    TTBENCH_MEASURE_RATES=0 in the environment measures nothing: times are told where they are known already.
    """
    found: Known = {}
    if os.environ.get("TTBENCH_MEASURE_RATES") == "0":
        return found
    others = {kind: {what: key for key, (of, what) in missing.items() if of == kind} for kind in _NAMED}
    jobs = _jobs(missing)
    for number in sorted({*jobs, *others["start"]} or {1}):
        spec = {
            "threads": number,
            "modules": [name for name, key in others["module"].items() if key not in found],
            "corpora": [name for name, key in others["corpus"].items() if key not in found],
            "compress": any(key not in found for key in others["compress"].values()),
            "jobs": jobs.get(number, []),
        }
        for entry in _entries(spec, number):
            kind, values = entry["kind"], {name: value for name, value in entry.items() if name != "kind"}
            if kind in ("pace", "load"):
                found[values.pop("key")] = values
            elif key := others[kind].get({"start": number, "compress": None}.get(kind, values.pop("name", None))):
                found[key] = values
    _keep({key: {**values, "busy": busy()} for key, values in found.items()})
    return found


def _jobs(missing: Wanted) -> dict[int, list[dict[str, Any]]]:
    """Checkpoints to load once each, and the batch sizes that each reads at, by number of threads."""
    loads: dict[str, dict[str, Any]] = {}
    for key, (kind, what) in missing.items():
        if kind in ("pace", "load"):
            cell, size = what if kind == "pace" else (what, None)
            job = loads.setdefault(_load_key(cell), {"cell": cell, "batch_sizes": {}})
            job["batch_sizes"] |= {} if size is None else {key: size}
    num_paces = sum(len(job["batch_sizes"]) for job in loads.values())
    budget_s = min(MOST_JOB_S, BUDGET_S / max(1, num_paces))
    found: dict[int, list[dict[str, Any]]] = {}
    for key, job in loads.items():
        told = {**job, "key": key, "cell": job["cell"].to_json(), "budget_s": budget_s}
        found.setdefault(job["cell"].threads, []).append(told)
    return found


_NAMED = ("start", "module", "corpus", "compress")


def _entries(spec: Mapping[str, Any], threads: int) -> list[dict[str, Any]]:
    """What the measuring process told before it ended; its start is the first entry."""
    variables = {**os.environ, **measure.worker_variables(threads), "PYTHONPATH": import_path()}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "ttbench.runs.times.calibrate"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=variables,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    entries: list[dict[str, Any]] = []
    try:
        process.stdin.write(json.dumps(spec).encode())
        process.stdin.close()
        for line in process.stdout:
            entry = json.loads(line)
            if entry["kind"] == "ready":
                entry = {"kind": "start", "seconds": time.perf_counter() - began}
            entries.append(entry)
            if time.perf_counter() - began > TIMEOUT_S:
                break
    except BrokenPipeError:
        # It died before it read what to do; then nothing is known.
        return entries
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return entries


def _keep(found: Known) -> None:
    # Without a cache folder rates are measured again each time.
    with contextlib.suppress(OSError, StoreError, CacheError):
        _folder().mkdir(parents=True, exist_ok=True)
        for key, values in found.items():
            write_whole(_folder() / f"{key}.json", json.dumps(values).encode())
