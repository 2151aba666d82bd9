"""How often the gate is red by mistake, and what it lets through: `make calibration`, written to results/calibration.

gate_times      a commit with 100 times, ten fresh processes each, on one machine. Two sessions differ though nothing
                changed: each time of a session is moved by a factor of its own, or all by one, log-normal with the
                deviation `shift`; fresh rounds are a session of their own, and the baseline stays the same. One
                time may be slowed down for real. Four rules are asked, each stricter than the one before.
gate_quality    one number of bits per byte over twelve documents, whose bits differ from the baseline's by a `loss`
                that documents share and by noise of their own; the margin is 0.005
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ttbench.report.gate.rules import LEVEL as BOUNDS
from ttbench.report.gate.slower import LEVEL, holm, slower_p
from ttbench.report.statistics.clusters import Floats, ratio_intervals
from ttbench.report.statistics.coverage import TIMES, crossed, generator
from ttbench.store.files import write_whole

METRICS, ROUNDS, DOCUMENTS = 100, 10, 12
MARGIN = 0.005  # bits per byte
BATCH = 200  # commits drawn at once


def _session(rng: np.random.Generator, commits: int, *, shift: float, moved: str, times: str) -> Floats:
    """Seconds of each round of each time, [commits, METRICS, ROUNDS]."""
    size = (commits, METRICS if moved == "each" else 1, 1)
    return np.exp(shift * rng.standard_normal(size) + TIMES[times](rng, (commits, METRICS, ROUNDS)))


def gate_times(commits: int, seed: int, *, times: str, moved: str, shift: float, slowdown: float) -> dict[str, float]:
    """Commits that each rule calls red; where one time is slower for real, how often the gate names it."""
    rng = generator("gate_times", seed, times, moved, shift, slowdown)
    found: dict[str, list[Floats]] = {}
    for start in range(0, commits, BATCH):
        batch = min(BATCH, commits - start)
        baseline, first, fresh = (_session(rng, batch, shift=shift, moved=moved, times=times) for _ in range(3))
        for session in (first, fresh):
            session[:, 0] *= 1 + slowdown
        any_slower = slower_p(baseline, first, more=0.0)
        slow = holm(slower_p(baseline, first)) <= LEVEL
        # as the gate does: what was slower, tested again among itself
        red = slow & (_holm_among(slower_p(baseline, fresh), slow) <= LEVEL)
        rules = {"p < 0.05": any_slower <= LEVEL, "Holm": holm(any_slower) <= LEVEL, "Holm, by more than 5 %": slow}
        for name, shown in {**rules, "gate": red}.items():
            found.setdefault(name, []).append(shown.any(-1).astype(float))
        found.setdefault("named", []).append(red[:, 0].astype(float))
    shares = {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}
    return shares if slowdown else {**shares, "named": float("nan")}


def _holm_among(p: Floats, chosen: np.ndarray) -> Floats:
    """p-values adjusted by Holm over those that are chosen, [commits, METRICS]; of others 1."""
    adjusted = np.ones_like(p)
    for row, mine in enumerate(chosen):
        if mine.any():
            adjusted[row, mine] = holm(p[row, mine])
    return adjusted


def gate_quality(numbers: int, seed: int, *, noise: float, loss: float) -> dict[str, float]:
    """Numbers that are red, and those of them that the gate calls worse rather than not shown to be within."""
    rng = generator("gate_quality", seed, noise, loss)
    red, worse = [], []
    for start in range(0, numbers, BATCH):
        batch = min(BATCH, numbers - start)
        each = loss + noise * rng.standard_normal((batch, DOCUMENTS))
        low, high = ratio_intervals(each, np.ones_like(each), seed=0, level=BOUNDS)
        within = (high <= MARGIN) | (each.max(-1) <= MARGIN)
        red.append(~within)
        worse.append(~within & ((low > MARGIN) | (each.min(-1) > MARGIN)))
    return {"red": float(np.concatenate(red).mean()), "worse": float(np.concatenate(worse).mean())}


TABLES = {"gate_times": gate_times, "gate_quality": gate_quality}
CASES: Mapping[str, list[dict[str, Any]]] = {
    "gate_times": [
        *crossed(times=tuple(TIMES), moved=("each", "all"), shift=(0.02,), slowdown=(0.0,)),
        *crossed(times=("normal",), moved=("each", "all"), shift=(0.0, 0.05), slowdown=(0.0,)),
        *crossed(times=("normal",), moved=("each",), shift=(0.02,), slowdown=(0.1, 0.2)),
    ],
    "gate_quality": crossed(noise=(1e-6, 1e-3, 5e-3), loss=(0.0, MARGIN, 2 * MARGIN)),
}


def run(table: str, case: Mapping[str, Any], *, data_sets: int, seed: int) -> dict[str, Any]:
    """One line of a table."""
    return {**case, "data sets": data_sets, **TABLES[table](data_sets, seed, **case)}


def main() -> None:
    """Write both tables as CSV into a folder, and print them."""
    parser = argparse.ArgumentParser(description="How often the gate is red by mistake, by simulation.")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"), help="folder of the tables")
    parser.add_argument(
        "--data-sets", type=int, default=6000, help="commits, and numbers, for each line (default 6000)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {
            table: [pool.submit(run, table, case, data_sets=options.data_sets, seed=options.seed) for case in cases]
            for table, cases in CASES.items()
        }
        for table, lines in waiting.items():
            frame = pd.DataFrame([line.result() for line in lines])
            text = frame.to_csv(index=False, float_format="%g", lineterminator="\n")
            write_whole(options.out / f"{table}.csv", text.encode())
            print(f"{table}\n{frame.to_string(index=False)}\n", flush=True)


if __name__ == "__main__":
    main()
