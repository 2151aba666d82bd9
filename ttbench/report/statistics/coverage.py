"""How often the intervals of ttbench contain the true value: `make calibration`, written to results/calibration.

Made-up data sets whose truth is known are drawn again and again, and each is asked whether its 95 % interval holds it:

    differences    a - b summed over documents / bytes, true difference 0: what the interval leaves out is a false
                   verdict. Documents of one length, and of lengths that spread log-normally (sigma 0.9)
    ratios         one checkpoint's sum / bytes, lengths as unequal, long documents easier
    families       eight contexts judged at once, each by its own interval: data sets with any false verdict
    verdicts       all pairs of equal checkpoints at several contexts, judged as `joint.judge` does: tables with any
                   false verdict, and what the joint p and the intervals would each give alone
    proportions    trials that share a haystack; two checkpoints that are equal
    rounds         times of fresh processes; two checkpoints that are equal

SHAPES with `chosen` set the method's one constant and are those it is held to; the others were looked at afterwards.
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats as distributions

from ttbench.report.statistics import joint, stats
from ttbench.report.statistics.clusters import (
    Floats,
    bootstrap_t,
    hull,
    ratio_intervals,
    sign_flip_interval,
    sign_flip_test,
)
from ttbench.store.files import write_whole

NUM_CLUSTERS = (10, 12, 20, 40, 60)
LENGTHS = {"equal": 0.0, "unequal": 0.9}  # sigma of their logarithms
CONTEXTS = 8  # of a family
BATCH = 250  # data sets drawn at once
EASIER = 0.1  # rate lost for each factor e of length

Bools = NDArray[np.bool_]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]


@dataclass(frozen=True, slots=True)
class Shape:
    """How documents differ: deviations of mean 0."""

    draw: Draw
    chosen: bool = False


def _log_normal(sigma: float) -> Draw:
    return lambda rng, size: np.exp(sigma * rng.standard_normal(size)) - np.exp(sigma**2 / 2)


def _mixed(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.standard_normal(size) * np.where(rng.random(size) < 0.1, 5.0, 1.0)


def _sparse(rng: np.random.Generator, size: tuple[int, ...]) -> Floats:
    return rng.standard_normal(size) * (rng.random(size) < 0.5)


SHAPES: Mapping[str, Shape] = {
    "normal": Shape(lambda rng, size: rng.standard_normal(size), chosen=True),
    "log-normal 0.8": Shape(_log_normal(0.8), chosen=True),
    "t with 3 df": Shape(lambda rng, size: rng.standard_t(3, size), chosen=True),
    "uniform": Shape(lambda rng, size: rng.random(size) - 0.5),
    "exponential": Shape(lambda rng, size: rng.exponential(1, size) - 1),
    "log-normal 0.8 less another": Shape(lambda rng, size: _log_normal(0.8)(rng, size) - _log_normal(0.8)(rng, size)),
    "a tenth five times as far": Shape(_mixed),
    "half of them equal": Shape(_sparse),
    "log-normal 1.2": Shape(_log_normal(1.2)),
}
CHOSEN = tuple(name for name, shape in SHAPES.items() if shape.chosen)
OTHERS = tuple(name for name, shape in SHAPES.items() if not shape.chosen)

TIMES: Mapping[str, Draw] = {
    "normal": lambda rng, size: 0.05 * rng.standard_normal(size),
    "one in ten slower by up to a third": lambda rng, size: (
        0.05 * rng.standard_normal(size) + (rng.random(size) < 0.1) * rng.uniform(0, 0.3, size)
    ),
    "log-normal 0.8": lambda rng, size: 0.05 * np.exp(0.8 * rng.standard_normal(size)),
    "t with 3 df": lambda rng, size: 0.05 * rng.standard_t(3, size),
}


def generator(*parts: object) -> np.random.Generator:
    """A generator of its own for each table, case and seed."""
    return np.random.default_rng([zlib.crc32(repr(part).encode()) for part in parts])


def _holds(interval: tuple[Floats, Floats], truth: float) -> Bools:
    return (interval[0] <= truth) & (truth <= interval[1])


def _inside(made: stats.Estimate, truth: float) -> bool:
    assert made.low is not None, made.reason
    assert made.high is not None
    return made.low <= truth <= made.high


def _student(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Student's t on the linearised residuals: what most papers print."""
    num, value = a.shape[1], a.sum(1) / b.sum(1)
    error = np.sqrt(num / (num - 1) * np.sum((a - value[:, None] * b) ** 2, 1)) / b.sum(1)
    half = distributions.t.ppf(0.975, num - 1) * error
    return value - half, value + half


