"""Intervals hold the truth as often as they say, and nothing shrinks them that is not evidence."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from ttbench import stats
from ttbench.report import coverage

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("num_documents", "least", "most"), [(10, 0.92, 0.98), (20, 0.92, 0.98), (30, 0.93, 0.97), (60, 0.93, 0.97)]
)
def test_the_interval_of_a_ratio_holds_the_truth_about_95_times_in_100(
    num_documents: int, least: float, most: float
) -> None:
    found = coverage.ratio_coverage(num_documents, data_sets=2000, seed=0, methods=["ttbench"])["ttbench"]
    # 2,000 data sets: the standard error is half a point
    assert found is not None
    assert least <= found <= most
    assert found == pytest.approx(printed_coverage()[num_documents], abs=0.002)


def printed_coverage() -> dict[int, float | None]:
    """Documents -> coverage of ttbench's interval, as docs/methodology.md prints it."""
    text = (Path(__file__).parents[1] / "docs/methodology.md").read_text()
    table = text.partition("| documents | ttbench |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {int(row[0]): None if row[1] == "none" else float(row[1]) for row in rows}


def test_below_10_documents_there_is_no_interval_and_the_page_says_so() -> None:
    assert coverage.ratio_coverage(5, data_sets=20, seed=0, methods=["ttbench"])["ttbench"] is None
    assert printed_coverage()[5] is None
    assert list(printed_coverage()) == list(coverage.NUM_CLUSTERS) == [5, 10, 20, 30, 60]


def test_windows_taken_for_independent_would_make_the_interval_lie() -> None:
    found = coverage.ratio_coverage(30, data_sets=150, seed=1, methods=["windows as independent"])
    assert (found["windows as independent"] or 1.0) < 0.85


@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0])
def test_the_clustered_wilson_interval_holds_the_truth_whatever_the_correlation(alike: float) -> None:
    clustered, plain = coverage.proportion_coverage(20, alike=alike, data_sets=500, seed=1)
    assert 0.92 <= clustered <= 1.0
    if alike == 1.0:
        assert plain < 0.85


@pytest.mark.parametrize("num_rounds", [3, 5, 6, 10])
def test_the_interval_of_a_median_holds_the_truth_about_95_times_in_100(num_rounds: int) -> None:
    assert 0.90 <= coverage.median_coverage(num_rounds, data_sets=500, seed=1) <= 1.0


@pytest.mark.parametrize("num_documents", [10, 30])
def test_equal_checkpoints_are_told_apart_at_most_about_5_times_in_100(num_documents: int) -> None:
    by_interval, by_test = coverage.false_alarms(num_documents, data_sets=300, seed=1)
    # two standard errors above 0.05
    assert by_interval <= 0.075
    assert by_test <= 0.075


@pytest.mark.parametrize(
    ("num_documents", "method"), [(9, "none"), (10, "jackknife t"), (29, "jackknife t"), (30, "bootstrap-t")]
)
def test_the_method_follows_the_number_of_documents(num_documents: int, method: str) -> None:
    made = stats.estimate_ratio(RNG.random(num_documents), np.ones(num_documents))
    assert (made.method, made.num_clusters) == (method, num_documents)
    assert (made.low is None) == (made.high is None) == (made.reason is not None) == (method == "none")
    if made.reason is not None:
        assert made.reason == "9 documents; an interval needs 10"


@pytest.mark.parametrize("num_documents", [12, 40])
def test_looking_twice_at_every_document_does_not_shrink_an_interval(num_documents: int) -> None:
    numerator, denominator, documents = coverage.draw_documents(np.random.default_rng(2), num_documents)
    once = stats.estimate_ratio(numerator, denominator, clusters=documents)
    twice = stats.estimate_ratio(
        *(np.tile(column, 2) for column in (numerator, denominator)), clusters=[*documents] * 2
    )
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), rel=1e-9)
    assert twice.num_clusters == num_documents


def test_looking_twice_at_every_trial_does_not_shrink_an_interval() -> None:
    trials, labels = coverage.draw_trials(np.random.default_rng(3), 20, share=0.6, alike=0.4)
    once = stats.estimate_proportion(trials, clusters=labels)
    twice = stats.estimate_proportion(np.tile(trials, 2), clusters=np.tile(labels, 2))
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), rel=1e-9)


@pytest.mark.parametrize("num_documents", [20, 50])
def test_an_interval_depends_on_no_order_and_on_no_unit(num_documents: int) -> None:
    numerator, denominator, documents = coverage.draw_documents(np.random.default_rng(4), num_documents)
    made = stats.estimate_ratio(numerator, denominator, clusters=documents)
    order = np.random.default_rng(0).permutation(len(numerator))
    shuffled = stats.estimate_ratio(numerator[order], denominator[order], clusters=documents[order])
    assert (shuffled.low, shuffled.high) == pytest.approx((made.low, made.high))
    scaled = stats.estimate_ratio(numerator * 7, denominator, clusters=documents)
    assert (scaled.low, scaled.high) == pytest.approx((7 * (made.low or 0), 7 * (made.high or 0)))


