"""Numbers as people read them."""

from __future__ import annotations

import pytest

from ttbench.report import words


@pytest.mark.parametrize(
    ("num_tokens", "text"),
    [(1, "1"), (512, "512"), (1000, "1000"), (1024, "1k"), (1536, "1536"), (32768, "32k"), (2 * 1024**2, "2m")],
)
def test_contexts_are_written_in_k_of_1024(num_tokens: int, text: str) -> None:
    assert words.context(num_tokens) == text


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("s", [0.0005, 0.002], ["500 µs", "2,000 µs"]),
        ("s", [0.0123, 0.5], ["12.3 ms", "500.0 ms"]),
        ("s", [1.5, 20.25], ["1.50 s", "20.25 s"]),
        ("bytes", [97 * 1024, 4 * 1024**2], ["97 KiB", "4,096 KiB"]),
        ("bytes", [12, 700], ["12 B", "700 B"]),
        ("bytes", [3 * 1024**3, 40 * 1024**3], ["3.00 GiB", "40.00 GiB"]),
        ("bit/byte", [1.4321, 2.1], ["1.43 bits per byte", "2.10 bits per byte"]),
        ("tokens/s", [312.4, 12_345.6], ["312 tokens/s", "12,346 tokens/s"]),
    ],
)
def test_all_numbers_of_a_metric_share_one_readable_unit(unit: str, values: list[float], expected: list[str]) -> None:
    made = words.scale(unit, values)
    assert [f"{made.text(value)} {made.unit}" for value in values] == expected


def test_shares_are_percent() -> None:
    made = words.scale("share", [0.0, 0.956], statistic="proportion")
    assert (made.text(0.956), made.unit) == ("96", "%")


def test_an_interval_is_plus_minus_when_even_and_two_ends_when_not() -> None:
    scale = words.Scale(unit="", size=1.0, decimals=2)
    assert words.interval({"value": 1.5, "low": 1.4, "high": 1.601}, scale) == "±0.10"
    assert words.interval({"value": 0.95, "low": 0.76, "high": 0.99}, scale) == "0.76-0.99"


@pytest.mark.parametrize(("value", "digits", "text"), [(0.01234, 2, "0.012"), (1.5, 3, "1.50"), (41.94, 3, "41.9")])
def test_significant_digits_are_counted_from_the_first(value: float, digits: int, text: str) -> None:
    assert words.significant(value, digits) == text
