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


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.01234, 2, "0.012"), (1.5, 3, "1.50"), (41.94, 3, "41.9"), (0.9996, 3, "1.00"), (9.96, 2, "10")],
)
def test_significant_digits_are_counted_from_the_first(value: float, digits: int, text: str) -> None:
    assert words.significant(value, digits) == text


def test_two_digits_are_meant_where_none_are_asked_for_and_nothing_is_0_and_one_is_not() -> None:
    assert [words.significant(value) for value in (0.04567, 1.26, 1, 0, -0.00126)] == [
        "0.046",
        "1.3",
        "1.0",
        "0",
        "-0.0013",
    ]
    assert words.significant(12_345.6) == "12,346"


def numbers(**changes: object) -> dict[str, object]:
    entry = {"cluster": "document", "statistic": "ratio", "counts": "byte", "num_clusters": 34, "num_samples": 68}
    return {**entry, "num_counted": 17_408.0, **changes}


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([numbers()], "34 documents, 68 windows, 17,408 bytes"),
        # of a comparison only the pairs count
        ([numbers(num_pairs=48)], "34 documents, 48 windows, 17,408 bytes"),
        ([numbers(num_clusters=1, num_samples=1, num_counted=256.0)], "1 document, 1 window, 256 bytes"),
        (
            [numbers(), numbers(num_clusters=5, num_counted=1e4)],
            "5 to 34 documents, 68 windows, 10,000 to 17,408 bytes",
        ),
        ([numbers(num_counted=None)], "34 documents, 68 windows"),
        ([numbers(cluster="haystack", counts="trial", num_counted=100.0)], "34 haystacks, 100 trials"),
        ([numbers(cluster=None, counts=None)], "34 samples"),
        ([numbers(cluster="round", num_clusters=3), numbers(cluster="round", num_clusters=5)], "3 to 5 rounds"),
        ([numbers(statistic="count", cluster="document")], "34 documents"),
    ],
)
def test_a_number_says_what_it_rests_on(entries: list[dict[str, object]], text: str) -> None:
    assert words.basis(entries) == text


def test_a_half_width_below_the_last_digit_is_said_to_be_less_than_it() -> None:
    scale = words.Scale(unit="", size=1.0, decimals=2)
    assert words.interval({"value": 1.5, "low": 1.499, "high": 1.501}, scale) == "±<0.01"
    assert words.interval({"value": 1.5, "low": 1.5, "high": 1.5}, scale) == "±0.00"
    assert words.interval({"value": 1.5, "low": 1.49, "high": 1.51}, scale) == "±0.01"


def test_where_there_is_no_number_no_multiple_of_the_unit_is_made_up() -> None:
    assert [words.scale(unit, [None, None]).unit for unit in ("bytes", "s", "bit/byte")] == [
        "bytes",
        "s",
        "bits per byte",
    ]
    # Nothing is a number: no bytes of state are 0 B.
    assert words.scale("bytes", [0.0, None]).unit == "B"
