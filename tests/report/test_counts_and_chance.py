"""What recall's rows become: exact counts of state bytes, and chance beneath the kind of question that it is of."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rows import TRANSFORMER, TTT, Model, _shared, make_rows

from ttbench.report import words
from ttbench.report.comparison.compare import compare
from ttbench.report.comparison.sentences import sentences
from ttbench.report.table import render, summarise
from ttbench.tasks.recall.recall import Recall

METRICS = {"recall": Recall.metrics}
# Sequences of one cell differ in length, and a cache with them; a constant state does not.
CACHES = [1000, 1200, 1200, 800, 1000, 1200, 1000, 900, 1000, 1100, 1000, 1200]


def recall_rows(model: Model, states: list[int], *, kind: str = "mqar") -> list[dict[str, Any]]:
    shared = _shared("recall", model, 512, {"kind": kind})
    return [
        shared
        | {
            "sample": sample,
            "sequence": f"4 pairs, {sample}",
            "pairs": 4 if kind == "mqar" else None,
            "num_questions": 4,
            "hits": sample % 4,
            "chance_hits": 0.03,
            "nats": 3.0 + sample % 3,
            "state_bytes": state_bytes,
        }
        for sample, state_bytes in enumerate(states)
    ]


@pytest.mark.parametrize("num_sequences", [1, 6, 12])
def test_the_highest_count_of_bytes_is_exact_and_compared_as_a_ratio_without_a_test(num_sequences: int) -> None:
    states = CACHES[:num_sequences]
    rows = make_rows(recall_rows(TRANSFORMER, states), recall_rows(TTT, [100] * num_sequences), metrics=METRICS)
    (shown,) = (
        entry
        for entry in words.records(summarise(rows))
        if (entry["metric"], entry["checkpoint"]) == ("sequence_state_bytes", "transformer")
    )
    assert (shown["value"], shown["method"], shown["low"]) == (max(states), "exact", None)
    assert (
        shown["reason"]
        == f"{'one sample' if num_sequences == 1 else f'the highest of {num_sequences} samples'}, a count"
    )
    (found,) = (
        entry
        for entry in words.records(compare(rows, "transformer", "ttt-linear"))
        if entry["metric"] == "sequence_state_bytes"
    )
    assert (found["kind"], found["effect"], found["method"]) == ("ratio", max(states) / 100, "exact")
    assert (found["value_a"], found["value_b"]) == (max(states), 100)
    assert (found["low"], found["p"], found["verdict"]) == (None, None, "b better")
    assert f"needs {max(states) / 100:.1f}" in " ".join(sentences([found]))


def test_equal_counts_are_equal() -> None:
    rows = make_rows(recall_rows(TRANSFORMER, [100] * 12), recall_rows(TTT, [100] * 12), metrics=METRICS)
    found = [
        entry
        for entry in words.records(compare(rows, "transformer", "ttt-linear"))
        if entry["metric"] == "sequence_state_bytes"
    ]
    assert [entry["verdict"] for entry in found] == ["no difference shown"]
    assert "transformer and ttt-linear are equal" in " ".join(sentences(found))


def test_chance_stands_beneath_the_kind_of_question_that_it_is_of() -> None:
    kinds = ("mqar", "s5")
    rows = make_rows(*(recall_rows(TTT, [100] * 12, kind=kind) for kind in kinds), metrics=METRICS)
    out = io.StringIO()
    Console(file=out, width=120).print(render(summarise(rows)))
    lines = [line.strip() for line in out.getvalue().splitlines()]
    starts = ("MQAR: questions answered (", "chance kind mqar", "S5: questions answered (", "chance kind s5", "nats an")
    places = [next(index for index, line in enumerate(lines) if line.startswith(start)) for start in starts]
    assert places == sorted(places)
    assert sum(line.startswith("chance") for line in lines) == 2
