"""Slopes and curvatures of costs over contexts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ttbench.report.statistics.fits import curvatures, mean_of_rounds, slopes

CONTEXTS = np.array([512, 1024, 2048, 4096, 8192])


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_slope_of_a_power_is_its_exponent_in_every_round(power: float) -> None:
    costs = np.stack([scale * CONTEXTS**power for scale in (1e-6, 3.0, 1e9)])
    assert slopes(CONTEXTS, costs) == pytest.approx([power] * 3, abs=1e-12)


def test_the_coefficients_of_a_quadratic_are_found_whatever_their_size() -> None:
    costs = np.stack(
        [a + b * CONTEXTS + c * CONTEXTS**2 for a, b, c in ((3e-3, 2e-5, 1e-9), (0, 1e-5, 0), (1, 1, -1e-5))]
    )
    assert curvatures(CONTEXTS, costs) == pytest.approx([1e-9, 0, -1e-5], abs=1e-15)


def test_residuals_count_by_the_share_that_they_are_of_the_context() -> None:
    rng = np.random.default_rng(0)
    costs = (1e-3 + 2e-5 * CONTEXTS + 1e-9 * CONTEXTS**2)[None] * rng.normal(1, 0.01, (400, len(CONTEXTS)))
    weighted = curvatures(CONTEXTS, costs)
    plain = np.polynomial.polynomial.polyfit(CONTEXTS, costs.T, 2)[2]
    assert weighted.mean() == pytest.approx(1e-9, rel=0.05)
    assert weighted.std() < plain.std()


def test_two_contexts_give_less_than_the_truth_where_each_call_costs_something() -> None:
    contexts = CONTEXTS[[0, 3]]
    for start in (0.0, 1e-3, 1.0):
        found = curvatures(contexts, (start + 2e-5 * contexts + 1e-9 * contexts**2)[None])[0]
        assert found <= 1e-9 * (1 + 1e-9)
    # a large cost of each call hides the square: nothing is claimed of it
    assert found < 0


@pytest.mark.parametrize("fit", [slopes, curvatures])
@pytest.mark.parametrize(("contexts", "costs"), [([512], [[1.0]]), ([512, 512], [[1.0, 2.0]]), ([1, 2], [[0.0, 1.0]])])
def test_too_few_contexts_and_costs_that_are_not_positive_are_refused(
    fit: Callable[..., np.ndarray], contexts: list[int], costs: list[list[float]]
) -> None:
    with pytest.raises(ValueError, match="two contexts or more, and positive"):
        fit(contexts, costs)


def test_the_mean_of_rounds_covers_the_truth_and_needs_three_that_differ() -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(-0.3, 1.0, (2000, 5))
    ends = [mean_of_rounds(draw, level=0.9) for draw in draws]
    covered = np.mean(
        [made.low <= -0.3 <= made.high for made in ends if made.low is not None and made.high is not None]
    )
    assert covered == pytest.approx(0.9, abs=0.02)
    assert mean_of_rounds([1.0, 2.0]).reason == "2 rounds; an interval needs 3"
    assert "no spread" in str(mean_of_rounds([2.0, 2.0, 2.0]).reason)
    with pytest.raises(ValueError, match="one value"):
        mean_of_rounds([])
