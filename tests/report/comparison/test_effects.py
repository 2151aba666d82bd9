"""What judges a point of a comparison: the interval that is printed, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from rows import TRANSFORMER, TTT, make_rows, perplexity_rows, timing_rows

from ttbench.report import words
from ttbench.report.comparison.compare import compare
from ttbench.report.comparison.effects import Effect, Ready, effect_of, least_to_be_shown, verdict_of
from ttbench.report.comparison.pairing import Shared
from ttbench.report.statistics.stats import Estimate
from ttbench.tasks.latency import Latency
from ttbench.types import Metric


def effect(kind: str, value: float, ends: tuple[float, float] | None, *, p: float | None = None) -> Effect:
    low, high = ends or (None, None)
    made = Estimate(value=value, low=low, high=high, method="any", num_clusters=20)
    return Effect(kind=kind, estimate=made, value_a=1.0, value_b=1.0, num_pairs=20, p=p)


def metric(better: Any = "lower") -> Metric:
    return Metric(name="m", label="m", unit="1", better=better, statistic="ratio", numerator="x", smallest_effect=0.1)


@pytest.mark.parametrize("p", [None, 0.0001, 0.9999])
@pytest.mark.parametrize(
    ("kind", "value", "ends", "lower_is_better", "higher_is_better"),
    [
        ("difference", -0.5, (-0.7, -0.3), "a better", "b better"),
        ("difference", 0.5, (0.3, 0.7), "b better", "a better"),
        ("difference", 0.5, (-0.01, 1.01), "no difference shown", "no difference shown"),
        ("difference", -0.5, (-1.01, 0.01), "no difference shown", "no difference shown"),
        # an end that is none does not leave it out
        ("difference", 0.5, (0.0, 1.0), "no difference shown", "no difference shown"),
        ("difference", -0.5, (-1.0, 0.0), "no difference shown", "no difference shown"),
        ("difference", 0.5, None, "not judged", "not judged"),
        ("difference", 0.09, (0.05, 0.13), "smaller than matters", "smaller than matters"),
        ("difference", -0.09, (-0.13, -0.05), "smaller than matters", "smaller than matters"),
        ("difference", 0.1, (0.05, 0.15), "b better", "a better"),
        # none of a ratio is 1, and 1 / 1.12 is as far from it as 1.12
        ("ratio", 0.5, (0.4, 0.7), "a better", "b better"),
        ("ratio", 2.0, (1.4, 2.5), "b better", "a better"),
        ("ratio", 2.0, (0.9, 4.0), "no difference shown", "no difference shown"),
        ("ratio", 1.09, (1.05, 1.13), "smaller than matters", "smaller than matters"),
        ("ratio", 1 / 1.09, (1 / 1.13, 1 / 1.05), "smaller than matters", "smaller than matters"),
        ("ratio", 1 / 1.12, (1 / 1.13, 1 / 1.05), "a better", "b better"),
    ],
)
def test_the_interval_alone_says_whether_a_difference_is_shown(
    kind: str, value: float, ends: tuple[float, float] | None, lower_is_better: str, higher_is_better: str, p: float
) -> None:
    found = effect(kind, value, ends, p=p)
    assert verdict_of(metric("lower"), found) == lower_is_better
    assert verdict_of(metric("higher"), found) == higher_is_better


def test_the_smallest_difference_that_would_be_shown_is_worked_out_from_the_width() -> None:
    # of a normal number with half width h = 1.959964 s, four in five lie beyond h where the truth is h + 0.841621 s
    assert least_to_be_shown(effect("difference", 5, (4, 6)), level=0.95) == pytest.approx(1.429406, rel=1e-6)
    assert least_to_be_shown(effect("ratio", 5, (2, 8)), level=0.95) == pytest.approx(2**1.429406, rel=1e-6)
    # at 99 % h is 2.575829 s
    assert least_to_be_shown(effect("difference", 5, (4, 6)), level=0.99) == pytest.approx(1.326738, rel=1e-6)
    assert least_to_be_shown(effect("difference", 5, None), level=0.95) is None


def timings(times: dict[str, list[float]], contexts: list[int]) -> Any:
    """Rows of `latency`: seconds of each round's one prefill, by checkpoint, the same at every context."""
    records = []
    for name, rounds in times.items():
        shared = timing_rows([dataclasses.replace(TTT, name=name)], contexts, num_rounds=len(rounds), repeats=1)
        mine = (row for row in shared if row.get("phase") == "prefill" and row["task"] == "latency")
        records += [row | {"call_s": rounds[row["round"]], "wall_s": rounds[row["round"]]} for row in mine]
    return make_rows(records, metrics={"latency": [one for one in Latency.metrics if one.name == "prefill_s"]})


