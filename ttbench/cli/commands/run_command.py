"""`ttbench run` and `ttbench plan`: a request in words, its plan, its cost, its progress, what it left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.checkpoints.special_tokens import folder_remark
from ttbench.cli import console
from ttbench.cli.as_json import plan_json, result_json
from ttbench.cli.commands.cluster_commands import say_submitted
from ttbench.cli.console import Column
from ttbench.cli.gather import say_twice
from ttbench.cli.price import price
from ttbench.machine import measure
from ttbench.names import quote
from ttbench.report.headline import headline
from ttbench.report.published import write_derived
from ttbench.report.table import render, summarise
from ttbench.runs.executors.needs import quality_groups, side_by_side_bytes
from ttbench.runs.options import Options, as_flags, to_json
from ttbench.runs.plan import Plan
from ttbench.runs.suite import format_len
from ttbench.runs.sweep import RunInterrupted, RunResult, folder_name, placement_of, plan_target, run_cells
from ttbench.runs.times.calibration import busy, with_times
from ttbench.store.cells import Place
from ttbench.store.earlier import origins
from ttbench.store.store import Store, find_done
from ttbench.types import ANSWERS, FAILURES, Cell
from ttbench.version import __version__

if TYPE_CHECKING:
    pass

INTERRUPTED = 130
TERMINATED = 128 + signal.SIGTERM
LONG_S = 15 * 60.0  # seconds of a run that one is warned of
SHORT_S = 5 * 60.0  # seconds that the advice aims at
FEW = 4  # documents or trials, where all were asked for
# The options in force, as the command line spells them.
OPTIONS: Mapping[str, Callable[[Cell], Any]] = {
    "device": lambda cell: cell.device,
    "dtype": lambda cell: cell.dtype,
    "engine": lambda cell: cell.engine,
    "attention": lambda cell: cell.attention,
    "batch-size": lambda cell: cell.batch_size,
    "threads": lambda cell: cell.threads,
    "seed": lambda cell: cell.seed,
    "unchecked": lambda cell: "yes" if cell.unchecked else "no",
    "timeout": lambda cell: "none" if cell.timeout_s is None else console.span(cell.timeout_s),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user asked for on the command line."""

    target: str  # task, or suite by name or path
    options: Options
    out: Path  # folder of the runs
    fresh: bool = False  # measure again what earlier runs answered
    name: str | None = None  # what the run's folder is called; None: the task's or suite's name

    def plan(self) -> Plan:
        """Lay out the cells. Raises UnknownNameError with both kinds of names when the target is neither."""
        # Asked first, though a plan does not depend on it: a misspelt executor must not cost seconds.
        placement_of(self.target, self.options)
        return plan_target(self.target, self.options, out=self.out)

    @property
    def called(self) -> str:
        """What the run's folder is called after its time."""
        return self.name or folder_name(self.target)

    def command(self, verb: str = "run") -> str:
        """The command line that asks for the same."""
        words = ["ttbench", verb, self.target, *as_flags(self.options)]
        words += ["--fresh"] if self.fresh and verb == "run" else []
        words += ["--name", self.name] if self.name and verb == "run" else []
        words += [] if self.out == Path("runs") else ["--out", str(self.out)]
        return " ".join(map(quote, words))

    def to_json(self) -> dict[str, Any]:
        return {"target": self.target, **to_json(self.options), "out": str(self.out), "fresh": self.fresh}

    def answered(self, plan: Plan) -> dict[str, Place]:
        """Where the cells are that earlier runs answered; none when all is to be measured again."""
        return {} if self.fresh else find_done(self.out, [cell.cell_id for cell in plan.cells])