def test_equal_documents_give_an_interval_without_width_and_no_warning() -> None:
    made = stats.estimate_ratio(np.full(40, 3.0), np.full(40, 2.0))
    assert (made.value, made.low, made.high) == (1.5, 1.5, 1.5)


def test_one_document_that_is_unlike_39_equal_ones_falls_back_to_the_jackknife() -> None:
    numerator = np.ones(40)
    numerator[7] = 100
    made = stats.estimate_ratio(numerator, np.ones(40))
    assert made.method == "jackknife t"
    assert made.low is not None
    assert made.low < made.value


def test_a_document_that_holds_nearly_everything_widens_the_interval() -> None:
    rates = np.linspace(1, 2, 12)
    even = stats.jackknife_half_width(rates, np.ones(12))
    size = np.r_[np.full(11, 0.01), 10.0]
    assert stats.effective_clusters(size) == pytest.approx(1.02, abs=0.01)
    assert stats.jackknife_half_width(rates * size, size) > 0.02 * even


def test_a_ratio_without_a_denominator_is_refused() -> None:
    with pytest.raises(ValueError, match="positive sum; got 0"):
        stats.estimate_ratio([1.0, 2.0], [0.0, 0.0])


def test_the_same_seed_gives_the_same_interval_and_leaves_the_global_generator_alone() -> None:
    numerator, denominator, documents = coverage.draw_documents(np.random.default_rng(6), 40)
    before = repr(np.random.get_state())
    first, second = (stats.estimate_ratio(numerator, denominator, clusters=documents) for _ in range(2))
    other = stats.estimate_ratio(numerator, denominator, clusters=documents, seed=1)
    assert first == second != other
    assert repr(np.random.get_state()) == before


