"""A run that is disturbed and then finished by the same command, for `scripts/chaos.py`."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

FAKES = Path(__file__).parents[1] / "tests" / "fakes"
sys.path.insert(0, str(FAKES))

from ttbench.runs.plan import Plan  # noqa: E402
from ttbench.store.store import Store, find_done, run_folders  # noqa: E402

fakes: Any = importlib.import_module("ttbench_fakes")
STAMPS = ["run_id", "environment", "started", "cell_s", "cell_cpu_s", "load_average"]
TOKEN = f"TTBENCH_CHAOS_{secrets.token_hex(8)}"  # in the environment of every process that is started here


def require(condition: object, words: str) -> None:
    """Raises AssertionError with the words where the condition does not hold, also under `python -O`."""
    if not condition:
        raise AssertionError(words)


@dataclass(kw_only=True)
class Trial:
    """A folder of runs of one plan, and what an undisturbed run of it gives."""

    out: Path
    segmented: bool
    plan: Plan = field(default_factory=lambda: fakes.mixed_plan(sleep_s=0.01))
    params: dict[str, Any] = field(default_factory=lambda: {"sleep_s": 0.01})

    def start(self, *, before: str = "", arguments: str = "", limits: Callable[[], None] | None = None) -> Any:
        """The command in a process of its own; `before` is Python that it runs first."""
        code = (
            "import ttbench_fakes, ttbench.store.store as store\n"
            "from ttbench.runs.sweep import run_cells\n"
            f"store.MANY = {0 if self.segmented else 10**9}\n"
            f"{before}\n"
            f"run_cells(ttbench_fakes.mixed_plan(**{self.params!r}), out={str(self.out)!r}, {arguments})\n"
        )
        return self._process(code, limits)

    def _process(self, code: str, limits: Callable[[], None] | None = None) -> Any:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path, TOKEN: "1", "TTBENCH_MEASURE_RATES": "0"},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limits,
        )

    def join(self, folder: Path) -> Any:
        """An executor of its own on a run's folder, in a process of its own, that measures each of its cells."""
        code = (
            "import ttbench_fakes\n"
            "from ttbench.machine.measure import environment\n"
            "from ttbench.runs.executors.base import Assignment, Placement, open_executor\n"
            "from ttbench.runs.progress import Silent\n"
            "from ttbench.store.store import Store\n"
            f"plan = ttbench_fakes.mixed_plan(**{self.params!r})\n"
            f"store = Store({str(folder)!r}, environment=environment())\n"
            "work = Assignment(store=store, plan=plan, cells=plan.cells, progress=Silent())\n"
            "open_executor(Placement()).run(work)\n"
        )
        return self._process(code)

    def statuses(self, params: dict[str, Any], *, before: str = "", arguments: str = "") -> dict[str, int]:
        """How many cells of a run with these parameters of the fakes end with which status."""
        self.params = {**self.params, **params}
        self.plan = fakes.mixed_plan(**self.params)
        _, said = self.start(before=before, arguments=arguments).communicate(timeout=900)
        folders = run_folders(self.out)
        require(folders, f"there is no run: {said[-2000:]}")
        return dict(Counter(Store(folders[0]).done().values()))

    @property
    def ids(self) -> list[str]:
        return [cell.cell_id for cell in self.plan.cells]

    def stored(self) -> int:
        """How many cells were stored so far, in all runs, some perhaps twice."""
        cells = sum(1 for _ in self.out.glob("*/cells/*.jsonl"))
        return cells + sum(path.read_bytes().count(b"\n") for path in self.out.glob("*/segments/*.index"))

    def wait_for(self, process: Any, more: int) -> None:
        """Wait until so many more cells are stored, or the process has ended; on a busy machine no time says so."""
        before = self.stored()
        while process.poll() is None and self.stored() < before + more:
            time.sleep(0.05)

    def done(self) -> set[str]:
        return set(find_done(self.out, self.ids))

    def finish(self, *, stored: bool = True) -> None:
        """The same command until all is answered; then the rows must be those of an undisturbed run.

        `stored`: what was found stored at the start must be found to the end.
        """
        before = self.done()
        for _ in range(5):
            process = self.start()
            _, said = process.communicate(timeout=600)
            require(process.returncode == 0, f"the command failed: {said[-2000:]}")
            after = self.done()
            require(before <= after or not stored, "a stored cell is gone")
            before = after
            if after == set(self.ids):
                break
        require(before == set(self.ids), "cells are left after five runs of the command")
        require_no_orphans()
        # Not by name: clocks may have been set back.
        written = [folder / "rows.parquet" for folder in run_folders(self.out) if (folder / "rows.parquet").exists()]
        newest = max(written, key=lambda path: path.stat().st_mtime).parent
        rows = Store(newest).rows()
        pd.testing.assert_frame_equal(rows.drop(columns=STAMPS), undisturbed().drop(columns=STAMPS))


_kept: list[pd.DataFrame] = []


def undisturbed() -> pd.DataFrame:
    """The rows of a run that nothing happened to."""
    if not _kept:
        with tempfile.TemporaryDirectory() as scratch:
            trial = Trial(out=Path(scratch), segmented=False)
            require(trial.start().wait() == 0, "the undisturbed run failed")
            _kept.append(Store(run_folders(trial.out)[0]).rows())
    return _kept[0]


def ours() -> list[psutil.Process]:
    """Processes that were started here, and theirs."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and TOKEN in process.environ():
                found.append(process)
    return found


def require_no_orphans() -> None:
    """Wait a little for processes that are ending, and raise AssertionError where one lives on."""
    _, alive = psutil.wait_procs(ours(), timeout=10)
    require(not alive, f"processes outlive their run: {[process.pid for process in alive]}")


def workers_of(process: Any) -> list[psutil.Process]:
    """The children of a process."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children()
    return []


class Failing:
    """The n-th change of the disk fails: opening a file for writing, linking, renaming, syncing, making a folder."""

    CALLS = ("link", "replace", "fsync", "mkdir")

    def __init__(self, at: int, code: int) -> None:
        self.at, self.code, self.seen = at, code, 0

    @contextlib.contextmanager
    def active(self) -> Iterator[Failing]:
        real = {name: getattr(os, name) for name in self.CALLS} | {"builtin": builtins.open}

        def failing(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                if name != "builtin" or set("wxa+") & set("".join(map(str, arguments[1:2]))):
                    self.seen += 1
                    if self.seen == self.at:
                        raise OSError(self.code, os.strerror(self.code))
                return real[name](*arguments, **options)

            return call

        for name in self.CALLS:
            setattr(os, name, failing(name))
        builtins.open = failing("builtin")  # type: ignore[assignment]
        try:
            yield self
        finally:
            for name in self.CALLS:
                setattr(os, name, real[name])
            builtins.open = real["builtin"]
