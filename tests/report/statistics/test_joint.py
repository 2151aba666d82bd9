"""Families judged together, against loops that follow the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ttbench.report.statistics import clusters, joint, stats
from ttbench.report.statistics import coverage as calibration
from ttbench.report.statistics.clusters import Floats


def made_family(
    seed: int, *, num_cells: int = 4, num_documents: int = 24, missing: float = 0.0
) -> tuple[Floats, Floats]:
    """Random sums of a family, skewed, with lengths that differ and cells that lack documents."""
    rng = np.random.default_rng(seed)
    shared = np.exp(0.8 * rng.standard_normal(num_documents)) - np.exp(0.32)
    own = rng.standard_normal((num_cells, num_documents))
    denominators = rng.integers(100, 2000, (num_cells, num_documents)) * (
        rng.random((num_cells, num_documents)) >= missing
    )
    return (shared + own + rng.normal(0, 0.5, (num_cells, 1))) * denominators, denominators.astype(float)


def by_the_definition(differences: Floats) -> list[float]:
    """p of max-t from every pattern of signs, one document and one cell after the other."""
    num_documents = differences.shape[1]
    norms = [math.sqrt(sum(d * d for d in cell)) for cell in differences]

    def size(cell: int, signs: tuple[int, ...]) -> float:
        flipped = sum(sign * d for sign, d in zip(signs, differences[cell], strict=True))
        return abs(flipped) / norms[cell] if norms[cell] else 0.0

    patterns = list(itertools.product((1, -1), repeat=num_documents))
    highest = [max(size(cell, signs) for cell in range(len(differences))) for signs in patterns]
    observed = [size(cell, (1,) * num_documents) for cell in range(len(differences))]
    return [
        1.0 if not norms[cell] else sum(one >= observed[cell] - 1e-9 for one in highest) / len(patterns)
        for cell in range(len(differences))
    ]


@pytest.mark.parametrize("missing", [0.0, 0.4], ids=["same documents", "other documents"])
def test_max_t_is_the_share_of_sign_patterns_under_which_some_cell_lies_as_far(missing: float) -> None:
    differences, _ = made_family(3, num_cells=3, num_documents=8, missing=missing)
    differences[1] *= 1000  # the unit of a cell does not matter
    assert joint.max_t(differences, seed=0) == pytest.approx(by_the_definition(differences))


def test_a_cell_alone_has_the_p_of_its_own_sign_flips_and_one_of_equal_sides_has_none() -> None:
    differences, _ = made_family(5, num_cells=1, num_documents=11)
    assert joint.max_t(differences, seed=1)[0] == clusters.sign_flip_test(differences[0])
    both = np.concatenate([differences, np.zeros_like(differences)])
    assert joint.max_t(both, seed=1).tolist() == [clusters.sign_flip_test(differences[0]), 1.0]
    assert joint.max_t(np.zeros((2, 30)), seed=1).tolist() == [1.0, 1.0]


def test_the_same_cell_many_times_costs_nothing_and_unlike_cells_do() -> None:
    differences, _ = made_family(7, num_cells=1, num_documents=30)
    alone = joint.max_t(differences, seed=2)[0]
    assert joint.max_t(np.repeat(differences, 9, axis=0), seed=2) == pytest.approx(np.full(9, alone))
    rng = np.random.default_rng(0)
    among = joint.max_t(np.concatenate([differences, rng.standard_normal((40, 30))]), seed=2)[0]
    assert among > alone


@pytest.mark.parametrize("missing", [0.0, 0.3], ids=["same documents", "other documents"])
def test_the_band_is_that_of_resamples_drawn_one_after_the_other(missing: float) -> None:
    differences, denominators = made_family(11, missing=missing, num_documents=34)
    low, high, _ = joint.band(differences, denominators, seed=4, level=0.9, draws=399)
    counts = clusters.resamples(34, seed=4, draws=399)
    estimates, errors, turned = [], [], []
    for d, w in zip(differences, denominators, strict=True):
        side = 1 if d.sum() >= 0 else -1
        value = side * d.sum() / w.sum()
        residual = side * d - value * w
        errors.append(math.sqrt(sum(r * r / (1 - one / w.sum()) for r, one in zip(residual, w, strict=True))) / w.sum())
        estimates.append(value)
        turned.append(side)
    highest, lowest = [], []
    for count in counts:
        away = []
        for d, w, value, side in zip(differences, denominators, estimates, turned, strict=True):
            num = np.count_nonzero(w)
            rate = side * (count @ d) / (count @ w)
            variance = num / (num - 1) * (count @ (side * d - rate * w) ** 2) / (count @ w) ** 2
            away.append((rate - value) / math.sqrt(variance))
        highest.append(max(away))
        lowest.append(min(away))
    # the twentieth of 399 from either end: five of a hundred beyond each
    upper, lower = sorted(highest)[-20], sorted(lowest)[19]
    for index, (value, error, side) in enumerate(zip(estimates, errors, turned, strict=True)):
        ends = sorted(side * (value - error * end) for end in (upper, lower))
        assert [low[index], high[index]] == pytest.approx(ends, rel=1e-9)


def test_documents_that_all_differ_alike_have_a_band_without_width() -> None:
    denominators = np.tile(np.arange(1.0, 25.0), (2, 1))
    differences = np.stack([0.25 * denominators[0], 0 * denominators[0]])
    low, high, width = joint.band(differences, denominators, seed=0, level=0.95)
    assert (low.tolist(), high.tolist(), width) == ([0.25, 0.0], [0.25, 0.0], 0.0)
    other, weights = made_family(1, num_cells=1)
    both = joint.band(np.r_[differences, other], np.r_[denominators, weights], seed=0, level=0.95)
    assert (both[0][0], both[1][0]) == (0.25, 0.25)
    assert both[0][2] < other.sum() / weights.sum() < both[1][2]


@pytest.mark.parametrize("num_documents", [12, 24, 60])
@pytest.mark.parametrize("seed", range(4))
def test_swapping_sides_mirrors_every_bit_and_the_order_of_cells_and_documents_moves_none(
    seed: int, num_documents: int
) -> None:
    differences, denominators = made_family(seed, num_documents=num_documents, missing=0.1 if num_documents > 24 else 0)
    names = [f"document {index}" for index in range(num_documents)]
    rng = np.random.default_rng(seed)
    cells, documents = rng.permutation(len(differences)), rng.permutation(num_documents)
    turned = np.where(rng.random(len(differences)) < 0.5, -1.0, 1.0)

    def judged(d: Floats, w: Floats, labels: list[str]) -> joint.Judged:
        sums = [
            {label: (x, y) for label, x, y in zip(labels, a, b, strict=True) if y}
            for a, b in zip(d.tolist(), w.tolist(), strict=True)
        ]
        made, over, own = joint.union(sums)
        return joint.judge(made, over, seed=own, level=0.95)

    one = judged(differences, denominators, names)
    two = judged(
        (differences * turned[:, None])[cells][:, documents],
        denominators[cells][:, documents],
        [names[index] for index in documents],
    )
    for place, cell in enumerate(cells):
        ends = (two.low[place], two.high[place])
        assert (one.low[cell], one.high[cell]) == (ends if turned[cell] > 0 else (-ends[1], -ends[0]))
        assert (one.p[cell], one.level[cell]) == (two.p[place], two.level[place])


def test_holm_multiplies_the_smallest_by_all_and_never_lets_a_later_one_pass_before_it() -> None:
    assert joint.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert joint.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert joint.holm([]).tolist() == []


def test_each_step_is_judged_among_those_that_are_left() -> None:
    limits = {0: 0.04, 1: 0.011, 2: 0.012, 3: 0.03}  # own p of each cell
    asked: list[tuple[int, float]] = []

    def is_shown(index: int, level: float) -> bool:
        asked.append((index, round(1 - level, 6)))
        return limits[index] <= 1 - level

    levels = joint.steps([limits[i] for i in range(4)], [(0.0,)] * 4, is_shown, level=0.95)
    # 0.011 among four passes; 0.012 among three; 0.03 among two does not, and then 0.04 has no easier border
    assert asked == [(1, 0.0125), (2, 0.016667), (3, 0.025), (0, 0.025)]
    assert levels == pytest.approx([0.975, 0.9875, 1 - 0.05 / 3, 0.975])


def test_twenty_documents_have_a_band_and_nineteen_in_one_cell_have_steps_for_all() -> None:
    differences, denominators = made_family(2, num_documents=20)
    assert joint.judge(differences, denominators, seed=0, level=0.95).method == joint.BAND
    denominators[0, 0] = differences[0, 0] = 0
    judged = joint.judge(differences, denominators, seed=0, level=0.95)
    assert judged.method == clusters.METHOD
    assert judged.p == pytest.approx(joint.holm([clusters.sign_flip_test(cell) for cell in differences]))


def test_a_planted_effect_is_found_among_equal_cells() -> None:
    rng = np.random.default_rng(8)
    differences = rng.standard_normal((12, 40))
    differences[5] += 1.5
    judged = joint.judge(differences, np.ones_like(differences), seed=0, level=0.95)
    shown = (judged.p < 0.05) & ~((judged.low <= 0) & (judged.high >= 0))
    assert np.flatnonzero(shown).tolist() == [5]
    assert judged.low[5] < 1.5 < judged.high[5]


def test_equal_checkpoints_rarely_have_a_verdict_where_intervals_of_their_own_often_do() -> None:
    case = {"documents": "log-normal 0.8", "alike": 0.5, "clusters": 20, "checkpoints": 3, "contexts": 3}
    found = calibration.run("verdicts", case, data_sets=30, seed=3)
    # 0.07 of 30 are 2.1: six or more happen in about one of sixty
    assert found["false verdicts"] < 6 / 30
    alone = []
    rng = np.random.default_rng(3)
    for _ in range(20):
        cells = calibration.SHAPES["normal"].draw(rng, (24, 20))
        low, high = clusters.ratio_intervals(cells, np.ones_like(cells), seed=0, level=stats.LEVEL)
        alone.append(((low > 0) | (high < 0)).any())
    assert np.mean(alone) > 0.4
