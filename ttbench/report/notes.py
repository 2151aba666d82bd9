"""What corpora ask to be said beside numbers on their text."""

from __future__ import annotations

import pandas as pd

from ttbench.report.columns import all_rows


def corpus_notes(rows: pd.DataFrame) -> dict[str, list[str]]:
    """By task, a sentence for each corpus that has a note; rows of earlier versions have none."""
    found: dict[str, list[str]] = {}
    everything = all_rows(rows)
    for key, _ in everything.select(everything.present("corpus_note")).split(["task", "corpus", "corpus_note"]):
        found.setdefault(str(key["task"]), []).append(f"corpus {key['corpus']}: {key['corpus_note']}")
    return found
