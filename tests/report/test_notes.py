"""What rows ask to be said beside the numbers of a task."""

from __future__ import annotations

import pandas as pd

from ttbench.report.notes import task_notes


def test_a_note_is_told_once_for_each_task_and_corpus_and_rows_without_one_say_nothing() -> None:
    rows = pd.DataFrame(
        [
            ("perplexity", "code", "of one project"),
            ("perplexity", "kjv", None),
            ("perplexity", "prose", "old"),
            ("perplexity", "code", "of one project"),
            ("needle", "prose", "old"),
        ],
        columns=["task", "corpus", "corpus_note"],
    )
    assert task_notes(rows) == {
        "perplexity": ["corpus code: of one project", "corpus prose: old"],
        "needle": ["corpus prose: old"],
    }
    assert task_notes(rows.drop(columns="corpus_note")) == {}


def test_ceilings_of_a_busy_machine_are_told_and_those_of_a_quiet_one_are_not() -> None:
    rows = pd.DataFrame({"task": ["latency", "latency", "perplexity"], "ceilings_busy": [True, True, None]})
    (note,) = task_notes(rows)["latency"]
    assert "ceilings were measured while other programs ran" in note
    assert "shares of them too high" in note
    assert "perplexity" not in task_notes(rows)
    assert task_notes(rows.assign(ceilings_busy=[False, False, None])) == {}
