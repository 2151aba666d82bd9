"""Numbers in sentences, with as many digits as their interval allows, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ttbench.report.comparison.sentences import _turn, effect, smallest

DIFFERENCE: dict[str, Any] = {
    **{"a": "one", "b": "two", "value_a": 1.5, "value_b": 1.381, "kind": "difference", "better": "lower"},
    **{"statistic": "ratio", "unit": "bit/byte", "effect": 0.119, "low": 0.112, "high": 0.126, "verdict": "b better"},
    "smallest_effect": 0.005,
}
RATIO = {**DIFFERENCE, "kind": "ratio", "effect": 0.8, "low": 0.5, "high": 0.9, "smallest_effect": 0.01}
SHARE = {**DIFFERENCE, "statistic": "proportion", "effect": 0.25, "low": -0.105, "high": 0.5, "smallest_effect": 0.01}
NO_INTERVAL = {"low": None, "high": None}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        # one digit more than half the width, 0.007, and three decimals at most
        (DIFFERENCE, "0.119 (0.112 to 0.126)"),
        ({**DIFFERENCE, "low": 0.05, "high": 0.25}, "0.12 (0.05 to 0.25)"),
        ({**DIFFERENCE, "effect": 12.34, "low": 9.0, "high": 15.0}, "12.3 (9.0 to 15.0)"),
        ({**DIFFERENCE, "effect": 123.4, "low": 90.0, "high": 150.0}, "123 (90 to 150)"),
        # without an interval as many as the effect itself has
        ({**DIFFERENCE, **NO_INTERVAL}, "0.12"),
        ({**DIFFERENCE, **NO_INTERVAL, "effect": 12.34}, "12"),
        # more digits, where an end would be printed as no effect
        ({**DIFFERENCE, "low": 0.0004, "high": 0.2376}, "0.1190 (0.0004 to 0.2376)"),
        (RATIO, "0.800 times (0.500 to 0.900)"),
        ({**RATIO, "low": 0.5, "high": 0.9996}, "0.8000 times (0.5000 to 0.9996)"),
        ({**RATIO, **NO_INTERVAL}, "0.800 times"),
        (SHARE, "25 points (-10 to 50)"),
    ],
)
def test_an_effect_has_the_digits_that_its_interval_allows(entry: dict[str, Any], expected: str) -> None:
    assert effect(entry) == expected


def test_a_comparison_seen_from_the_best_is_turned_when_it_is_the_other_s_less() -> None:
    # one is 0.8 times two, so two is 1.25 times one
    turned = _turn(RATIO, "one")
    assert [turned[name] for name in ("a", "b", "effect", "low", "high")] == [
        *("one", "two"),
        *map(pytest.approx, (1.25, 1 / 0.9, 2.0)),
    ]
    # one is 0.119 above two, as two, the best, has it
    turned = _turn(DIFFERENCE, "two")
    assert [turned[name] for name in ("a", "b", "value_a", "value_b", "effect", "low", "high")] == [
        *("two", "one", 1.381, 1.5, 0.119, 0.112, 0.126)
    ]
    more = {**DIFFERENCE, "better": "higher", **NO_INTERVAL}
    assert [_turn(more, "two")[name] for name in ("effect", "low", "high")] == [-0.119, None, None]
    assert [_turn(more, "one")[name] for name in ("a", "effect")] == ["one", 0.119]


def test_the_smallest_effect_of_interest_in_words() -> None:
    assert smallest(RATIO) == "1%"
    assert smallest(DIFFERENCE) == "0.005 bits per byte"
    assert smallest(SHARE) == "1 point of 100"
    assert smallest({**SHARE, "smallest_effect": 0.025}) == "2.5 points of 100"
