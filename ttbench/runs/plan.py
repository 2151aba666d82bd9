"""Plans: which cells a request stands for, what they cost, what is skipped. Pure and torch-free.

Quality cells are ordered checkpoint by checkpoint, so that one process serves a checkpoint. The rounds of timing cells
are interleaved A/B/A/B across checkpoints, so that a slow spell of the machine falls on all of them. Times are those of
earlier cells of the same machine; where there are none, `ttbench.runs.times.calibration` measures this machine's rates.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttbench.code import code_digest
from ttbench.errors import UnknownNameError, UsageError
from ttbench.machine.work import total
from ttbench.registry import ENGINES, TASKS
from ttbench.runs.estimate import CellEstimate, Estimator, Timings
from ttbench.tasks.base import Task
from ttbench.types import ATTENTION, INT64, NO_ATTENTION, RANDOM, Cell, Checkpoint, Scalar, Status

DTYPES = ("float64", "float32", "bfloat16", "float16")
Twins = dict[tuple[str, str, str], Cell]  # by cell id, name and path


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A cell that will not run; its row says why."""

    cell: Cell
    status: Status
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cells in the order they run, with estimates by cell id."""

    cells: tuple[Cell, ...]
    skips: tuple[Skip, ...]
    estimates: Mapping[str, CellEstimate]
    notes: tuple[str, ...] = ()  # what the corpora leave out or change
    twins: tuple[Cell, ...] = ()  # cells asked for under a second name: measured once, with rows under both

    @property
    def every_cell(self) -> tuple[Cell, ...]:
        """The cells that have rows, in their order: those that run, under each of their names, then those skipped."""
        return (*self.cells, *self.twins, *(skip.cell for skip in self.skips))

    @property
    def flops(self) -> float:
        """FLOP of all cells that have a formula."""
        return sum(estimate.flops or 0.0 for estimate in self.estimates.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of state of the largest cell."""
        return max((estimate.state_bytes or 0 for estimate in self.estimates.values()), default=0)

    @property
    def seconds(self) -> float | None:
        """Wall seconds of all cells; None while any of them is unknown."""
        return self.seconds_of(self.cells)

    def seconds_of(self, cells: Iterable[Cell]) -> float | None:
        """Wall seconds of some cells, with what each of their processes needs to begin; None while any is unknown."""
        cells = tuple(cells)
        begins = [self.estimates[group[0].cell_id].setup_s or 0.0 for group in groups(cells)]
        return total([*(self.estimates[cell.cell_id].seconds for cell in cells), *begins])


def plan(
    task_name: str,
    *,
    checkpoints: Sequence[Checkpoint],
    context_lens: Sequence[int],
    params: Mapping[str, Any],
    corpus: str | None,
    corpus_digest: str | None,
    seed: int,
    dtype: str,
    device: str,
    attention: str | None,
    batch_size: int | None,
    threads: int,
    machine: str,
    software: str | None = None,
    engine: str = "eager",
    timeout_s: float | None = None,
    timings: Timings = (),
    unchecked: bool = False,
    missing_data: str | None = None,
    imports: tuple[str, ...] = (),
    device_map: str | None = None,
    texts: Mapping[str, tuple[int, ...]] | None = None,
) -> Plan:
    """Lay out the cells of one task.

    Args:
        params: the task's own parameters by name; missing ones take their defaults.
        attention: implementation of attention; None takes each checkpoint's default. Cells of a checkpoint without
            attention say "none" whatever was asked for.
        batch_size: sequences; None takes the task's default.
        machine: fingerprint of this machine; it enters the identity of timing cells only.
        software: torch and what chooses its kernels, see `ttbench.machine.software`; of timing cells only, too.
        timings: earlier cells of this machine, for the estimate of time.
        unchecked: measure without asking first whether the model looks ahead; rows are marked.
        missing_data: why the corpus cannot be read, where a command fetches it: all cells are skipped for this reason.
        imports: packages to import in every process, see `ttbench.packages`.
        device_map: where modules of the models stand, see `ttbench.engines.kinds.read_device_map`.
        texts: bytes of the corpus's documents by split, for the estimates.

    Raises UnknownNameError or UsageError when the request has no meaning.
    """
    task: Task = TASKS.load(task_name)()
    settled = task.settle(task.Params(**read_params(task, params)), tuple(context_lens))
    values: dict[str, Scalar] = dataclasses.asdict(settled)
    _check_request(checkpoints=checkpoints, threads=threads, batch_size=batch_size, timeout_s=timeout_s)
    _check_names(dtype=dtype, engine=engine, attention=attention)
    _refuse_random(task, checkpoints)
    asked = {"seed": seed, "batch size": batch_size, "threads": threads}
    _require_storable({**asked, **{f"parameter '{name}'": value for name, value in values.items()}})
    for context_len in context_lens:
        _require_storable({"context": context_len})
    for each in checkpoints:
        of = f"of checkpoint '{each.name}'"
        _require_storable({f"{name} {of}": getattr(each, name) for name in ("train_ctx", "num_params", "vocab_size")})
    isolated = task.isolation == "cell"
    code = {
        name: code_digest(architecture=name, task=task_name, engine=engine)
        for name in dict.fromkeys(checkpoint.architecture for checkpoint in checkpoints)
    }
    cells: dict[str, Cell] = {}
    twins: Twins = {}
    skips: list[Skip] = []
    for checkpoint, context_len, round_ in _points(task, settled, checkpoints, context_lens):
        cell = Cell(
            task=task_name,
            task_version=task.version,
            checkpoint=checkpoint,
            context_len=context_len,
            params=values,
            corpus=corpus if task.needs_corpus else None,
            corpus_digest=corpus_digest if task.needs_corpus else None,
            seed=seed,
            dtype=dtype,
            device=device,
            engine=engine,
            attention=_attention(checkpoint, attention),
            batch_size=task.default_batch_size if batch_size is None else batch_size,
            threads=threads,
            code_digest=code[checkpoint.architecture],
            round=round_,
            machine=machine if isolated else None,
            software=software if isolated else None,
            timeout_s=timeout_s,
            reach=task.reach(settled, context_len),
            unchecked=unchecked,
            imports=imports,
            device_map=device_map,
        )
        skip = _skip(task, cell, missing_data=missing_data)
        if skip is not None:
            skips.append(skip)
        else:
            _add(cell, cells, twins)
    estimate = Estimator(timings, texts or {})
    estimates = {cell_id: estimate(task, cell) for cell_id, cell in cells.items()}
    return Plan(cells=tuple(cells.values()), skips=tuple(skips), estimates=estimates, twins=tuple(twins.values()))