@pytest.mark.parametrize(
    ("successes", "num_trials", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_those_of_the_literature(successes: int, num_trials: int, low: float, high: float) -> None:
    assert stats.wilson(successes, num_trials) == pytest.approx((low, high), abs=5e-5)


def test_trials_on_their_own_get_plain_wilson() -> None:
    trials = np.r_[np.ones(15), np.zeros(5)]
    made = stats.estimate_proportion(trials, clusters=np.arange(20))
    assert (made.low, made.high, made.method) == (*stats.wilson(15, 20), "Wilson")


def test_when_all_trials_hit_each_haystack_counts_once() -> None:
    made = stats.estimate_proportion(np.ones(100), clusters=np.repeat(np.arange(20), 5))
    assert made.high == 1.0
    assert made.low == pytest.approx(stats.wilson(20, 20)[0], abs=0.02)


def test_few_haystacks_give_a_share_and_the_reason_why_there_is_no_interval() -> None:
    made = stats.estimate_proportion(np.ones(20), clusters=np.repeat(np.arange(4), 5))
    assert (made.value, made.low, made.reason) == (1.0, None, "4 haystacks; an interval needs 5")


def test_ties_count_as_parts_of_a_hit() -> None:
    assert stats.estimate_proportion([0.5, 0.25, 0.0, 1.0]).value == 0.4375
    with pytest.raises(ValueError, match="between 0 and their trials"):
        stats.estimate_proportion([2.0])


@given(
    successes=st.lists(st.integers(0, 4), min_size=5, max_size=30),
    extra=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_a_share_lies_inside_its_interval_and_the_interval_inside_0_to_1(successes: list[int], extra: int) -> None:
    made = stats.estimate_proportion(successes, [4 + extra] * len(successes), clusters=list(range(len(successes))))
    assert made.low is not None
    assert made.high is not None
    assert 0 <= made.low <= made.value + 1e-12
    assert made.value - 1e-12 <= made.high <= 1


@pytest.mark.parametrize(("num_rounds", "method"), [(2, "none"), (3, "log t"), (5, "log t"), (6, "order statistics")])
def test_the_method_of_a_median_follows_the_number_of_rounds(num_rounds: int, method: str) -> None:
    made = stats.estimate_median(np.linspace(1, 2, num_rounds))
    assert (made.value, made.method) == (pytest.approx(1.5), method)
    assert made.reason == ("2 rounds; an interval needs 3" if num_rounds == 2 else None)


@pytest.mark.parametrize("num_rounds", [6, 7, 10, 21, 60])
def test_order_statistics_lie_between_the_two_exact_intervals_that_bracket_95(num_rounds: int) -> None:
    x = np.arange(1.0, num_rounds + 1)
    made = stats.estimate_median(x)
    exact = [k for k in range(1, num_rounds // 2 + 1) if 1 - 2 * binom.cdf(k - 1, num_rounds, 0.5) >= 0.95]
    assert made.low is not None
    assert exact[-1] <= made.low <= exact[-1] + 1
    assert made.low + (made.high or 0) == pytest.approx(num_rounds + 1)


def test_the_median_of_few_rounds_lies_inside_its_interval_even_with_an_outlier() -> None:
    for values in ([1.0, 1.01, 5.0], [1.0, 1.0, 1.0, 9.0], [1, 1, 1, 1, 30.0]):
        made = stats.estimate_median(values)
        assert made.low is not None
        assert made.low <= made.value <= (made.high or 0)


def test_outliers_are_counted_by_tukeys_fences_and_never_dropped() -> None:
    values = [*np.linspace(1, 2, 20), 2.9, 10.0]
    assert stats.count_outliers(values) == (2, 1)
    assert stats.estimate_median(values).num_clusters == 22
    assert stats.mad([1, 2, 3, 4, 100]) == 1
    assert stats.relative_iqr([1.0, 1.0, 1.0, 1.0]) == 0
    assert stats.relative_iqr([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    numerator, denominator, documents = coverage.draw_documents(np.random.default_rng(8), 40)
    better = numerator - 0.02 * denominator
    made = stats.paired_difference(numerator, better, denominator, clusters=documents)
    assert made.value == pytest.approx(0.02)
    assert (made.low or 0) > 0
    one = stats.estimate_ratio(numerator, denominator, clusters=documents)
    two = stats.estimate_ratio(better, denominator, clusters=documents)
    assert (two.high or 0) > (one.low or 0)


def test_the_difference_of_two_perfect_scores_still_has_a_width() -> None:
    made = stats.paired_proportion_difference(np.ones(20), np.ones(20))
    assert made.value == 0
    assert made.low is not None
    assert -0.25 < made.low < 0 < (made.high or 0) < 0.25


def test_newcombes_paired_interval_is_the_one_worked_out_by_hand() -> None:
    # 36 pairs hit by both, 12 by a alone, 2 by b alone: phi = -24 / sqrt(48 * 2 * 38 * 12)
    a = np.r_[np.ones(36), np.ones(12), np.zeros(2)]
    b = np.r_[np.ones(36), np.zeros(12), np.ones(2)]
    made = stats.paired_proportion_difference(a, b)
    assert made.value == pytest.approx(0.2)
    assert (made.low, made.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_the_paired_interval_of_shares_holds_the_true_difference(alike: float) -> None:
    rng = np.random.default_rng(9)
    hits = []
    for _ in range(300):
        b, labels = coverage.draw_trials(rng, 20, share=0.6, alike=alike)
        # a gets right what b does, and a quarter of the rest: the truth is 0.25 of 0.4
        a = np.maximum(b, rng.random(len(b)) < 0.25)
        made = stats.paired_proportion_difference(a, b, clusters=labels)
        hits.append((made.low or 0) <= 0.1 <= (made.high or 0))
    assert np.mean(hits) >= 0.92


def test_the_sign_flip_test_is_exact_for_few_clusters() -> None:
    assert stats.sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)
    assert stats.sign_flip_test([1.0, -1.0]) == 1.0
    assert stats.sign_flip_test([0.0, 0.0]) == 1.0
    # two windows of one document are one sign
    assert stats.sign_flip_test(np.ones(8), clusters=[0, 0, 1, 1, 2, 2, 3, 3]) == pytest.approx(2 / 16)


def test_the_sign_flip_test_never_gives_p_0_and_agrees_with_the_exact_one() -> None:
    assert stats.sign_flip_test(np.ones(60)) == pytest.approx(1 / 10_001)
    differences = np.random.default_rng(1).normal(0.4, 1, 13)
    sampled = stats._signs(13, seed=3) @ differences
    share = np.mean(np.abs(sampled) >= abs(differences.sum()) * (1 - 1e-12))
    assert stats.sign_flip_test(differences) == pytest.approx(share, abs=0.02)


def test_holm_corrects_as_worked_out_by_hand_and_leaves_missing_ones_out() -> None:
    assert stats.holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_log_ratios_of_rounds_are_tested_with_student() -> None:
    assert stats.log_ratio_test([1.1, 1.2]) is None
    assert stats.log_ratio_test([1.0, 1.0, 1.0]) == 1.0
    assert stats.log_ratio_test([2.0, 2.0, 2.0]) == 0.0
    assert (stats.log_ratio_test([1.1, 1.12, 1.09, 1.11, 1.1]) or 1) < 1e-4
    assert stats.log_ratio_test([0.5, 2.0, 1.0, 1.0]) == pytest.approx(1.0)


def test_a_detectable_difference_is_found_four_times_in_five() -> None:
    error = 0.3
    smallest = stats.detectable(1.959964 * error)
    found = np.abs(np.random.default_rng(0).normal(smallest, error, 40_000)) > 1.959964 * error
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_an_estimate_maps_to_another_scale_with_its_ends() -> None:
    made = stats.Estimate(value=1.0, low=0.5, high=2.0, method="x", num_clusters=3).map(math.exp)
    assert (made.value, made.low, made.high) == pytest.approx((math.e, math.exp(0.5), math.exp(2)))
    assert (made.method, made.num_clusters) == ("x", 3)
    assert stats.Estimate(value=1.0, reason="why").map(math.exp).low is None
