"""The number of a cell that has just ended: a ratio of sums worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest

from ttbench.report.headline import headline
from ttbench.types import Metric

RATE = Metric(name="rate", label="bits per byte", unit="bit/byte", better="lower", statistic="ratio", numerator="nats")
BITS = dataclasses.replace(RATE, denominator="num_bytes", scale=1 / math.log(2))
LN2 = math.log(2)
SAMPLES = (
    {"phase": "read", "nats": 3 * LN2, "num_bytes": 2, "hits": 1, "num_tokens": 2},
    {"phase": "read", "nats": 5 * LN2, "num_bytes": 6, "hits": 0, "num_tokens": 2},
    {"phase": "other", "nats": 90.0, "num_bytes": 1, "hits": 1, "num_tokens": 1},
    {"phase": "read", "nats": None, "num_bytes": 90, "hits": None, "num_tokens": None},
)


def told(*metrics: Metric, samples: Any = SAMPLES, **params: Any) -> str | None:
    made = tuple(SimpleNamespace(keys={"phase": each["phase"]}, values=each) for each in samples)
    record: Any = SimpleNamespace(metrics=metrics, samples=made, cell=SimpleNamespace(params=params))
    return headline(record)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, "1.000 bits per byte"),
        ({"scale": 2 / LN2}, "2.000 bits per byte"),
        ({"statistic": "exp_ratio", "scale": 1.0, "unit": "1"}, "2.000 bits per byte"),
        (
            {
                "statistic": "proportion",
                "numerator": "hits",
                "denominator": "num_tokens",
                "scale": 1.0,
                "unit": "share",
            },
            "25% bits per byte",
        ),
    ],
)
def test_sums_over_the_samples_that_count_are_divided(change: dict[str, Any], expected: str) -> None:
    assert told(dataclasses.replace(BITS, where={"phase": "read"}, **change)) == expected


def test_parameters_of_the_cell_decide_what_counts_too() -> None:
    metric = dataclasses.replace(BITS, where={"phase": "read", "param_protocol": "fixed"})
    assert told(metric, protocol="fixed") == "1.000 bits per byte"
    assert told(metric, protocol="stream") is None


@pytest.mark.parametrize(
    "change",
    [
        {"better": "neither"},
        {"statistic": "median"},
        {"cluster": "round"},
        {"axes": ("context_len", "depth")},
        {"denominator": None},
        {"numerator": "absent"},
    ],
)
def test_the_first_metric_that_ranks_and_is_a_ratio_of_sums_is_told(change: dict[str, Any]) -> None:
    first = dataclasses.replace(BITS, label="not this", where={"phase": "other"})
    assert told(dataclasses.replace(first, **change), dataclasses.replace(BITS, where={"phase": "read"})) == (
        "1.000 bits per byte"
    )
    assert told(dataclasses.replace(first, **change)) is None
    assert told(BITS, samples=()) is None