def _methods(a: Floats, b: Floats, truth: float) -> dict[str, Bools]:
    """Whether each method's interval holds the truth, [S] each."""
    flips = sign_flip_interval(a, b, seed=0, level=stats.LEVEL)
    boot = bootstrap_t(a, b, seed=0, level=stats.LEVEL)
    made = {"ttbench": hull(flips, boot), "sign flips": flips, "bootstrap t": boot, "Student's t": _student(a, b)}
    return {name: _holds(interval, truth) for name, interval in made.items()}


def _batches(data_sets: int) -> Iterator[int]:
    yield from (min(BATCH, data_sets - start) for start in range(0, data_sets, BATCH))


def differences(data_sets: int, seed: int, *, documents: str, lengths: str, clusters: int) -> dict[str, float]:
    """Coverage of a difference whose truth is 0, and how often ttbench leaves 0 out."""
    rng, found = generator("differences", seed, documents, lengths, clusters), []
    for batch in _batches(data_sets):
        b = np.exp(LENGTHS[lengths] * rng.standard_normal((batch, clusters)))
        found.append(_methods(SHAPES[documents].draw(rng, b.shape) * b, b, 0.0))
    shares = {name: float(np.concatenate([part[name] for part in found]).mean()) for name in found[0]}
    return {"false verdicts": 1 - shares["ttbench"], **shares}


def ratios(data_sets: int, seed: int, *, documents: str, clusters: int) -> dict[str, float]:
    """Coverage of one checkpoint's ratio; weighted by length, the mean logarithm of a length is sigma squared."""
    sigma = LENGTHS["unequal"]
    rng, found = generator("ratios", seed, documents, clusters), []
    for batch in _batches(data_sets):
        logs = sigma * rng.standard_normal((batch, clusters))
        rates = 10 + SHAPES[documents].draw(rng, logs.shape) - EASIER * logs
        found.append(_methods(rates * np.exp(logs), np.exp(logs), 10 - EASIER * sigma**2))
    return {name: float(np.concatenate([part[name] for part in found]).mean()) for name in found[0]}


def families(data_sets: int, seed: int, *, documents: str, alike: float, clusters: int) -> dict[str, float]:
    """How often any of eight equal points gets a verdict; the same documents at each, `alike` in the middle."""
    rng, wrong, level = generator("families", seed, documents, alike, clusters), [], stats.family_level(CONTEXTS)
    weights = np.sqrt([alike, 1 - alike])
    for batch in _batches(data_sets):
        shared, ones = SHAPES[documents].draw(rng, (batch, clusters)), np.ones((batch, clusters))
        any_wrong = np.zeros(batch, dtype=bool)
        for _ in range(CONTEXTS):
            a = weights[0] * shared + weights[1] * SHAPES[documents].draw(rng, shared.shape)
            any_wrong |= ~_holds(ratio_intervals(a, ones, seed=0, level=level), 0.0)
        wrong.append(any_wrong)
    return {"families with a false verdict": float(np.concatenate(wrong).mean())}


