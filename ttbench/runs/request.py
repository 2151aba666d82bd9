"""Requests: options with names resolved and defaults filled in, as a plan. The only place of defaults."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from ttbench.checkpoints.naming import tell_apart
from ttbench.corpora.corpus import Corpus, open_corpus
from ttbench.engines.kinds import read_device_map, require_device
from ttbench.errors import MissingDataError, UsageError
from ttbench.machine import measure
from ttbench.machine.allocation import shortage
from ttbench.machine.software import software
from ttbench.packages import import_packages
from ttbench.registry import ENGINES, TASKS
from ttbench.runs.executors.base import LOCAL, Placement
from ttbench.runs.executors.cluster_file import read_cluster_file
from ttbench.runs.options import NAMED, Options, given, several, sweep
from ttbench.runs.plan import Plan, join, plan, read_params
from ttbench.runs.suite import SuiteTask, find_suite, load_suite, parse_ctx
from ttbench.store.earlier import timings
from ttbench.tasks.base import Task
from ttbench.types import Cell, Checkpoint, Scalar

DEFAULT_OUT = "runs"
Kind = Literal["task", "suite"]


def plan_task(task: str, options: Options, *, out: str | Path = DEFAULT_OUT) -> Plan:
    """Resolve checkpoints and corpus, and lay out the cells of one task; earlier runs in `out` give the times.

    An option with several values, such as seeds, has the cells of each. Raises a UsageError when something named does
    not exist or does not fit.
    """
    return _named(_plan_task(task, options, out=out))


def _plan_task(task: str, options: Options, *, out: str | Path) -> Plan:
    """`plan_task` with checkpoints under their own names, which may be equal."""
    asked = given(options)
    if "batch_size" not in asked:
        sizes = TASKS.load(task)().default_batch_sizes(asked.get("device", "cpu"))
        asked = cast(Options, {**asked, "batch_size": sizes})
    plans = [_plan_point(task, point, out=out) for point in sweep(asked)]
    return plans[0] if len(plans) == 1 else join(plans)


def _plan_point(task: str, options: Options, *, out: str | Path) -> Plan:
    """The plan of one value of each option."""
    imports = several(options.get("imports") or ())
    import_packages(imports)
    needs: Task = TASKS.load(task)()
    corpus = options.get("corpus")
    if corpus is not None and not needs.needs_corpus:
        raise UsageError(f"task '{task}' reads no corpus; leave --corpus out")
    params = _params(needs, options)
    # Before anything is opened: a misspelt parameter must not cost seconds.
    read_params(needs, params)
    # One value of each, also of those that are swept.
    point = cast(Mapping[str, Any], options)
    device = options.get("device") or "cpu"
    dtype, engine = point.get("dtype", "float32"), point.get("engine", "eager")
    require_device(engine, device)
    if ENGINES.entry_point(engine) is None and not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
        raise UsageError(f"unknown device '{device}'; available: cpu, cuda, cuda:<index>")
    device_map = read_device_map(options.get("device_map"), engine=engine, device=device)
    # Cells that run elsewhere belong to the machines there, as the cluster file tells of them.
    local = Placement.of(options).executor == LOCAL
    elsewhere = read_cluster_file(None if local else options.get("cluster"))
    machine = elsewhere.machine or measure.machine_fingerprint()
    threads = options.get("threads") or elsewhere.cpus or measure.default_threads()
    short = shortage(threads) if local else None
    opened, missing_data = _open(corpus)  # before checkpoints, as it takes less time to be wrong
    names = several(options["checkpoints"]) if "checkpoints" in options else needs.default_checkpoints
    checkpoints = _resolve(names, dtype=dtype, engine=engine)
    if corpus is None and needs.needs_corpus:
        corpus = needs.corpus_for(checkpoints)
        opened, missing_data = _open(corpus)
    if opened is not None:
        needs.check_corpus(opened)
    laid_out = plan(
        task,
        checkpoints=checkpoints,
        context_lens=parse_ctx(point.get("ctx", needs.default_ctx)),
        params=params,
        corpus=corpus,
        corpus_digest=None if opened is None else opened.digest,
        seed=point.get("seed", 0),
        dtype=dtype,
        device=device,
        engine=engine,
        attention=point.get("attention"),
        batch_size=point.get("batch_size"),
        threads=threads,
        machine=machine,
        software=software(os.environ, ours=measure.worker_variables(threads), shortage=short),
        timeout_s=options.get("timeout"),
        timings=timings(out, machine=machine, tasks=[task]),
        unchecked=bool(options.get("unchecked")),
        missing_data=missing_data,
        imports=imports,
        device_map=device_map,
        texts=None if opened is None else _sizes(opened),
    )
    notes = () if opened is None else tuple(f"corpus {corpus}: {note}" for note in opened.notes)
    return dataclasses.replace(laid_out, notes=notes)


def _open(corpus: str | None) -> tuple[Corpus | None, str | None]:
    """The corpus, or what to do where its data have not been fetched yet."""
    try:
        return None if corpus is None else open_corpus(corpus), None
    except MissingDataError as error:
        return None, str(error)


def _sizes(corpus: Corpus) -> dict[str, tuple[int, ...]]:
    return {split: tuple(len(document.text) for document in found) for split, found in corpus.splits.items()}


def _named(plan: Plan) -> Plan:
    """The plan with names that tell its checkpoints apart. Raises UsageError when nothing does."""
    name_of = tell_apart(cell.checkpoint for cell in plan.every_cell)

    def named(cell: Cell) -> Cell:
        return cell.named_as(name=name_of(cell.checkpoint))

    return dataclasses.replace(
        plan,
        cells=tuple(map(named, plan.cells)),
        twins=tuple(map(named, plan.twins)),
        skips=tuple(dataclasses.replace(skip, cell=named(skip.cell)) for skip in plan.skips),
    )


def plan_suite(suite: str | Path, options: Options, *, out: str | Path = DEFAULT_OUT) -> Plan:
    """Lay out the cells of all tasks of a suite, named or given as a path. An option given goes before the suite's."""
    found = load_suite(find_suite(str(suite)))
    options = cast(Options, {**found.placed, **given(options)})
    return _named(join(_plan_task(entry.task, _merged(entry, options), out=out) for entry in found.tasks))