def _require_storable(told: Mapping[str, Any]) -> None:
    """Refuse, before anything is measured, what could not be written as rows. Raises UsageError."""
    for what, value in told.items():
        if isinstance(value, int) and value not in INT64:
            raise UsageError(f"{what} is {value}; rows hold whole numbers from -2^63 to 2^63 - 1: give a smaller one")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{what} is {value}; rows hold finite numbers: give one, or leave it out")


def _add(cell: Cell, cells: dict[str, Cell], twins: Twins) -> None:
    """Put a cell where it belongs: with the first of its identity, or with those asked for under another name."""
    first, mine = cells.setdefault(cell.cell_id, cell).checkpoint, cell.checkpoint
    if (first.name, first.path) != (mine.name, mine.path):
        twins[cell.cell_id, mine.name, mine.path] = cell


def join(plans: Iterable[Plan]) -> Plan:
    """One plan after the other; a cell that two of them have runs once."""
    plans = tuple(plans)
    cells: dict[str, Cell] = {}
    twins: Twins = {}
    for cell in (cell for part in plans for cell in (*part.cells, *part.twins)):
        _add(cell, cells, twins)
    return Plan(
        cells=tuple(cells.values()),
        twins=tuple(twins.values()),
        skips=tuple(skip for part in plans for skip in part.skips),
        estimates={cell_id: estimate for part in plans for cell_id, estimate in part.estimates.items()},
        notes=tuple(dict.fromkeys(note for part in plans for note in part.notes)),
    )


def groups(cells: Iterable[Cell]) -> list[tuple[Cell, ...]]:
    """Cells that share a process, in order of first appearance."""
    found: dict[object, list[Cell]] = {}
    for cell in cells:
        isolated = TASKS.load(cell.task).isolation == "cell"
        engine = (cell.checkpoint, cell.device, cell.dtype, cell.attention, cell.engine, cell.threads, cell.unchecked)
        engine += (cell.device_map, *cell.imports)
        found.setdefault(cell.cell_id if isolated else engine, []).append(cell)
    return [tuple(group) for group in found.values()]


def _check_request(
    *, checkpoints: Sequence[Checkpoint], threads: int, batch_size: int | None, timeout_s: float | None
) -> None:
    if not checkpoints:
        raise UsageError("no checkpoint to measure; name one with --checkpoint: ttbench list checkpoints shows the zoo")
    for name, value in (("threads", threads), ("batch size", batch_size)):
        if value is not None and value <= 0:
            raise UsageError(f"{name} must be more than 0; got {value}")
    if timeout_s is not None and not 0 < timeout_s < float("inf"):
        raise UsageError(
            f"timeout must be a finite number of seconds more than 0; got {timeout_s:g}; leave it out for none"
        )