def verdicts(
    data_sets: int, seed: int, *, documents: str, alike: float, clusters: int, checkpoints: int, contexts: int
) -> dict[str, float]:
    """How often a table of equal checkpoints holds any verdict: all pairs at all contexts, on the same documents.

    The first checkpoint is the measure, and how far the others lie from it is drawn, so that differences may be skewed;
    `alike` is the correlation of the contexts.
    """
    rng, found = generator("verdicts", seed, documents, alike, clusters, checkpoints, contexts), []
    pairs = list(itertools.combinations(range(checkpoints), 2))
    for _ in range(data_sets):
        shared = SHAPES[documents].draw(rng, (checkpoints - 1, 1, clusters))
        own = SHAPES[documents].draw(rng, (checkpoints - 1, contexts, clusters))
        away = np.concatenate([np.zeros((1, contexts, clusters)), alike**0.5 * shared + (1 - alike) ** 0.5 * own])
        cells = np.concatenate([away[one] - away[two] for one, two in pairs])
        ones = np.ones_like(cells)
        if clusters < joint.MIN_BAND:
            # before the first is shown all are judged at this level, and without a first there is none
            level = stats.family_level(len(cells))
            low, high = ratio_intervals(cells, ones, seed=0, level=level)
            p = joint.holm([sign_flip_test(cell) for cell in cells])
        else:
            judged = joint.judge(cells, ones, seed=0, level=stats.LEVEL)
            low, high, p = judged.low, judged.high, judged.p
        out, unlike = ~_holds((low, high), 0.0), p < 1 - stats.LEVEL
        found.append([(out & unlike).any(), unlike.any(), out.any()])
    both, tests, intervals = np.mean(found, axis=0)
    return {"false verdicts": float(both), "joint p alone": float(tests), "intervals alone": float(intervals)}


def draw_trials(
    rng: np.random.Generator, num_haystacks: int, *, share: float, alike: float, depths: int = 5, models: int = 1
) -> tuple[Floats, np.ndarray]:
    """Hits of `models` in `depths` trials of each haystack, [models, trials], `alike` correlated within a haystack."""
    if alike == 0:
        rates = np.full((models, num_haystacks), share)
    elif alike == 1:
        rates = (rng.random((models, num_haystacks)) < share).astype(float)
    else:
        rates = rng.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), (1, num_haystacks))
    labels = np.repeat(np.arange(num_haystacks), depths)
    rates = np.broadcast_to(rates, (models, num_haystacks))[:, labels]
    return (rng.random(rates.shape) < rates).astype(np.float64), labels


