"""A package as a third party would install it: tasks that need no model, found through entry points.

They exercise the frame (plan, workers, store) in milliseconds and misbehave on request.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ttbench.corpora.corpus import Corpus, Document, make_corpus
from ttbench.errors import TooLongError, TooShortError, UnsupportedError, UsageError
from ttbench.runs.executors.base import Assignment, Placement, unmeasured
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan, join
from ttbench.runs.request import plan_task
from ttbench.store.record import now
from ttbench.tasks.base import Bench, Task
from ttbench.types import Cell, Checkpoint, Cost, Metric, Sample, Scalar, digest

HITS = Metric(
    name="hits", label="hits", unit="1", better="higher", statistic="ratio", numerator="hits", denominator="trials"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeParams:
    """Parameters of the fakes."""

    limit: int | None = None  # trials
    protocol: Literal["plain", "fancy"] = "plain"
    sleep_s: float = 0.0  # of each sample
    rounds: int = 1
    at: int | None = None  # context length that `what` happens at; None: at every one
    what: str = ""  # how to misbehave
    log: str = ""  # file that gets a line when a cell begins and when it ends


class FakeQuality(Task):
    """Cells of a checkpoint share a process."""

    name: ClassVar[str] = "fake-quality"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = FakeParams
    metrics: ClassVar[tuple[Metric, ...]] = (HITS,)
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = False
    default_ctx: ClassVar[str] = "1k,2k"

    def num_rounds(self, params: FakeParams) -> int:
        return params.rounds

    def check(self, params: FakeParams) -> None:
        if params.sleep_s < 0:
            raise UsageError(f"sleep_s must be 0 or more; got {params.sleep_s}")

    def measure(self, bench: Bench) -> Iterator[Sample]:
        params: FakeParams = self.Params(**bench.cell.params)
        note(params, f"begin {bench.cell.cell_id} {os.getpid()} {time.time()}")
        if params.what and params.at in (None, bench.cell.context_len):
            misbehave(params.what, bench)
        num_samples = 3 if params.limit is None else params.limit
        for trial in range(num_samples):
            time.sleep(params.sleep_s)
            bench.progress(trial + 1, num_samples)
            nan = params.what == "nan" and params.at in (None, bench.cell.context_len)
            hits = int(digest(f"{bench.cell.cell_id} {trial}")[:2], 16)
            yield Sample(
                keys={"trial": trial, "pid": os.getpid() if params.what == "pid" else None},
                values={"hits": hits, "trials": 255, "share": float("nan") if nan else hits / 255},
                evidence={"prompt": f"trial {trial}\u2028 of {bench.cell.context_len}"},
            )
        note(params, f"end {bench.cell.cell_id} {os.getpid()} {time.time()}")


class FakeTiming(FakeQuality):
    """One process per cell."""

    name: ClassVar[str] = "fake-timing"
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "cell"
    default_batch_size: ClassVar[int] = 2


class FakeText(FakeQuality):
    """Reads a corpus."""

    name: ClassVar[str] = "fake-text"
    needs_corpus: ClassVar[bool] = True

    def measure(self, bench: Bench) -> Iterator[Sample]:
        num_bytes = sum(len(document.text) for document in bench.corpus.documents("test"))
        yield Sample(keys={"document": "all"}, values={"num_bytes": num_bytes})


class FakeExecutor:
    """Ends every cell without measuring it."""

    detached: ClassVar[bool] = False

    def __init__(self, placement: Placement) -> None:
        self.num_ended = 0

    def check(self, plan: Plan, cells: Sequence[Cell]) -> None:
        if any(cell.context_len > 4096 for cell in cells):
            raise UsageError("the fake cluster has no room for more than 4k")

    def run(self, work: Assignment) -> None:
        for cell in work.cells:
            record = unmeasured(cell, "killed", "the fake cluster ends them all", started=now(), cell_s=0.0)
            work.store.write_cell(record)
            self.num_ended += 1


def note(params: FakeParams, line: str) -> None:
    if params.log:
        with open(params.log, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def misbehave(what: str, bench: Bench) -> None:
    if what == "too_long":
        raise TooLongError("the model takes at most 512 tokens")
    if what == "too_short":
        raise TooShortError("no document has 1 GiB")
    if what == "unsupported":
        raise UnsupportedError("not on Tuesdays")
    if what == "error":
        raise ZeroDivisionError("first line\nsecond line")
    if what == "memory":
        raise MemoryError
    if what == "hog":
        bytearray(2**40)
    if what == "hang":
        time.sleep(600)
    if what == "stuck":
        # For ages in C code, which holds the interpreter's lock: no signal is handled in Python.
        re.fullmatch("(a+)+", "a" * 64 + "b")
    if what == "eat":
        eaten = []
        while True:
            eaten.append(bytearray(os.urandom(1024**2)) * 16)
    if what == "cuda memory":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        sys.exit(7)
    if what == "fork":
        # The child keeps every handle of the worker open.
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "no room":
        os.fsync = no_room
    if what == "print":
        print('{"kind": "end", "cell_id": "nobody"}', flush=True)
    if what == "die once" and not Path(bench.cell.checkpoint.path, "died").exists():
        Path(bench.cell.checkpoint.path, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "modules":
        heavy = sorted({"torch", "pandas", "pyarrow", "transformers"} & sys.modules.keys())
        raise UnsupportedError(f"loaded: {heavy}")
    if what == "environment":
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        raise UnsupportedError(", ".join(f"{name}={os.environ[name]}" for name in names))


def no_room(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fake_corpus() -> Corpus:
    return make_corpus("fake-corpus", {"test": [Document(name="a", text=b"hello")]}, source="tests")


def checkpoint(name: str = "one", **changes: Any) -> Checkpoint:
    """A checkpoint that exists by name only; another name has other weights."""
    values: dict[str, Any] = {
        "name": name,
        "path": f"nowhere/{name}",
        "architecture": "transformer",
        "architecture_version": 1,
        "dialect": "fake",
        "provenance": "local",
        "revision": None,
        "weights_digest": digest(name),
        "config_digest": digest("config"),
        "tokenizer_digest": digest("bytes"),
        "vocab_size": 257,
        "train_ctx": 1024,
        "num_params": 1000,
        "num_params_non_embedding": 800,
        "weight_bytes": 4000,
        "cost": Cost(flops_per_token=2000, flops_per_context_token=10, state_bytes=64, state_bytes_per_token=8),
    }
    return Checkpoint(**{**values, **changes})


def mixed_plan(**params: Scalar) -> Plan:
    """Two checkpoints, twenty quality cells each, then timing cells in processes of their own."""
    shared: dict[str, Any] = {"checkpoints": (checkpoint("a"), checkpoint("b")), "threads": 1}
    quality = Options(ctx=tuple(range(1, 21)), params=params, **shared)
    timing = Options(ctx=1, params={**params, "rounds": 2}, **shared)
    return join([plan_task("fake-quality", quality, out="absent"), plan_task("fake-timing", timing, out="absent")])