def run(request: Request, *, as_json: bool) -> int:
    """Measure; return the exit code. Ctrl-C prints the command that goes on."""
    plan, done = timed_plan(request)
    print_header(plan, request)
    print_skips(plan)
    print_estimate(plan, done=done)
    say_side_by_side(plan, request, done=done)
    warn_of_length(plan, request, done=done)
    try:
        with stopped_by_term() as stopped, console.RunDisplay(number=_number_of) as display:
            result = run_cells(
                plan,
                out=request.out,
                name=request.called,
                command=request.command(),
                options=request.to_json(),
                progress=display,
                fresh=request.fresh,
                placed=placement_of(request.target, request.options),
                wait=False,
            )
    except RunInterrupted as interrupted:
        console.say(
            f"interrupted: {interrupted.num_done} of {interrupted.num_cells} cells are kept in {interrupted.folder}",
            style="yellow",
        )
        console.say("to go on where it stopped:")
        console.say(f"  {interrupted.command}", style="bold")
        return TERMINATED if stopped else INTERRUPTED
    if result.num_pending:
        say_submitted(result, as_json=as_json)
        return 0
    if result.repeated:
        console.say(f"nothing new to measure: these are the results of {result.folder}; --fresh measures again")
    table = summarise(result.rows())
    if as_json:
        files = write_derived(table, result.folder, warn=console.warn)
        console.print_json(result_json(result, table=table, files=files))
        print_end(result, files=files, request=request, why=True)
        return 1 if result.num_failed else 0
    # The numbers first: nothing that is made of them may cost them, nor a closed terminal cost the files.
    try:
        console.print_rich(render(table))
    finally:
        print_end(result, files=write_derived(table, result.folder, warn=console.warn), request=request)
    for sentence in price(plan, result.rows(), options=request.options, out=str(request.out)):
        console.say(sentence)
    return 1 if result.num_failed else 0


@contextlib.contextmanager
def stopped_by_term() -> Iterator[list[int]]:
    """Take SIGTERM, which schedulers and containers send, as Ctrl-C; yields a list that then holds the signal."""
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop) if threading.current_thread() is threading.main_thread() else None
    try:
        yield stopped
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _number_of(folder: str, cell: Cell) -> str | None:
    """What a cell of a run gave, in words."""
    return headline(_opened(folder).read(cell.cell_id))


@functools.cache
def _opened(folder: str) -> Store:
    """A run's store, opened once: it remembers how far it has read."""
    return Store(folder)


def plan(request: Request, *, as_json: bool) -> None:
    """Show what a run would do."""
    plan, done = timed_plan(request)
    if as_json:
        console.print_json(plan_json(plan, done=done, command=request.command()))
        return
    print_header(plan, request)
    columns = [Column("task"), Column("checkpoint"), Column("context", numeric=True), Column("cells", numeric=True)]
    columns += [Column("work", numeric=True), Column("state", numeric=True), Column("time", numeric=True)]
    console.print_table(_plan_rows(plan, done=done), [*columns, Column("done")])
    print_skips(plan)
    print_estimate(plan, done=done)
    say_side_by_side(plan, request, done=done)
    warn_of_length(plan, request, done=done)
    console.say(f"to run it: {request.command()}")


def print_header(plan: Plan, request: Request) -> None:
    """The settings in force, task by task, on stderr."""
    console.say(f"ttbench {__version__}: {request.target}", style="bold")
    by_task: dict[str, list[Cell]] = {}
    for cell in plan.every_cell:
        by_task.setdefault(cell.task, []).append(cell)
    for task, cells in by_task.items():
        settings = {
            "task": f"{task} (version {_values(cell.task_version for cell in cells)})",
            "checkpoints": _values(cell.checkpoint.name for cell in cells),
            "context": f"{_values(format_len(length) for length in sorted({c.context_len for c in cells}))} tokens",
            "corpus": _values(cell.corpus for cell in cells),
            "parameters": _values(_params(cell.params) for cell in cells),
            "options": " ".join(f"{words}={_values(of(cell) for cell in cells)}" for words, of in OPTIONS.items()),
        }
        if any(cell.machine is not None for cell in cells):
            settings["rounds"] = f"{max(cell.round for cell in cells) + 1}, each in a fresh process"
        rows = [(words, value) for words, value in settings.items() if value != ""]
        console.print_table(rows, [Column(""), Column("", wrap=True)], stderr=True, head=False)
    for remark in _remarks(plan):
        console.say(remark, style="yellow")
    for note in plan.notes:
        console.say(note, style="yellow")
    console.say(f"runs are kept in {request.out}/")


