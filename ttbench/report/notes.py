"""What rows ask to be said beside the numbers of a task: of their corpora, and of ceilings that came out too low."""

from __future__ import annotations

import pandas as pd

from ttbench.report.columns import all_rows

BUSY_CEILINGS = (
    "the machine's ceilings were measured while other programs ran: they are too low here, and shares of them too "
    "high; the next timing on a quiet machine measures them again"
)


def task_notes(rows: pd.DataFrame) -> dict[str, list[str]]:
    """By task, a sentence for each corpus that has a note, and one of busy ceilings; old rows have neither."""
    found: dict[str, list[str]] = {}
    everything = all_rows(rows)
    for key, _ in everything.select(everything.present("corpus_note")).split(["task", "corpus", "corpus_note"]):
        found.setdefault(str(key["task"]), []).append(f"corpus {key['corpus']}: {key['corpus_note']}")
    for key, _ in everything.equal({"ceilings_busy": True}).split(["task"]):
        found.setdefault(str(key["task"]), []).append(BUSY_CEILINGS)
    return found