@pytest.mark.parametrize(
    ("num_points", "quantile", "verdict"),
    # Student's t with 2 degrees of freedom at 97.5 % and, of five points at 99 % each, at 99.5 %
    [(1, 4.302653, "b better"), (5, 9.924843, "no difference shown")],
)
def test_a_point_is_judged_by_the_interval_of_its_family_whatever_its_own_p(
    num_points: int, quantile: float, verdict: str
) -> None:
    # ratios of three rounds whose logarithms are 2, 3 and 4 times 0.35: mean 1.05, standard error 0.35 / sqrt(3)
    rows = timings(
        {"one": [math.exp(0.7), math.exp(1.05), math.exp(1.4)], "two": [1.0, 1.0, 1.0]},
        [512 << power for power in range(num_points)],
    )
    found = words.records(compare(rows, "one", "two"))
    assert len(found) == num_points
    half = quantile * 0.35 / math.sqrt(3)
    for entry in found:
        assert entry["effect"] == pytest.approx(math.exp(1.05))
        assert (entry["low"], entry["high"]) == pytest.approx((math.exp(1.05 - half), math.exp(1.05 + half)), rel=1e-5)
        # with 2 degrees of freedom, p of t is 1 - t / sqrt(2 + t^2); here t = 3 sqrt(3)
        assert entry["p"] == pytest.approx(1 - math.sqrt(27 / 29), rel=1e-9)
        assert entry["verdict"] == verdict


def test_a_difference_that_one_document_makes_is_not_shown() -> None:
    twin = dataclasses.replace(TRANSFORMER, name="twin")
    rows: Any = make_rows(perplexity_rows([TRANSFORMER, twin], [512], noise=0.001, windows=1))
    at = (rows["checkpoint"] == "twin") & (rows["document"] == "doc003")
    rows.loc[at, "nats"] += 100.0
    (bits,) = (
        entry for entry in words.records(compare(rows, "twin", "transformer")) if entry["metric"] == "bits_per_byte"
    )
    # 100 nats on 34 windows of 256 bytes
    assert bits["effect"] == pytest.approx(100 / math.log(2) / (34 * 256), abs=1e-3)
    assert bits["low"] is None or bits["low"] <= 0 <= bits["high"]
    assert bits["verdict"] in ("no difference shown", "not judged")
    assert not np.isnan(bits["effect"])


@pytest.mark.parametrize(("statistic", "method"), [("count", "exact"), ("max", "none")])
def test_the_highest_of_each_side_are_divided_and_only_a_count_is_exact(statistic: Any, method: str) -> None:
    # 12 and 3 in a unit of 2: 24 and 6
    counted = dataclasses.replace(metric(), statistic=statistic, scale=2.0)
    a, b = np.array([9.0, 12.0, 1.0]), np.array([3.0, 2.0, 2.0])
    found = effect_of(
        Ready(metric=counted, targets=Shared(a=a, b=b, denominator=np.ones(3), clusters=None, units="xyz")), level=0.95
    )
    assert (found.value_a, found.value_b, found.estimate.value, found.kind) == (24, 6, 4, "ratio")
    assert (found.estimate.method, found.estimate.low, found.p, found.num_pairs) == (method, None, None, 3)
    assert verdict_of(counted, found) == ("b better" if statistic == "count" else "not judged")