def _remarks(plan: Plan) -> list[str]:
    """What checkpoints' files contradict each other about, each once."""
    folders = dict.fromkeys(cell.checkpoint.path for cell in plan.cells if cell.checkpoint.tokenizer_digest is not None)
    return [remark for remark in map(folder_remark, map(Path, folders)) if remark is not None]


def timed_plan(request: Request) -> tuple[Plan, Mapping[str, Place]]:
    """The plan with the times of what is left of it, and the cells that earlier runs answered."""
    plan = request.plan()
    done = request.answered(plan)
    return with_times(plan, [cell for cell in plan.cells if cell.cell_id not in done]), done


def warn_of_length(plan: Plan, request: Request, *, done: Mapping[str, Place]) -> None:
    """Say on stderr that a run will be long, and what a smaller one would take; never asks."""
    left = [cell for cell in plan.cells if cell.cell_id not in done]
    seconds = plan.seconds_of(left)
    if seconds is None or seconds <= LONG_S:
        return
    advice = _shorter(left, request, seconds=seconds)
    console.say(f"this will take about {console.span(seconds)}; {advice}", style="yellow")


def _shorter(left: list[Cell], request: Request, *, seconds: float) -> str:
    """What to type for a run of less than `LONG_S`."""
    limits = {cell.params["limit"] for cell in left if "limit" in cell.params}
    most = max((limit for limit in limits if isinstance(limit, int)), default=None)
    limit = FEW if most is None else max(1, int(most * SHORT_S / seconds))
    if limits and (most is None or limit < most):
        options: Options = {**request.options, "limit": limit}
        smaller, done = timed_plan(dataclasses.replace(request, options=options))
        shorter = smaller.seconds_of([cell for cell in smaller.cells if cell.cell_id not in done])
        if shorter is not None and shorter < seconds / 2:
            return f"--limit {limit} takes about {console.span(shorter)}"
    return "shorter contexts (--ctx) or fewer checkpoints (--checkpoint) take less"


def print_skips(plan: Plan) -> None:
    """Cells that will not run, and names that stand for a cell which another one has, with why; on stderr."""
    for status, reason, number in _skips(plan):
        console.say(f"not run: {number} x {status}: {reason}", style="yellow")
    for text in _twins(plan):
        console.say(text)


def print_estimate(plan: Plan, *, done: Mapping[str, Place]) -> None:
    """What is left to do and what it will cost, on stderr."""
    left = [cell for cell in plan.cells if cell.cell_id not in done]
    answered = [f"{'all' if not left else len(done)} answered by earlier runs"] if done else []
    skipped = [f"{len(plan.skips)} skipped"] if plan.skips else []
    if answered or skipped:
        console.say(", ".join([_number(len(plan.cells), "cell"), *answered, *skipped]))
    if changed := sum(plan.estimates[cell.cell_id].changed for cell in left):
        console.say(f"{_number(changed, 'cell')} to measure again: code or packages have changed since")
    for origin in origins(done.values()):
        console.say(f"  {_number(origin.num_cells, 'cell')} by run {origin.run_id}, measured {origin.date}")
    if done:
        console.say("  to measure them again: add --fresh")
    if not left:
        return
    estimates = [plan.estimates[cell.cell_id] for cell in left]
    known = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
    seconds = plan.seconds_of(left)
    work = console.flop(sum(estimate.flops or 0.0 for estimate in estimates))
    state = console.size(max(estimate.state_bytes or 0 for estimate in estimates))
    unknown = sum(estimate.flops is None for estimate in estimates)
    if seconds is not None:
        begins = console.span(sum(estimate.setup_s or 0.0 for estimate in estimates))
        probes_s = sum(estimate.probes_s for estimate in estimates)
        begins += f" to start ({console.span(probes_s)} of it for the probes, asked once)" if probes_s else " to start"
        source = "earlier runs" if all(estimate.exact for estimate in estimates) else "the rates of this machine"
        time = f"about {console.span(seconds)}, of which {begins}, going by {source}"
    elif known:
        time = f"at least {console.span(sum(known))}: {len(left) - len(known)} of {len(left)} cells cannot be told"
    else:
        time = "not known: no rates of this machine were measured; the first cells will tell"
    if busy():
        time += f"; longer while other programs run (load {measure.load_average():.1f})"
    known_work = f"about {work}, largest state {state}" if unknown < len(left) else "work and state not known"
    without = f", {unknown} cells without a formula not counted" if 0 < unknown < len(left) else ""
    console.say(f"{_number(len(left), 'cell')} to do: {known_work}{without}; time {time}")