def _refuse_random(task: Task, checkpoints: Sequence[Checkpoint]) -> None:
    """Random weights can be timed and weighed. What they answer means nothing. Raises UsageError."""
    if task.any_weights:
        return
    for checkpoint in checkpoints:
        if checkpoint.provenance == RANDOM:
            fit = [name for name, each in TASKS.usable() if each.any_weights]
            raise UsageError(
                f"'{checkpoint.name}' has random weights, and {task.name} of these would mean nothing; they are for "
                f"{' and '.join(fit)}"
            )


def _check_names(*, dtype: str, engine: str, attention: str | None) -> None:
    for noun, name, known in (
        ("dtype", dtype, DTYPES),
        ("engine", engine, ENGINES),
        ("attention", attention, ATTENTION),
    ):
        if name is not None and name not in known:
            raise UnknownNameError(noun, name, known=known)


def _attention(checkpoint: Checkpoint, asked: str | None) -> str:
    if not checkpoint.attention:
        return NO_ATTENTION
    return checkpoint.attention[0] if asked is None else asked


def _points(
    task: Task, params: Any, checkpoints: Sequence[Checkpoint], context_lens: Sequence[int]
) -> Iterator[tuple[Checkpoint, int, int]]:
    if task.isolation == "checkpoint":
        ordered = task.order(params, tuple(context_lens))
        yield from ((checkpoint, length, 0) for checkpoint in checkpoints for length in ordered)
        return
    for length in context_lens:
        for round_ in range(task.num_rounds(params)):
            for checkpoint in checkpoints:
                yield checkpoint, length, round_


def _skip(task: Task, cell: Cell, *, missing_data: str | None) -> Skip | None:
    if missing_data is not None:
        return Skip(cell=cell, status="unsupported", reason=missing_data)
    if task.needs_corpus and cell.checkpoint.tokenizer_digest is None:
        reason = f"checkpoint '{cell.checkpoint.name}' has no tokenizer, and {cell.task} reads text"
        return Skip(cell=cell, status="unsupported", reason=reason)
    if cell.attention not in (*cell.checkpoint.attention, NO_ATTENTION):
        known = ", ".join(cell.checkpoint.attention)
        reason = (
            f"'{cell.checkpoint.name}' cannot attend with {cell.attention} under engine {cell.engine}; it has {known}"
        )
        return Skip(cell=cell, status="unsupported", reason=reason)
    return None


def read_params(
    task: Task | type[Task], given: Mapping[str, Any], *, where: Mapping[str, str] | None = None
) -> dict[str, Scalar]:
    """All parameters of a task: those given, checked against the fields of `Params`, and the defaults of the rest.

    Args:
        where: file and line of each name given, for the message.

    Raises UnknownNameError for a name the task does not have, UsageError for a value of another type.
    """
    hints = typing.get_type_hints(task.Params, include_extras=True)
    known = [item.name for item in dataclasses.fields(task.Params)]
    values = {}
    for name, value in given.items():
        place = (where or {}).get(name, "")
        if name not in known:
            raise UnknownNameError(f"parameter of {task.name}", name, known=known, where=place)
        fitted = _fit(value, hints[name])
        if fitted is _MISFIT:
            at = f" in {place}" if place else ""
            raise UsageError(f"parameter '{name}' of {task.name}{at} must be {_words(hints[name])}; got {value!r}")
        values[name] = fitted
    params = task.Params(**values)
    (task() if isinstance(task, type) else task).check(params)
    return dataclasses.asdict(params)


_MISFIT = object()


def _fit(value: Any, hint: Any) -> Any:
    """`value` as the hint's type when it is one of its values (an int is a float, a bool is no int), else _MISFIT.

    An annotation is a mapping from words to the values that they stand for.
    """
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, spelled = typing.get_args(hint)
        return spelled[value] if isinstance(value, str) and value in spelled else _fit(value, inner)
    if origin is typing.Literal:
        return value if any(value == each and type(value) is type(each) for each in typing.get_args(hint)) else _MISFIT
    if origin in (typing.Union, types.UnionType):
        fits = (_fit(value, each) for each in typing.get_args(hint))
        return next((fitted for fitted in fits if fitted is not _MISFIT), _MISFIT)
    if hint is float and type(value) in (int, float):
        return float(value)
    return value if type(value) is hint else _MISFIT


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, spelled = typing.get_args(hint)
        kinds = [each for each in typing.get_args(inner) if each is not type(None)]
        return " or ".join([*map(_words, kinds), *spelled])
    if origin is typing.Literal:
        return "one of " + ", ".join(str(each) for each in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(each) for each in typing.get_args(hint))
    return names.get(hint, str(hint))
