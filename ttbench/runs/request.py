"""Requests: what a user asks for, with names resolved and defaults filled in, as a plan. The only place of defaults."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttbench.checkpoints.naming import tell_apart
from ttbench.corpora.corpus import Corpus, open_corpus
from ttbench.errors import MissingDataError, UsageError
from ttbench.machine import measure
from ttbench.machine.software import software
from ttbench.registry import TASKS
from ttbench.runs.plan import Plan, join, plan, read_params
from ttbench.runs.suite import SuiteTask, find_suite, load_suite, parse_ctx
from ttbench.store.store import timings
from ttbench.tasks.base import Task
from ttbench.types import Cell, Checkpoint, Scalar

DEFAULT_OUT = "runs"
# Options that are parameters of the tasks that have them.
NAMED = ("protocol", "limit", "depth_mode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may ask of a run; None leaves it to the suite, then to the defaults in `plan_task`."""

    checkpoints: tuple[str | Checkpoint, ...] | None = None  # None: the whole zoo
    ctx: str | int | tuple[int, ...] | None = None  # tokens; None: the task's default
    corpus: str | None = None
    protocol: str | None = None  # the task's parameter of that name
    limit: int | str | None = None  # documents or trials, or "all": the task's parameter of that name
    depth_mode: str | None = None  # grid or ruler: the needle's parameter of that name
    params: Mapping[str, Scalar] = field(default_factory=dict)
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None  # sequences
    threads: int | None = None  # None: `measure.default_threads`
    seed: int | None = None
    timeout: float | None = None  # seconds per cell; None: no limit
    engine: str | None = None
    attention: str | None = None  # None: each checkpoint's default
    unchecked: bool | None = None  # True: measure what probes refuse, or have not seen, and mark the rows

    def to_json(self) -> dict[str, Any]:
        """Those given, as plain data."""
        return {name: _plain(value) for name, value in self._given()}

    def spelling(self) -> str:
        """Those given, as keyword arguments in Python, each followed by a comma and a space."""
        return "".join(f"{name}={_plain(value)!r}, " for name, value in self._given())

    def _given(self) -> Iterator[tuple[str, Any]]:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is not None and value != {}:
                yield item.name, value


def _plain(value: Any) -> Any:
    if isinstance(value, Checkpoint):
        return value.path
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value


def plan_task(task: str, options: Options, *, out: str | Path = DEFAULT_OUT) -> Plan:
    """Resolve checkpoints and corpus, and lay out the cells of one task; earlier runs in `out` give the times.

    Raises a UsageError when something named does not exist or does not fit.
    """
    return _named(_plan_task(task, options, out=out))


def _plan_task(task: str, options: Options, *, out: str | Path) -> Plan:
    """`plan_task` with checkpoints under their own names, which may be equal."""
    needs: Task = TASKS.load(task)()
    corpus = options.corpus
    if corpus is not None and not needs.needs_corpus:
        raise UsageError(f"task '{task}' reads no corpus; leave --corpus out")
    corpus = corpus or (needs.default_corpus if needs.needs_corpus else None)
    params = _params(needs, options)
    # Before anything is opened: a misspelt parameter must not cost seconds.
    read_params(needs, params)
    dtype, engine = options.dtype or "float32", options.engine or "eager"
    machine = measure.machine_fingerprint()
    threads = options.threads or measure.default_threads()
    opened, missing_data = _open(corpus)
    if opened is not None:
        needs.check_corpus(opened)
    laid_out = plan(
        task,
        checkpoints=_resolve(
            needs.default_checkpoints if options.checkpoints is None else options.checkpoints,
            dtype=dtype,
            engine=engine,
        ),
        context_lens=parse_ctx(needs.default_ctx if options.ctx is None else options.ctx),
        params=params,
        corpus=corpus,
        corpus_digest=None if opened is None else opened.digest,
        seed=options.seed or 0,
        dtype=dtype,
        device=options.device or "cpu",
        engine=engine,
        attention=options.attention,
        batch_size=options.batch_size,
        threads=threads,
        machine=machine,
        software=software(os.environ, ours=measure.worker_variables(threads)),
        timeout_s=options.timeout,
        timings=timings(out, machine=machine, tasks=[task]),
        unchecked=bool(options.unchecked),
        missing_data=missing_data,
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
    cells = (*plan.cells, *plan.twins, *(skip.cell for skip in plan.skips))
    name_of = tell_apart(cell.checkpoint for cell in cells)

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
    tasks = load_suite(find_suite(str(suite))).tasks
    return _named(join(_plan_task(entry.task, _merged(entry, options), out=out) for entry in tasks))


def _merged(entry: SuiteTask, options: Options) -> Options:
    """The suite's entry under the options: what the user gave wins, and concerns only tasks that know it."""
    task = TASKS.load(entry.task)
    known = {item.name for item in dataclasses.fields(task.Params)}
    values = {}
    for item in dataclasses.fields(Options):
        given = getattr(options, item.name)
        values[item.name] = getattr(entry, item.name, None) if given is None else given
    values["params"] = {**entry.params, **{name: value for name, value in options.params.items() if name in known}}
    values["corpus"] = values["corpus"] if task.needs_corpus else None
    values |= {name: None for name in NAMED if name not in known}
    return Options(**values)


def _params(task: Task, options: Options) -> dict[str, Scalar]:
    """Parameters of the task, `--protocol`, `--limit` and `--depth-mode` among them where it has them."""
    known = [item.name for item in dataclasses.fields(task.Params)]
    params = dict(options.params)
    for name in NAMED:
        value = getattr(options, name)
        if value is not None:
            if name not in known:
                raise UsageError(f"task '{task.name}' has no {name}; its parameters are: {', '.join(known)}")
            params[name] = value
    return params


def _resolve(names: Sequence[str | Checkpoint] | None, *, dtype: str, engine: str) -> tuple[Checkpoint, ...]:
    known = [name for name in names or () if isinstance(name, Checkpoint)]
    if names is not None and len(known) == len(names):
        return tuple(known)
    # Late: identifying a checkpoint takes its architecture, and so torch.
    from ttbench.checkpoints.checkpoint import resolve, zoo_names

    names = zoo_names() if names is None else names
    return tuple(name if isinstance(name, Checkpoint) else resolve(name, dtype=dtype, engine=engine) for name in names)