def say_side_by_side(plan: Plan, request: Request, *, done: Mapping[str, Place]) -> None:
    """What the workers of `--jobs` need together at least, on stderr."""
    jobs = placement_of(request.target, request.options).jobs
    found = quality_groups(cell for cell in plan.cells if cell.cell_id not in done)
    if jobs > 1 and len(found) > 1:
        jobs = min(jobs, len(found))
        needed = console.size(side_by_side_bytes(plan, found, jobs=jobs))
        console.say(f"{jobs} checkpoints side by side need at least {needed} of memory; cells that are timed run alone")


def print_end(result: RunResult, *, files: Iterable[Path], request: Request, why: bool = False) -> None:
    """What became of the run and where everything is, on stderr; `why` cells have no number, where no table says it."""
    counts = Counter(result.statuses.values())
    console.say()
    words = ", ".join(f"{counts[status]} {status}" for status in (*ANSWERS, *FAILURES) if counts[status])
    reused = f" ({result.num_reused} from earlier runs)" if result.num_reused else ""
    console.say(f"{_number(len(result.statuses), 'cell')}: {words}{reused}, in {console.span(result.seconds)}")
    unmeasured = [record for record in Store(result.folder).records() if record.status != "ok"] if why else []
    for (status, reason), number in Counter((record.status, record.reason) for record in unmeasured).items():
        style = "red" if status in FAILURES else "yellow"
        console.say(f"  {_number(number, 'cell')} {status}: {reason}", style=style)
    say_twice(result.folder, result.twice)
    console.say(f"rows     {result.folder / 'rows.parquet'}")
    for path in files:
        console.say(f"{'figure' if path.suffix in ('.png', '.svg', '.pdf', '.md') else 'table':<8} {path}")
    if result.num_failed:
        console.say(f"{_number(result.num_failed, 'cell')} failed; details: ttbench show {result.folder}", style="red")
        console.say(f"to try them again: {request.command()}")


def _values(values: Iterable[Any]) -> str:
    found = dict.fromkeys("" if value is None else str(value) for value in values)
    return ", ".join(value for value in found if value)


def _params(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={'all' if value is None and name == 'limit' else value}" for name, value in params.items())


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _skips(plan: Plan) -> list[tuple[str, str, int]]:
    counts = Counter((skip.status, skip.reason) for skip in plan.skips)
    return [(status, reason, number) for (status, reason), number in counts.items()]


def _twins(plan: Plan) -> Iterator[str]:
    """Which names stand for the same checkpoint, in words."""
    first = {cell.cell_id: cell.checkpoint.name for cell in plan.cells}
    pairs = dict.fromkeys((cell.checkpoint.name, first[cell.cell_id]) for cell in plan.twins)
    for name, other in pairs:
        yield f"'{name}' is the same checkpoint as '{other}': measured once, shown under both names"


def _plan_rows(plan: Plan, *, done: Mapping[str, Place]) -> list[tuple[Any, ...]]:
    """One line per task, checkpoint and context; the rounds of a timing cell are counted together."""
    points: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in plan.cells:
        points.setdefault((cell.task, cell.checkpoint.name, cell.context_len), []).append(cell)
    rows = []
    for (task, checkpoint, context_len), cells in points.items():
        estimates = [plan.estimates[cell.cell_id] for cell in cells]
        work, state = [estimate.flops for estimate in estimates], [estimate.state_bytes for estimate in estimates]
        seconds = [estimate.seconds for estimate in estimates if estimate.seconds is not None]
        finished = sum(cell.cell_id in done for cell in cells)
        rows.append(
            (
                task,
                checkpoint,
                format_len(context_len),
                len(cells),
                None if None in work else console.flop(sum(filter(None, work))),
                None if None in state else console.size(max(filter(None, state), default=0)),
                console.span(sum(seconds)) if len(seconds) == len(cells) else None,
                "yes" if finished == len(cells) else f"{finished} of {len(cells)}" if finished else "no",
            )
        )
    return rows
