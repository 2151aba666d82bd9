"""How often the intervals of `ttbench.stats` hold the truth: `python -m ttbench.report.coverage [--data-sets N]`.

Made-up documents: their lengths spread log-normally over a factor of about 30, long ones are easier, some are far
harder than the rest, and each holds several windows that resemble each other. Data sets are drawn again and again, and
each method's 95 % interval is asked whether it holds the rate of all such documents. The last tables do the same for
proportions whose trials share a haystack, for medians of a few rounds, and for comparisons of a checkpoint with itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from ttbench import stats
from ttbench.stats import Estimate, Floats

Interval = tuple[float, float]
NUM_CLUSTERS = (5, 10, 20, 30, 60)  # documents or haystacks of the printed tables
WINDOWS = 4  # in each document

RATIO_METHODS = ("ttbench", "jackknife t", "percentile", "BCa", "windows as independent")


def draw_documents(rng: np.random.Generator, num_documents: int) -> tuple[Floats, Floats, np.ndarray]:
    """Numerators, denominators and document labels of all windows, [num_documents * WINDOWS] each."""
    size = np.exp(rng.normal(0, 0.9, num_documents))
    rate = 2 * np.exp(0.25 * rng.standard_normal(num_documents) - 0.08 * np.log(size))
    rate += 0.5 * rng.exponential(1, num_documents) * (rng.random(num_documents) < 0.15)
    denominator = np.repeat(size * 1000 / WINDOWS, WINDOWS)
    numerator = np.repeat(rate, WINDOWS) * np.exp(rng.normal(0, 0.05, len(denominator))) * denominator
    return numerator, denominator, np.repeat(np.arange(num_documents), WINDOWS)


def _bootstrap_ratios(a: Floats, b: Floats) -> Floats:
    counts = stats.resamples(len(a), seed=0, draws=2000)
    return (counts @ a) / (counts @ b)


def percentile(a: Floats, b: Floats) -> Interval:
    """The plain bootstrap over documents."""
    low, high = np.quantile(_bootstrap_ratios(a, b), (0.025, 0.975))
    return float(low), float(high)


def bca(a: Floats, b: Floats) -> Interval:
    """Efron's bias-corrected and accelerated bootstrap over documents."""
    ratios, value = _bootstrap_ratios(a, b), a.sum() / b.sum()
    left_out = (a.sum() - a) / (b.sum() - b)
    skew = left_out.mean() - left_out
    acceleration = np.sum(skew**3) / (6 * np.sum(skew**2) ** 1.5)
    bias = special.ndtri(np.mean(ratios < value))
    z = bias + special.ndtri(np.array([0.025, 0.975]))
    low, high = np.quantile(ratios, special.ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


def _bounds(made: Estimate) -> Interval | None:
    return None if made.low is None or made.high is None else (made.low, made.high)


def ratio_intervals(
    rng: np.random.Generator, num_documents: int, methods: Sequence[str] = RATIO_METHODS
) -> dict[str, Interval | None]:
    """The interval of each method from one data set."""
    numerator, denominator, documents = draw_documents(rng, num_documents)
    a, b = stats.cluster_sums((numerator, denominator), documents)

    def jackknife() -> Interval:
        half = stats.jackknife_half_width(a, b)
        return a.sum() / b.sum() - half, a.sum() / b.sum() + half

    makers: dict[str, Callable[[], Interval | None]] = {
        "ttbench": lambda: _bounds(stats.estimate_ratio(numerator, denominator, clusters=documents, draws=2000)),
        "jackknife t": jackknife,
        "percentile": lambda: percentile(a, b),
        "BCa": lambda: bca(a, b),
        "windows as independent": lambda: _bounds(stats.estimate_ratio(numerator, denominator, draws=2000)),
    }
    return {method: makers[method]() for method in methods}


def ratio_coverage(
    num_documents: int, *, data_sets: int, seed: int, methods: Sequence[str] = RATIO_METHODS
) -> dict[str, float | None]:
    """Share of data sets whose interval holds the true rate; None where a method gives no interval."""
    rng = np.random.default_rng([seed, num_documents])
    numerator, denominator, _ = draw_documents(np.random.default_rng(seed), 1_000_000)
    truth = numerator.sum() / denominator.sum()
    hits: dict[str, list[bool]] = {method: [] for method in methods}
    for _ in range(data_sets):
        for method, interval in ratio_intervals(rng, num_documents, methods).items():
            if interval is not None:
                hits[method].append(interval[0] <= truth <= interval[1])
    return {method: float(np.mean(found)) if found else None for method, found in hits.items()}


def draw_trials(
    rng: np.random.Generator, num_haystacks: int, *, share: float, alike: float, depths: int = 5
) -> tuple[Floats, np.ndarray]:
    """Hits of `depths` trials in each haystack, whose correlation within a haystack is `alike`."""
    if alike == 0:
        rates = np.full(num_haystacks, share)
    elif alike == 1:
        rates = (rng.random(num_haystacks) < share).astype(float)
    else:
        rates = rng.beta(share * (1 / alike - 1), (1 - share) * (1 / alike - 1), num_haystacks)
    labels = np.repeat(np.arange(num_haystacks), depths)
    return (rng.random(len(labels)) < rates[labels]).astype(np.float64), labels


def proportion_coverage(num_haystacks: int, *, alike: float, data_sets: int, seed: int) -> tuple[float, float]:
    """Coverage of the clustered and of the plain Wilson interval, averaged over true shares from 0.05 to 0.95."""
    rng = np.random.default_rng([seed, num_haystacks, int(100 * alike)])
    hits: list[tuple[bool, bool]] = []
    for share in (0.05, 0.2, 0.5, 0.8, 0.95):
        for _ in range(data_sets // 5):
            trials, labels = draw_trials(rng, num_haystacks, share=share, alike=alike)
            clustered = _bounds(stats.estimate_proportion(trials, clusters=labels)) or (0.0, 1.0)
            low, high = stats.wilson(trials.sum(), len(trials))
            hits.append((clustered[0] <= share <= clustered[1], low <= share <= high))
    clustered_share, plain_share = np.mean(hits, axis=0)
    return float(clustered_share), float(plain_share)


def median_coverage(num_rounds: int, *, data_sets: int, seed: int) -> float:
    """Coverage for times that spread log-normally by 5 %, with one round in ten slowed by up to a third."""
    rng = np.random.default_rng([seed, num_rounds])

    def draw(size: int) -> Floats:
        return np.exp(rng.normal(0, 0.05, size) + (rng.random(size) < 0.1) * rng.uniform(0, 0.3, size))

    truth = float(np.median(draw(1_000_000)))
    found = [_bounds(stats.estimate_median(draw(num_rounds))) for _ in range(data_sets)]
    return float(np.mean([interval is not None and interval[0] <= truth <= interval[1] for interval in found]))


def false_alarms(num_documents: int, *, data_sets: int, seed: int) -> tuple[float, float]:
    """How often two equal checkpoints are told apart, by the interval of their difference and by the sign-flip test."""
    rng = np.random.default_rng([seed, num_documents, 7])
    alarms = []
    for _ in range(data_sets):
        numerator, denominator, documents = draw_documents(rng, num_documents)
        size = len(numerator)
        a, b = (numerator * np.exp(rng.normal(0, 0.03, size) + rng.standard_t(3, size) / 50) for _ in range(2))
        made = _bounds(stats.paired_difference(a, b, denominator, clusters=documents))
        outside = made is not None and not made[0] <= 0 <= made[1]
        alarms.append((outside, stats.sign_flip_test(a - b, clusters=documents) < 0.05))
    by_interval, by_test = np.mean(alarms, axis=0)
    return float(by_interval), float(by_test)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        return "none" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def main() -> None:
    """Print every table as markdown, for docs/methodology.md."""
    parser = argparse.ArgumentParser(description="Coverage of the intervals of ttbench.stats, by simulation.")
    parser.add_argument("--data-sets", type=int, default=2000, help="data sets for each number (default 2000)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data_sets, seed = int(options.data_sets), int(options.seed)
    print(f"Coverage of 95% intervals of a ratio of sums, {data_sets} data sets:\n")
    rows = [[num, *ratio_coverage(num, data_sets=data_sets, seed=seed).values()] for num in NUM_CLUSTERS]
    print(_markdown(["documents", *RATIO_METHODS], rows), "\n")
    print("Coverage for shares of hits, 5 trials in each haystack:\n")
    cases = [(num, alike) for num in NUM_CLUSTERS for alike in (0.0, 0.3, 1.0)]
    rows = [
        [num, f"{alike:g}", *proportion_coverage(num, alike=alike, data_sets=data_sets, seed=seed)]
        for num, alike in cases
    ]
    print(_markdown(["haystacks", "correlation within", "clustered Wilson", "plain Wilson"], rows), "\n")
    print("Coverage for the median of rounds:\n")
    rows = [[num, median_coverage(num, data_sets=data_sets, seed=seed)] for num in (3, 5, 6, 10, 20)]
    print(_markdown(["rounds", "ttbench"], rows), "\n")
    print("A checkpoint against itself, how often a difference is called:\n")
    rows = [[num, *false_alarms(num, data_sets=data_sets, seed=seed)] for num in (10, 20, 30, 60)]
    print(_markdown(["documents", "interval leaves out 0", "sign-flip p < 0.05"], rows))


if __name__ == "__main__":
    main()
