"""Which observations are of the same targets, told by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, perplexity_rows

from ttbench.report import words
from ttbench.report.columns import all_rows
from ttbench.report.comparison.compare import compare
from ttbench.report.comparison.effects import ready_to_compare
from ttbench.report.comparison.pairing import pair
from ttbench.report.summary import RowGroup
from ttbench.tasks.perplexity.perplexity import Perplexity

(BITS,) = (metric for metric in Perplexity.metrics if metric.name == "bits_per_byte")
COLUMNS = ("seed", "sample", "document", "nats", "num_bytes")


def group(*rows: tuple[Any, ...], tokenizer: str = "bytes", columns: tuple[str, ...] = COLUMNS) -> RowGroup:
    part = all_rows(pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows]))
    nothing = part.select(np.zeros(len(part), dtype=bool))
    line = {"checkpoint": "any", "tokenizer_digest": tokenizer}
    return RowGroup(task="perplexity", metric=BITS, line=line, point={}, rows=part, failures=nothing, invalid=nothing)


def pairs(one: RowGroup, two: RowGroup) -> list[tuple[float, float, float, str]] | None:
    found = pair(one, two)
    if found is None:
        return None
    assert found.clusters is not None
    return list(
        zip(found.a.tolist(), found.b.tolist(), found.denominator.tolist(), found.clusters.tolist(), strict=True)
    )


def test_windows_of_two_seeds_are_two_targets_though_number_and_document_are_equal() -> None:
    one = group((0, 0, "x", 1.0, 8), (1, 0, "x", 2.0, 8), (0, 1, "y", 4.0, 8))
    two = group((1, 0, "x", 32.0, 8), (0, 0, "x", 16.0, 8), (0, 1, "y", 64.0, 8))
    assert pairs(one, two) == [(1.0, 16.0, 8.0, "x"), (4.0, 64.0, 8.0, "y"), (2.0, 32.0, 8.0, "x")]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ((0, 1, "x", 5.0, 8), "number"),
        ((0, 0, "y", 5.0, 8), "document"),
        ((0, 0, "x", 5.0, 9), "bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_window_with_another_number_document_or_size_is_no_partner(other: tuple[Any, ...], why: str) -> None:
    both = (1, 7, "z", 1.0, 8)
    assert pairs(group(both, (0, 0, "x", 3.0, 8)), group(both, other)) == [(1.0, 1.0, 8.0, "z")], why


def test_tokenizers_that_cut_differently_are_paired_by_whole_documents_of_equal_bytes() -> None:
    one = group((0, 0, "x", 1.0, 8), (0, 1, "x", 2.0, 4), (0, 2, "y", 4.0, 5))
    two = group((0, 0, "x", 8.0, 6), (0, 1, "x", 16.0, 6), (0, 2, "y", 32.0, 6), tokenizer="words")
    assert pairs(one, two) == [(3.0, 24.0, 12.0, "x")]


def test_a_setting_is_no_part_of_the_target() -> None:
    columns = ("seed", "param_reader", *COLUMNS[1:])
    one = group((0, "fast", 0, "x", 1.0, 8), (0, "fast", 1, "x", 2.0, 8), columns=columns)
    two = group((0, "slow", 0, "x", 8.0, 8), (0, "slow", 1, "x", 16.0, 8), columns=columns)
    assert pairs(one, two) == [(1.0, 8.0, 8.0, "x"), (2.0, 16.0, 8.0, "x")]


def test_what_was_drawn_by_different_seeds_is_not_compared() -> None:
    one, two = group((0, 0, "x", 1.0, 8)), group((1, 0, "x", 1.0, 8))
    assert (
        ready_to_compare(one, two, free=(), names=("a", "b")) == "the seeds differ, and each draws targets of its own"
    )
    assert not isinstance(ready_to_compare(one, one, free=(), names=("a", "a")), str)


def test_each_seed_of_a_run_is_compared_with_itself() -> None:
    records = [
        row | {"seed": seed, "cell_id": f"{seed}{row['cell_id']}"}
        for seed in (0, 1)
        for row in perplexity_rows([TRANSFORMER, TTT], [512], seed=seed)
    ]
    rows: Any = make_rows(records, metrics={"perplexity": [BITS]})
    for found in words.records(compare(rows, "transformer", "ttt-linear")):
        mine = rows[rows["seed"] == found["seed"]].groupby("checkpoint")[["nats", "num_bytes"]].sum()
        bits = mine["nats"] / mine["num_bytes"] / math.log(2)
        assert found["num_pairs"] == 68
        assert found["effect"] == pytest.approx(bits["transformer"] - bits["ttt-linear"], rel=1e-12)
    assert [entry["seed"] for entry in words.records(compare(rows, "transformer", "ttt-linear"))] == [0, 1]
    apart = rows[(rows["seed"] == 0) == (rows["checkpoint"] == "transformer")]
    apart.attrs = rows.attrs
    (found,) = words.records(compare(apart, "transformer", "ttt-linear"))
    assert (found["verdict"], found["reason"]) == ("not comparable", "settings differ: seed 0 and 1")
