"""Where one checkpoint overtakes another, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rows import Model, make_rows, timing_rows

from ttbench.report.head_to_head.crossings import Crossing, crossings, sentences, tokens
from ttbench.report.head_to_head.verdicts import head_to_head


def point(context_len: int, effect: float, low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    """A comparison of the times of one and two, whose interval is judged alone."""
    verdict = "no difference shown"
    if low is not None and high is not None and (high < 1 or low > 1):
        verdict = "a better" if high < 1 else "b better"
    base = {"task": "t", "metric": "m", "label": "prefill", "unit": "s", "better": "lower", "statistic": "median"}
    base |= {"a": "one", "b": "two", "axes": "context_len", "restates": None, "kind": "ratio", "method": "log t"}
    return base | {"context_len": context_len, "effect": effect, "low": low, "high": high, "verdict": verdict} | more


def found_in(*points: dict[str, Any]) -> list[Crossing]:
    return list(crossings(points))


def test_the_crossing_and_its_interval_are_those_of_straight_lines_over_the_logarithm() -> None:
    # logarithms of the effect: -2 at 1k and 2 at 16k, with intervals of half width 1; none is reached half-way, at 4k
    e = math.e
    (one,) = found_in(point(1024, e**-2, e**-3, e**-1), point(16384, e**2, e**1, e**3))
    assert (one.first, one.then, one.exact) == ("one", "two", False)
    assert one.context_len == pytest.approx(4096)
    # the upper line goes from -1 to 3: a quarter of the way, 2k; the lower from -3 to 1: three quarters, 8k
    assert (one.low, one.high) == (pytest.approx(2048), pytest.approx(8192))
    assert sentences([one]) == ["two is faster than one from 4k tokens (95% interval 2k to 8k; prefill)."]


@pytest.mark.parametrize(("sd", "crosses"), [(None, True), (0.001, True), (0.003, False)])
def test_leads_that_training_noise_could_make_are_no_crossing_however_small(sd: float | None, crosses: bool) -> None:
    """Both leads are shown and smaller than matters; twice a noise of 0.003 reaches further than they do."""
    bits = {"kind": "difference", "statistic": "ratio", "unit": "bit/byte", "verdict": "smaller than matters"}
    points = [
        point(at, lead, lead - 1e-4, lead + 1e-4, **bits, training_sd=sd) for at, lead in ((512, -0.004), (2048, 0.004))
    ]
    (one,) = found_in(*points)
    assert (one.context_len is not None) == crosses


def test_sides_that_are_swapped_cross_at_the_same_place() -> None:
    points = [point(1024, 0.5, 0.4, 0.7), point(2048, 0.9, 0.7, 1.2), point(4096, 1.6, 1.3, 2.0)]
    turned = [
        point(p["context_len"], 1 / p["effect"], 1 / p["high"], 1 / p["low"]) | {"a": "two", "b": "one"} for p in points
    ]
    (one,), (two,) = found_in(*points), found_in(*turned)
    assert (two.first, two.then) == (one.first, one.then) == ("one", "two")
    assert (two.context_len, two.low, two.high) == pytest.approx((one.context_len, one.low, one.high))
    assert one.low is not None
    assert one.high is not None
    assert 1024 < one.low < 2048 < one.high < 4096


@pytest.mark.parametrize(
    "points",
    [
        [point(1024, 0.5, 0.4, 0.7), point(4096, 1.6, 0.9, 2.0)],
        [point(1024, 0.9, 0.8, 1.1), point(4096, 1.6, 1.3, 2.0)],
        [point(1024, 0.5, 0.4, 0.7), point(4096, 0.6, 0.5, 0.7)],
        [point(1024, 0.5, None, None), point(4096, 1.6, None, None)],
    ],
    ids=["not shown after", "not shown before", "one side", "no intervals"],
)
def test_without_opposite_signs_shown_no_crossing_is_told(points: list[dict[str, Any]]) -> None:
    (one,) = found_in(*points)
    assert (one.context_len, one.low, one.high) == (None, None, None)
    assert sentences([one]) == ["prefill: no crossing shown from 1k to 4k (one and two)."]


def test_one_that_leads_in_the_middle_crosses_twice() -> None:
    found = found_in(point(256, 0.5, 0.4, 0.6), point(1024, 2.0, 1.8, 2.2), point(4096, 0.5, 0.4, 0.6))
    assert [(one.first, one.then) for one in found] == [("one", "two"), ("two", "one")]
    assert found[0].context_len == pytest.approx(512)
    assert found[1].context_len == pytest.approx(2048)


def test_counts_cross_between_two_contexts_without_an_interval() -> None:
    exact = {"method": "exact", "label": "state", "unit": "bytes", "statistic": "count"}
    (one,) = found_in(
        point(1024, 0.25, None, None, **exact, verdict="a better"),
        point(4096, 4.0, None, None, **exact, verdict="b better"),
    )
    assert (one.low, one.high, one.exact) == (1024, 4096, True)
    assert one.context_len == pytest.approx(2048)
    (said,) = sentences([one])
    assert said.startswith("two is smaller than one from 2")
    assert "(counted: between 1k and 4k; state)." in said


def test_what_is_not_comparable_or_alone_at_one_context_says_nothing() -> None:
    assert found_in(point(1024, 0.5, 0.4, 0.7)) == []
    lost = point(4096, 1.6, 1.3, 2.0) | {"verdict": "not comparable", "effect": None, "low": None, "high": None}
    assert found_in(point(1024, 0.5, 0.4, 0.7), lost) == []


def test_a_planted_crossing_is_found_within_its_interval() -> None:
    rng = np.random.default_rng(4)
    records = []
    for name, growth in (("steady", 1.0), ("steep", 2.0)):
        for row in timing_rows([Model(name=name)], [1024, 2048, 4096, 8192, 16384], num_rounds=8, repeats=1):
            if row.get("phase") == "prefill" and row["task"] == "latency":
                # both need 1 s at 6,000 tokens, and what grows with the square is slower from there on
                seconds = (row["context_len"] / 6000) ** growth * math.exp(0.02 * rng.standard_normal())
                records.append(row | {"call_s": seconds, "wall_s": seconds})
    found = head_to_head(make_rows(records))
    (one,) = (each for each in found.crossings if each.metric == "prefill_s")
    assert (one.first, one.then) == ("steep", "steady")
    assert one.low is not None
    assert one.high is not None
    assert one.context_len is not None
    assert one.low < 6000 < one.high
    assert one.low < one.context_len < one.high < one.low * 1.3
    (said,) = (text for text in sentences(found.crossings) if "prefill" in text)
    assert said.startswith("steady is faster than steep from 5.") or said.startswith(
        "steady is faster than steep from 6."
    )


def test_lengths_that_were_not_measured_have_two_digits() -> None:
    assert [tokens(number) for number in (512.0, 300.4, 6200.0, 6246.4, 1048576.0, 1.5e6 + 0.5)] == [
        "512",
        "300",
        "6200",
        "6.1k",
        "1m",
        "1.4m",
    ]
