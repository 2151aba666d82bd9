"""Comparisons that are judged together: what belongs to a family, and what must not touch it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ttbench.report.comparison.effects import Effect, Ready, least_to_be_shown, verdict_of
from ttbench.report.comparison.families import judge
from ttbench.report.comparison.pairing import Shared
from ttbench.tasks.memory import Memory
from ttbench.types import Metric

WON = ("a better", "b better")
BITS = Metric(name="m", label="m", unit="bit", better="lower", statistic="ratio", numerator="x", cluster="document")
HITS = dataclasses.replace(BITS, better="higher", statistic="proportion", cluster="trial")


def of_documents(a: np.ndarray, b: np.ndarray, metric: Metric = BITS) -> Ready:
    """A comparison over documents of one unit each."""
    names = np.array([f"d{index}" for index in range(len(a))])
    shared = Shared(a=a, b=b, denominator=np.ones(len(a)), clusters=names, units=tuple(names.tolist()))
    return Ready(metric=metric, targets=shared)


def verdicts(family: list[Ready]) -> list[str]:
    return [verdict_of(cell.metric, effect) for cell, effect in zip(family, judge(family), strict=True)]


def ends(effect: Effect) -> tuple[float | None, float | None]:
    return effect.estimate.low, effect.estimate.high


@pytest.mark.parametrize("name", ["peak_rss_bytes", "prefill_peak_bytes"])
def test_peaks_of_memory_are_a_family_like_any_rounds(name: str) -> None:
    """Equal checkpoints: five of them at seven contexts with three rounds have 70 comparisons of each metric."""
    metric = next(metric for metric in Memory.metrics if metric.name == name)
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(40):
        peaks = 3e8 * np.exp(0.03 * rng.standard_normal((5, 7, 3)))
        family = [
            Ready(metric=metric, rounds=(peaks[one, place].tolist(), peaks[two, place].tolist()))
            for one, two in itertools.combinations(range(5), 2)
            for place in range(7)
        ]
        judged = judge(family)
        assert {effect.num_points for effect in judged} == {70}
        assert all(effect.joint_p is not None and effect.level is not None for effect in judged)
        wrong += any(verdict_of(metric, effect) in WON for effect in judged)
    # 5 of 100 by promise; judged one by one nearly all of them had some
    assert wrong <= 8


def test_what_differs_in_few_documents_is_not_judged_and_widens_no_other() -> None:
    rng = np.random.default_rng(1)
    one, two = 1.2 + 0.05 * rng.standard_normal(34), 1.5 + 0.05 * rng.standard_normal(34)
    edited = two.copy()
    edited[[3, 17, 30]] += 0.2
    alone = [of_documents(one, two)]
    family = [*alone, of_documents(two, edited)]
    assert verdicts(family) == ["a better", "not judged"]
    (before,), (after, few) = judge(alone), judge(family)
    assert ends(before) == ends(after)
    assert (before.num_points, after.num_points, few.num_points) == (1, 1, None)
    assert ends(few) == (None, None)
    assert few.estimate.reason == "3 of 34 documents differ; an interval needs 10 that do"
    assert few.estimate.value == pytest.approx(-0.6 / 34)


@pytest.mark.parametrize(("number", "verdict"), [(9, "not judged"), (10, "a better")])
def test_ten_documents_that_differ_are_enough(number: int, verdict: str) -> None:
    one = np.full(40, 1.0)
    two = one.copy()
    two[:number] += np.linspace(0.2, 0.4, number)
    assert verdicts([of_documents(one, two)]) == [verdict]


def test_sides_that_are_equal_everywhere_have_an_interval_without_width_and_widen_no_other() -> None:
    rng = np.random.default_rng(2)
    one, two = 1.2 + 0.05 * rng.standard_normal(30), 1.5 + 0.05 * rng.standard_normal(30)
    (alone,) = judge([of_documents(one, two)])
    first, equal = judge([of_documents(one, two), of_documents(one, one)])
    assert ends(equal) == (0.0, 0.0)
    assert ends(first) == ends(alone)


def test_an_interval_that_no_number_holds_is_not_judged_whichever_side_is_first() -> None:
    """Perplexities of twelve documents that differ by hundreds of nats a token."""
    metric = dataclasses.replace(BITS, statistic="exp_ratio")
    one, two = np.random.default_rng(5).normal(250, 900, 12), np.zeros(12)
    for cell in (of_documents(one, two, metric), of_documents(two, one, metric)):
        (effect,) = judge([cell])
        assert (ends(effect), verdict_of(metric, effect)) == ((None, None), "not judged")
        assert str(effect.estimate.reason).endswith("is too wide to be told")
        assert least_to_be_shown(effect, level=0.95) is None


def test_five_haystacks_can_show_nothing_and_six_can() -> None:
    for number, verdict, reason in ((5, "not judged", "5 trials; a comparison needs 6"), (6, "a better", None)):
        cell = of_documents(np.ones(number), np.zeros(number), HITS)
        (effect,) = judge([cell])
        assert (verdict_of(HITS, effect), effect.estimate.reason) == (verdict, reason)


def test_a_large_family_of_few_documents_can_still_show_what_all_of_them_say() -> None:
    """All 32,768 sign patterns of 16 documents are tried, so 520 comparisons leave a p of 0.016."""
    rng = np.random.default_rng(3)
    assert set(verdicts([of_documents(np.zeros(16), 5 + rng.random(16))] * 520)) == {"a better"}


def test_a_reason_names_what_was_tried() -> None:
    """Of 17 documents ten thousand sign patterns are tried, not all, so no p is below 1 in 10,000."""
    rng = np.random.default_rng(4)
    cell = of_documents(np.zeros(17), 5 + rng.random(17))
    found = judge([cell] * 600)
    assert verdict_of(BITS, found[0]) == "not judged"
    assert str(found[0].estimate.reason).startswith("17 documents cannot bear 99.99")
    assert "differ" not in str(found[0].estimate.reason)
