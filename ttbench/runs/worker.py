"""`python -m ttbench.runs.worker`: measure one group of cells in a process of its own.

Reads the group from stdin as JSON, writes each cell to the run's store as it ends, and tells its parent about it in
JSON lines on what was stdout; anything printed meanwhile goes to stderr. Imports torch only when a task asks for its
engine. The kernel ends a worker whose parent has died; memory beyond the limit is a MemoryError, not a kill.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.code import code_digest
from ttbench.corpora.corpus import Corpus, open_corpus
from ttbench.engines import findings
from ttbench.errors import (
    CellAnswer,
    CorpusError,
    StoreError,
    UnsupportedError,
    UsageError,
    one_line,
)
from ttbench.kernels.dispatch.running import proving, unwatched, watching
from ttbench.machine import measure
from ttbench.machine.allocation import allocation, shortage
from ttbench.machine.software import planned_shortage
from ttbench.packages import import_packages
from ttbench.registry import TASKS
from ttbench.store.record import CellRecord, now
from ttbench.store.store import Store
from ttbench.tasks.base import Bench, Task, declared_columns
from ttbench.types import Cell, Environment, Sample, Status

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from ttbench.checkpoints.tokenizer import Tokenizer
    from ttbench.engines.engine import Engine
    from ttbench.engines.findings import Verdict

_PR_SET_PDEATHSIG = 1


class Channel:
    """The way back to the parent: one JSON object per line."""

    def __init__(self) -> None:
        # Libraries may print; only this private copy of stdout reaches the parent, and children do not inherit it.
        self._handle = os.dup(1)
        os.dup2(2, 1)
        self._last = 0.0

    def send(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"kind": kind, **fields}) + "\n"
        os.write(self._handle, line.encode())

    def progress(self, cell_id: str, done: int, total: int, setup_s: float) -> None:
        """At most once a second: the parent must sleep while a cell is timed."""
        if time.monotonic() - self._last >= 1:
            self._last = time.monotonic()
            self.send("progress", cell_id=cell_id, done=done, total=total, setup_s=setup_s)


class Group:
    """What the cells of a group share: one engine, the corpora, the tokenizer; each opened at first use."""

    def __init__(self, cells: Sequence[Cell] = (), *, machine: str | None = None) -> None:
        self.machine = machine  # fingerprint; None: cells are not asked where they belong
        self.engine: Engine | None = None
        self._cells = tuple(cells)
        self._verdict: Verdict | None = None
        self._corpora: dict[str, Corpus] = {}
        self._memos: dict[tuple[str, int], dict[Any, Any]] = {}  # of each task's version
        self.setup_s = 0.0  # of the running cell: until the engine was open, and in opening what came after it
        self._began = time.perf_counter()

    def bench(self, cell: Cell, channel: Channel) -> Bench:
        self.setup_s, self._began = 0.0, time.perf_counter()
        return Bench(
            cell=cell,
            open_engine=lambda: self._open_engine(cell),
            open_corpus=lambda: self._timed(lambda: self._open_corpus(cell)),
            open_tokenizer=lambda: self._timed(lambda: self._open_tokenizer(cell)),
            memo=self._memos.setdefault((cell.task, cell.task_version), {}),
            progress=lambda done, total: channel.progress(cell.cell_id, done, total, self.setup_s),
        )

    def _timed(self, open_: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        opened = open_()
        self.setup_s += time.perf_counter() - began
        return opened

    def _open_engine(self, cell: Cell) -> Engine:
        opens = self.engine is None
        if self.engine is None:
            # Once torch is there: the environment set its threads, this fixes those between operations too.
            measure.pin_threads(cell.threads)
            # Before the first product starts torch's threads, which take the mode over from this one.
            measure.flush_denormals()
            self.engine = self._load(cell, dtype=cell.dtype)
            _refuse_offloaded(cell, self.engine)
        if findings.is_probed(cell) and not cell.unchecked:
            with unwatched():
                self._vouch(cell, self.engine).require()
        if opens:
            # What a cell does before it has an engine is its process's beginning: imports, and looking at itself.
            self.setup_s = time.perf_counter() - self._began
        return self.engine

    def _load(self, cell: Cell, *, dtype: str) -> Engine:
        # Late: torch takes seconds and hundreds of MiB, and some tasks look at the process before it is there.
        from ttbench.engines.kinds import load_engine

        return load_engine(
            cell.checkpoint,
            device=cell.device,
            dtype=dtype,
            attention=cell.attention,
            engine=cell.engine,
            unchecked=cell.unchecked,
            device_map=cell.device_map,
        )

    def _vouch(self, cell: Cell, engine: Engine) -> Verdict:
        """What the probes say of the engine; asked, or recalled, before the first score of the process."""
        if self._verdict is None:
            # Late, with torch.
            from ttbench.engines import probing

            self._verdict = probing.vouch(
                engine,
                cell.checkpoint,
                attention=cell.attention,
                looked=findings.wanted(self._cells or (cell,)),
                text=lambda length: self._text(cell, length),
                exact=lambda: self._load(cell, dtype="float64"),
            )
        return self._verdict

    def _text(self, cell: Cell, length: int) -> Int[np.ndarray, "T"] | None:
        """At least `length` ids of the corpus that the cell reads, where it has so many; None where it reads none."""
        if cell.corpus is None or cell.checkpoint.tokenizer_digest is None:
            return None
        from ttbench.engines import probing

        texts = (document.text for document in self._open_corpus(cell).documents("test"))
        return probing.encode(texts, self._open_tokenizer(cell), num_tokens=length)

    def checked(self, cell: Cell) -> str | None:
        """What the probes found, for the row; None where no engine was scored."""
        if self.engine is None or not findings.is_probed(cell):
            return None
        if cell.unchecked:
            return "unchecked"
        if self._verdict is None:
            return None
        if self._verdict.failed is not None:
            return "failed"
        most = self.engine.max_context
        wanted = findings.reach(cell) if most is None else min(findings.reach(cell), most)
        return "passed" if self._verdict.looked >= wanted else "partly"

    @property
    def looked(self) -> int | None:
        """Tokens that the probes looked at; None before they were asked."""
        return None if self._verdict is None else self._verdict.looked

    def _open_corpus(self, cell: Cell) -> Corpus:
        if cell.corpus is None:
            raise UnsupportedError(f"task '{cell.task}' asked for a corpus and declares that it needs none")
        if cell.corpus not in self._corpora:
            self._corpora[cell.corpus] = open_corpus(cell.corpus)
        corpus = self._corpora[cell.corpus]
        if corpus.digest != cell.corpus_digest:
            raise CorpusError(
                f"corpus '{cell.corpus}' has changed since the plan: digest {corpus.digest}, planned "
                f"{cell.corpus_digest}; run the command again"
            )
        return corpus

    def caveat(self, cell: Cell) -> str | None:
        """What the corpus of a cell asks to be said beside its numbers; None where it was never opened."""
        corpus = self._corpora.get(cell.corpus or "")
        return None if corpus is None else corpus.caveat or None

    def _open_tokenizer(self, cell: Cell) -> Tokenizer:
        from ttbench.checkpoints.loading import load_tokenizer
        from ttbench.checkpoints.special_tokens import no_tokenizer

        tokenizer = load_tokenizer(cell.checkpoint)
        if tokenizer is None:
            raise UnsupportedError(no_tokenizer(Path(cell.checkpoint.path), cell.checkpoint.name))
        return tokenizer


def run_group(spec: Mapping[str, Any], channel: Channel) -> None:
    """Measure the cells one after the other; return early when what is left needs a fresh process."""
    store = Store(spec["folder"], environment=_environment(spec), segment=spec.get("segment"))
    cells = [Cell.from_json(data) for data in spec["cells"]]
    group = Group(cells, machine=store.environment.machine)
    for cell in cells:
        channel.send("start", cell_id=cell.cell_id)
        record = run_cell(cell, group=group, channel=channel)
        try:
            store.write_cell(record)
        except (ValueError, TypeError) as error:
            # The task's samples are at fault, not the disk.
            record = dataclasses.replace(record, status="error", reason=one_line(error), samples=())
            store.write_cell(record)
        channel.send("end", cell_id=cell.cell_id, status=record.status, reason=record.reason, setup_s=group.setup_s)
        # After a failure inside an engine its state, or the device's, is not to be trusted.
        if record.status == "oom" or (record.status == "error" and group.engine is not None):
            return


def run_cell(cell: Cell, *, group: Group, channel: Channel) -> CellRecord:
    """Measure a cell and say what became of it; no error leaves."""
    task: Task = TASKS.load(cell.task)()
    started, load = now(), measure.load_average()
    wall, cpu = time.perf_counter(), time.process_time()

    def record(status: Status, reason: str | None, samples: tuple[Sample, ...] = (), text: str = "") -> CellRecord:
        engine = group.engine
        return CellRecord(
            cell=cell,
            status=status,
            reason=reason,
            started=started,
            cell_s=time.perf_counter() - wall,
            cell_cpu_s=time.process_time() - cpu,
            load_average=load,
            engine=cell.engine if engine is None else engine.name,
            kernel_path={**ran, **looked(group)},
            choices={} if engine is None else dict(engine.choices),
            checked=group.checked(cell),
            metrics=task.metrics,
            figures=task.figures,
            columns=declared_columns(task),
            samples=samples,
            corpus_note=group.caveat(cell),
            setup_s=group.setup_s,
            denormals_flushed=measure.denormals_flushed(),
            evidence=({"traceback": text},) if text else (),
        )

    with watching() as ran, proving():
        try:
            import_packages(cell.imports)
            _require_same_code(cell)
            _require_same_machine(cell, group.machine)
            samples = tuple(task.measure(group.bench(cell, channel)))
            if not samples:
                raise ValueError(f"task '{cell.task}' gave no sample; raise TooShortError where the text is too short")
            return record("ok", None, samples)
        except CellAnswer as answer:
            return record(answer_status(answer), one_line(answer))
        # The border of the process: whatever a task or a library raises becomes a row, and the next cell runs.
        except Exception as error:
            status = "oom" if is_out_of_memory(error) else "error"
            return record(status, one_line(error), text=traceback.format_exc())


def _refuse_offloaded(cell: Cell, engine: Engine) -> None:
    """Raise UnsupportedError where a process is to be timed or weighed whose weights come from elsewhere each time."""
    offloaded = getattr(engine, "offloaded", ())
    if offloaded and TASKS.load(cell.task).isolation == "cell":
        raise UnsupportedError(
            f"{len(offloaded)} modules of '{cell.checkpoint.name}' are offloaded ({', '.join(offloaded[:2])} ...): "
            f"{cell.task} would measure how fast weights are fetched, not the model; use a --device-map without them"
        )


def looked(group: Group) -> dict[str, str]:
    """How far the probes looked, in tokens, for the kernel path of a row."""
    return {} if group.looked is None else {"probed_tokens": str(group.looked)}


def _require_same_code(cell: Cell) -> None:
    """Raises UsageError when this process would compute with other code than the cell is known by."""
    here = code_digest(architecture=cell.checkpoint.architecture, task=cell.task, engine=cell.engine)
    if here != cell.code_digest:
        raise UsageError(f"the code of '{cell.checkpoint.name}' or of {cell.task} has changed; run the command again")


def _require_same_machine(cell: Cell, machine: str | None) -> None:
    """Raises UsageError when a timing cell would be measured on another machine, or with fewer cores, than planned."""
    if cell.machine is None or machine is None:
        return
    if cell.machine != machine:
        raise UsageError(
            f"this timing cell was planned for machines of class {cell.machine}, and this one is of class {machine}: "
            "run it there, or plan it here"
        )
    here, planned = shortage(cell.threads), planned_shortage(cell.software)
    if here != planned:
        raise UsageError(
            f"this timing cell was planned for {planned or 'a core for each thread'}, and this process has "
            f"{here or 'a core for each thread'}: ask for as many cores as threads, or plan it again"
        )


def _environment(spec: Mapping[str, Any]) -> Environment:
    """What this process runs on: the machine as its parent saw it, and what it was given of it."""
    if spec.get("environment") is None:
        return measure.environment()
    seen = Environment.from_json(spec["environment"])
    return dataclasses.replace(seen, variables=measure.told_variables(os.environ), allocation=allocation())


def answer_status(answer: CellAnswer) -> Status:
    status: Any = answer.status
    return status


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one that it was raised from, is evidence of missing memory on the host or the device."""
    torch = sys.modules.get("torch")
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or (torch is not None and isinstance(seen, torch.OutOfMemoryError)):
            return True
        # Failed mappings have several types, and failures of torch's CPU allocator have none of their own.
        if measure.says_out_of_memory(str(seen)):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def tie_to_parent(parent: int) -> None:
    """Die with the parent, so that no stray worker goes on writing after a kill -9."""
    tied = sys.platform == "linux" and _die_with_parent()
    if not tied:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    # The parent may have died before the tie.
    if os.getppid() != parent:
        os._exit(1)


def _die_with_parent() -> bool:
    """Ask the kernel for a kill when the parent dies; whether it agreed."""
    return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def limit_memory(limit_bytes: int | None) -> None:
    """Let allocations beyond the limit fail here, and let the kernel, if it must kill, choose this process."""
    if sys.platform == "linux":
        # A sandbox with a read-only /proc refuses the offer; what is measured does not depend on it.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    if limit_bytes is not None:
        import resource

        # Where a sandbox refuses limits, the kernel's own killer remains.
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(resource.RLIMIT_DATA)
            allowed = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def main() -> None:
    channel = Channel()
    spec = json.load(sys.stdin)
    tie_to_parent(spec["parent"])
    limit_memory(spec["memory_limit"])
    try:
        run_group(spec, channel)
    except StoreError as error:
        channel.send("store_error", reason=str(error))
    sys.stderr.flush()
    # Everything is on disk; taking torch down would cost time and can hang.
    os._exit(0)


if __name__ == "__main__":
    main()
