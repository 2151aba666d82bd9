"""What corpora ask to be said beside numbers on their text."""

from __future__ import annotations

import pandas as pd

from ttbench.report.notes import corpus_notes


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
    assert corpus_notes(rows) == {
        "perplexity": ["corpus code: of one project", "corpus prose: old"],
        "needle": ["corpus prose: old"],
    }
    assert corpus_notes(rows.drop(columns="corpus_note")) == {}
