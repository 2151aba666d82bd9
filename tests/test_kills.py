"""Thirty random kills of parents and workers: nothing stored is lost, nothing is stored twice or torn."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import psutil

from ttbench.runs.sweep import run_cells
from ttbench.store.store import Store, find_done, run_folders

NUM_KILLS = 30
STAMPS = ["run_id", "environment", "started", "cell_s", "cell_cpu_s", "load_average"]


def parent(params: dict[str, Any], out: Path) -> subprocess.Popen[bytes]:
    code = (
        "import ttbench_fakes; from ttbench.runs.sweep import run_cells\n"
        f"run_cells(ttbench_fakes.mixed_plan(**{params!r}), out={str(out)!r})"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return []


def begun(log: Path) -> Counter[str]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(line.split()[1] for line in lines if line.startswith("begin"))


def test_thirty_random_kills_lose_at_most_the_cell_in_flight_each(fakes: ModuleType, tmp_path: Path) -> None:
    rng = random.Random(20)
    params: dict[str, Any] = {"sleep_s": 0.01, "log": str(tmp_path / "log")}
    plan = fakes.mixed_plan(**params)
    ids = [cell.cell_id for cell in plan.cells]
    undisturbed = run_cells(plan, out=tmp_path / "quiet").rows()
    (tmp_path / "log").unlink()

    # A campaign is one grid run until it is complete; further kills fall on another.
    num_kills, campaign = 0, 0
    while num_kills < NUM_KILLS:
        campaign += 1
        out, log = tmp_path / f"runs{campaign}", tmp_path / "log"
        kills_here = 0
        done: set[str] = set()
        while done != set(ids):
            process = parent(params, out)
            while num_kills < NUM_KILLS and process.poll() is None:
                time.sleep(rng.uniform(0.0, 0.5))
                victims = [process.pid] if rng.random() < 0.4 else [worker.pid for worker in workers_of(process)]
                if process.poll() is not None or not victims:
                    continue
                orphans = workers_of(process)
                try:
                    os.kill(victims[0], signal.SIGKILL)
                except ProcessLookupError:
                    # It had just ended by itself.
                    continue
                num_kills, kills_here = num_kills + 1, kills_here + 1
                if victims == [process.pid]:
                    process.wait()
                    _, alive = psutil.wait_procs(orphans, timeout=10)
                    assert alive == [], "a worker outlived its parent"
            assert process.wait() in (0, -signal.SIGKILL)
            now_done = set(find_done(out, ids))
            assert done <= now_done, "a stored cell is gone"
            done = now_done
        # Every cell that began more than once was in flight at a kill.
        repeated = sum(begun(log).values()) - len(ids)
        assert 0 <= repeated <= kills_here
        log.unlink()
        final = Store(run_folders(out)[0])
        rows = final.rows()
        pd.testing.assert_frame_equal(rows.drop(columns=STAMPS), undisturbed.drop(columns=STAMPS))
        assert (final.folder / "rows.parquet").is_file()
        assert set(rows["status"]) == {"ok"}
    assert num_kills == NUM_KILLS