def placement(kind: Kind, name: str, options: Options) -> Placement:
    """Where the cells of a task, or of a suite, run: as the options say, else the suite."""
    of_suite = load_suite(find_suite(name)).placed if kind == "suite" else {}
    return Placement.of(cast(Options, {**of_suite, **given(options)}))


def _merged(entry: SuiteTask, options: Options) -> Options:
    """The suite's entry under the options: what the user gave wins, and concerns only tasks that know it."""
    task = TASKS.load(entry.task)
    known = {item.name for item in dataclasses.fields(task.Params)}
    asked = {name: value for name, value in given(options).items() if name not in NAMED or name in known}
    params = {name: value for name, value in (options.get("params") or {}).items() if name in known}
    if not task.needs_corpus:
        asked.pop("corpus", None)
    of_suite = {name: value for name, value in entry.options.items() if name not in NAMED or name not in params}
    merged = {**of_suite, **asked, "params": {**(entry.options.get("params") or {}), **params}}
    return cast(Options, merged)


def _params(task: Task, options: Options) -> dict[str, Scalar]:
    """Parameters of the task, `--protocol`, `--limit` and `--depth-mode` among them where it has them."""
    known = [item.name for item in dataclasses.fields(task.Params)]
    params = dict(options.get("params") or {})
    for name, value in options.items():
        if name in NAMED:
            if name not in known:
                raise UsageError(f"task '{task.name}' has no {name}; its parameters are: {', '.join(known)}")
            params[name] = cast(Scalar, value)
    return params


def _resolve(names: Sequence[str | Checkpoint] | None, *, dtype: str, engine: str) -> tuple[Checkpoint, ...]:
    known = [name for name in names or () if isinstance(name, Checkpoint)]
    if names is not None and len(known) == len(names):
        return tuple(known)
    # Late: identifying a checkpoint takes its architecture, and so torch.
    from ttbench.checkpoints.checkpoint import default_names, resolve, spelled_out

    found = default_names() if names is None else spelled_out(names)
    return tuple(name if isinstance(name, Checkpoint) else resolve(name, dtype=dtype, engine=engine) for name in found)
