"""Intervals hold the truth as often as they say, and nothing shrinks them that is not evidence."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttbench.report.statistics import stats
from ttbench.report.statistics.coverage import draw_trials

RNG = np.random.default_rng(5)


def one_model(
    rng: np.random.Generator, num_haystacks: int, *, share: float, alike: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hits and haystacks of one model's trials."""
    (hits,), labels = draw_trials(rng, num_haystacks, share=share, alike=alike)
    return hits, labels


def documents_of(rng: np.random.Generator, num_documents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numerators, denominators and labels of four windows of each document, which resemble each other."""
    size = np.repeat(np.exp(rng.normal(0, 0.9, num_documents)), 4)
    rate = np.repeat(2 * np.exp(rng.normal(0, 0.3, num_documents)), 4) * np.exp(rng.normal(0, 0.05, 4 * num_documents))
    return rate * size, size, np.repeat(np.arange(num_documents), 4)


@pytest.mark.parametrize(("num_documents", "sure"), [(1, False), (9, False), (10, True), (40, True)])
def test_an_interval_of_a_ratio_needs_ten_documents(num_documents: int, sure: bool) -> None:
    made = stats.estimate_ratio(RNG.random(num_documents), np.ones(num_documents))
    assert made.num_clusters == num_documents
    assert (made.low is not None, made.high is not None, made.reason is None) == (sure, sure, sure)
    told = {1: "1 document; an interval needs 10", 9: "9 documents; an interval needs 10"}
    assert made.reason == told.get(num_documents)


@pytest.mark.parametrize("num_documents", [12, 40])
def test_looking_twice_at_every_document_does_not_shrink_an_interval(num_documents: int) -> None:
    numerator, denominator, documents = documents_of(np.random.default_rng(2), num_documents)
    once = stats.estimate_ratio(numerator, denominator, clusters=documents)
    twice = stats.estimate_ratio(
        *(np.tile(column, 2) for column in (numerator, denominator)), clusters=[*documents] * 2
    )
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), rel=1e-9)
    assert twice.num_clusters == num_documents


def test_looking_twice_at_every_trial_does_not_shrink_an_interval() -> None:
    trials, labels = one_model(np.random.default_rng(3), 20, share=0.6, alike=0.4)
    once = stats.estimate_proportion(trials, clusters=labels)
    twice = stats.estimate_proportion(np.tile(trials, 2), clusters=np.tile(labels, 2))
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), rel=1e-9)


@pytest.mark.parametrize("num_documents", [20, 50])
def test_an_interval_depends_on_no_order_and_on_no_unit(num_documents: int) -> None:
    numerator, denominator, documents = documents_of(np.random.default_rng(4), num_documents)
    made = stats.estimate_ratio(numerator, denominator, clusters=documents)
    order = np.random.default_rng(0).permutation(len(numerator))
    shuffled = stats.estimate_ratio(numerator[order], denominator[order], clusters=documents[order])
    assert (shuffled.low, shuffled.high) == pytest.approx((made.low, made.high))
    scaled = stats.estimate_ratio(numerator * 7, denominator, clusters=documents)
    assert (scaled.low, scaled.high) == pytest.approx((7 * (made.low or 0), 7 * (made.high or 0)))


def test_equal_documents_give_an_interval_without_width_and_no_warning() -> None:
    made = stats.estimate_ratio(np.full(40, 3.0), np.full(40, 2.0))
    assert (made.value, made.low, made.high) == (1.5, 1.5, 1.5)


def test_where_all_documents_but_one_are_equal_nothing_bounds_the_rest_and_the_estimate_says_so() -> None:
    numerator = np.ones(40)
    numerator[7] = 100
    made = stats.estimate_ratio(numerator, np.ones(40))
    assert (made.value, made.low, made.high) == (pytest.approx(3.475), None, None)
    assert made.reason == "too few of 40 documents differ to bound the rest"


def test_ten_documents_cannot_bear_a_level_that_no_pattern_of_signs_reaches() -> None:
    # of 2^9 patterns and their mirror images the most extreme has p = 2 / 2^10, above 0.001
    numerator = RNG.normal(2, 0.3, 10)
    assert stats.estimate_ratio(numerator, np.ones(10), level=0.998).low is not None
    made = stats.estimate_ratio(numerator, np.ones(10), level=0.999)
    assert (made.low, made.reason) == (None, "10 documents cannot bear 99.9%, which so many points at once ask for")


def test_a_document_in_which_nothing_was_counted_says_nothing() -> None:
    numerator, denominator = RNG.normal(2, 0.3, 12), np.ones(12)
    made = stats.estimate_ratio(np.r_[numerator, 0.0], np.r_[denominator, 0.0])
    assert made == stats.estimate_ratio(numerator, denominator)


def test_a_ratio_without_a_denominator_is_refused() -> None:
    with pytest.raises(ValueError, match="positive sum; got 0"):
        stats.estimate_ratio([1.0, 2.0], [0.0, 0.0])


def test_the_same_seed_gives_the_same_interval_and_leaves_the_global_generator_alone() -> None:
    numerator, denominator, documents = documents_of(np.random.default_rng(6), 40)
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


@pytest.mark.parametrize("per_haystack", [1, 5])
def test_few_haystacks_give_a_share_and_the_reason_why_there_is_no_interval(per_haystack: int) -> None:
    made = stats.estimate_proportion(np.ones(4 * per_haystack), clusters=np.repeat(np.arange(4), per_haystack))
    assert (made.value, made.low, made.reason) == (1.0, None, "4 haystacks; an interval needs 5")


@pytest.mark.parametrize(
    ("successes", "expected"),
    [
        # with half a cluster of 2 of 2 and half a cluster of 0 of 2: share 4 / 8, squares 1 + 1 + 0 + 1/2 + 1/2 = 3,
        # of independent trials 8 x 1/4 = 2: 6 trials tell as much as 4
        ([2, 0, 1], 4.0),
        # share 6 / 8, squares 1/4 + 1/4 + 1/4 + 1/8 + 9/8 = 2, of independent trials 8 x 3/16 = 3/2
        ([2, 2, 1], 4.5),
        # clusters more alike than chance would have them make no trials
        ([1, 1, 1], 6.0),
    ],
)
def test_trials_of_a_cluster_count_for_as_many_as_worked_out_by_hand(successes: list[int], expected: float) -> None:
    assert stats.effective_trials(successes, [2, 2, 2]) == pytest.approx(expected)


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


def test_the_interval_of_three_rounds_is_the_one_worked_out_by_hand() -> None:
    # logarithms 1, 2, 3: mean 2, standard error 1 / sqrt(3); Student's 97.5 % with 2 degrees of freedom is 4.302653
    made = stats.estimate_rounds(np.exp([1.0, 3.0, 2.0]))
    assert made.value == pytest.approx(math.exp(2))
    assert made.low == pytest.approx(math.exp(2 - 4.302653 / 3**0.5), rel=1e-6)
    assert made.high == pytest.approx(math.exp(2 + 4.302653 / 3**0.5), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([2.0], "1 round; an interval needs 3"),
        ([2.0, 3.0], "2 rounds; an interval needs 3"),
        ([2.0, 2.0, 2.0], "equal in all of 3 rounds, which shows no spread"),
    ],
)
def test_rounds_that_are_few_or_happen_to_be_equal_have_no_interval(values: list[float], reason: str) -> None:
    made = stats.estimate_rounds(values)
    assert (made.low, made.method, made.reason) == (None, "none", reason)


def test_the_ratio_of_two_means_of_rounds_is_the_mean_of_their_ratios() -> None:
    a, b = RNG.lognormal(0, 0.5, 5), RNG.lognormal(1, 0.5, 5)
    ratio = stats.estimate_rounds(a).value / stats.estimate_rounds(b).value
    assert stats.estimate_rounds(a / b).value == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("values", [[3.0], [1.0, 4.0], [5.0, 1.0, 2.0], [1.0, 2.0, 8.0, 9.0]])
def test_the_middle_of_speeds_is_that_of_the_times(values: list[float]) -> None:
    assert stats.middle(values) == pytest.approx({1: 3.0, 2: 2.0, 3: 2.0, 4: 4.0}[len(values)])
    assert stats.middle([32 / value for value in values]) == pytest.approx(32 / stats.middle(values), rel=1e-12)


def test_rounds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive values"):
        stats.estimate_rounds([1.0, 0.0])


def test_outliers_are_counted_by_tukeys_fences_and_never_dropped() -> None:
    values = [*np.linspace(1, 2, 20), 2.9, 10.0]
    assert stats.count_outliers(values) == (2, 1)
    assert stats.estimate_rounds(values).num_clusters == 22
    assert stats.relative_iqr([1.0, 1.0, 1.0, 1.0]) == 0
    assert stats.relative_iqr([1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_pairing_finds_a_difference_that_unpaired_intervals_hide() -> None:
    numerator, denominator, documents = documents_of(np.random.default_rng(8), 40)
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
    assert (made.method, made.num_clusters) == ("Newcombe, Wilson", 50)
    few = stats.paired_proportion_difference([1, 1, 0, 1], [0, 1, 0, 0])
    assert (few.value, few.low, few.method, few.reason) == (0.5, None, "none", "4 haystacks; an interval needs 5")


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_the_paired_interval_of_shares_holds_the_true_difference(alike: float) -> None:
    rng = np.random.default_rng(9)
    hits = []
    for _ in range(300):
        b, labels = one_model(rng, 20, share=0.6, alike=alike)
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
    assert stats.sign_flip_test(np.ones(60)) == pytest.approx(1 / 10_000)
    differences = np.random.default_rng(1).normal(0.4, 1, 14)
    signs = np.array(list(itertools.product((1, -1), repeat=14)))
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) * (1 - 1e-12))
    assert stats.sign_flip_test(differences) == pytest.approx(exact, abs=0.01)


def test_five_points_hold_together_in_95_of_100_when_each_does_in_99() -> None:
    assert stats.family_level(5) == pytest.approx(0.99)
    assert stats.family_level(1) == stats.family_level(0) == 0.95


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "round", "0 rounds"), (1, "round", "1 round"), (12_288, "byte", "12,288 bytes")],
)
def test_one_of_a_kind_is_not_many(number: int, noun: str, text: str) -> None:
    assert stats.counted(number, noun) == text


def test_log_ratios_of_rounds_are_tested_with_student() -> None:
    assert stats.log_test(np.log([1.1, 1.2])) is None
    assert stats.log_test(np.log([2.0, 2.0, 2.0])) is None
    assert (stats.log_test(np.log([1.1, 1.12, 1.09, 1.11, 1.1])) or 1) < 1e-4
    assert stats.log_test(np.log([0.5, 2.0, 1.0, 1.0])) == pytest.approx(1.0)
    # logarithms 0, 1, 2: mean 1, standard error 1 / sqrt(3); with 2 degrees of freedom p is 1 - t / sqrt(2 + t^2)
    assert stats.log_test([0.0, 2.0, 1.0]) == pytest.approx(1 - 3**0.5 / 5**0.5)


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