def proportions(data_sets: int, seed: int, *, alike: float, clusters: int) -> dict[str, float]:
    """Averages over true shares from 0.05 to 0.95."""
    rng, found = generator("proportions", seed, alike, clusters), []
    for share in (0.05, 0.2, 0.5, 0.8, 0.95):
        for _ in range(data_sets // 5):
            (a, b), labels = draw_trials(rng, clusters, share=share, alike=alike, models=2)
            made = stats.estimate_proportion(a, clusters=labels)
            plain = stats.wilson(a.sum(), a.size)
            paired = stats.paired_proportion_difference(a, b, clusters=labels)
            found.append((_inside(made, share), plain[0] <= share <= plain[1], not _inside(paired, 0.0)))
    ttbench, wilson, wrong = np.mean(found, axis=0)
    return {"false verdicts": float(wrong), "ttbench": float(ttbench), "trials as independent": float(wilson)}


def rounds(data_sets: int, seed: int, *, times: str, rounds: int) -> dict[str, float]:
    """The geometric mean of rounds, and the ratio of two equal checkpoints by rounds."""
    rng = generator("rounds", seed, times, rounds)
    truth, found = float(TIMES[times](np.random.default_rng(0), (4_000_000,)).mean()), []
    for one, two in zip(*(TIMES[times](rng, (data_sets, rounds)) for _ in range(2)), strict=True):
        made, ratio = stats.estimate_rounds(np.exp(one)), stats.estimate_rounds(np.exp(one - two))
        found.append((_inside(made, float(np.exp(truth))), not _inside(ratio, 1.0)))
    held, wrong = np.mean(found, axis=0)
    return {"false verdicts": float(wrong), "ttbench": float(held)}


TABLES: Mapping[str, Callable[..., dict[str, float]]] = {
    "differences": differences,
    "ratios": ratios,
    "families": families,
    "verdicts": verdicts,
    "proportions": proportions,
    "rounds": rounds,
}


def crossed(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """A case for each combination of the values."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


CASES: Mapping[str, list[dict[str, Any]]] = {
    "differences": [
        *crossed(documents=CHOSEN, lengths=tuple(LENGTHS), clusters=NUM_CLUSTERS),
        *crossed(documents=OTHERS, lengths=("equal",), clusters=(12,)),
    ],
    "ratios": crossed(documents=CHOSEN, clusters=NUM_CLUSTERS),
    "families": crossed(documents=CHOSEN, alike=(0.5, 0.95), clusters=(12,)),
    "verdicts": [
        *crossed(documents=CHOSEN, alike=(0.5, 0.95), clusters=(12, 20, 40, 60), checkpoints=(2,), contexts=(4,)),
        *crossed(documents=CHOSEN, alike=(0.5,), clusters=(12, 20, 40, 60), checkpoints=(4,), contexts=(4,)),
    ],
    "proportions": crossed(alike=(0.0, 0.3, 1.0), clusters=(5, 10, 20, 60)),
    "rounds": crossed(times=tuple(TIMES), rounds=(3, 5, 10)),
}


def run(table: str, case: Mapping[str, Any], *, data_sets: int, seed: int) -> dict[str, Any]:
    """One line of a table."""
    return {**case, "data sets": data_sets, **TABLES[table](data_sets, seed, **case)}


def data_sets_of(table: str, case: Mapping[str, Any], least: int) -> int:
    """Three times as many at twelve documents, where the default run lies; a family is many data sets."""
    if table == "families":
        return least // 4
    if table == "verdicts":
        return 2 * least // 3
    return least * 3 if case.get("clusters") == 12 and case.get("documents") in CHOSEN else least


def main() -> None:
    """Write every table as CSV into a folder, and print it."""
    parser = argparse.ArgumentParser(description="How often the intervals of ttbench hold the truth, by simulation.")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"), help="folder of the tables")
    parser.add_argument("--data-sets", type=int, default=3000, help="data sets for most lines (default 3000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(CASES), help="which tables (default all)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        for table in options.tables:
            path = options.out / f"{table}.csv"
            frame = _fill(pool, table, path, least=options.data_sets, seed=options.seed)
            print(f"{table}\n{frame.to_string(index=False, float_format='%.3f')}\n", flush=True)


def _fill(pool: ProcessPoolExecutor, table: str, path: Path, *, least: int, seed: int) -> pd.DataFrame:
    """Make the lines of a table that its file does not have yet from as many data sets; written after each line.

    So a table that is cut off goes on where it stopped; until then a line of fewer data sets stays. To make a table
    anew, delete its file.
    """
    kept = pd.read_csv(path).to_dict("records") if path.is_file() else []
    lines: list[dict[Any, Any] | None] = []
    waiting: dict[int, Future[dict[str, Any]]] = {}
    for place, case in enumerate(CASES[table]):
        data_sets = data_sets_of(table, case, least)
        lines.append(next((line for line in kept if case.items() <= line.items()), None))
        if (lines[place] or {}).get("data sets") != data_sets:
            waiting[place] = pool.submit(run, table, case, data_sets=data_sets, seed=seed)
    for place, made in waiting.items():
        lines[place] = made.result()
        known = pd.DataFrame([line for line in lines if line is not None])
        write_whole(path, known.to_csv(index=False, float_format="%.4f", lineterminator="\n").encode())
    return pd.DataFrame([line for line in lines if line is not None])


if __name__ == "__main__":
    main()
