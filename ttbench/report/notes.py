"""What corpora ask to be said beside numbers on their text."""

from __future__ import annotations

import pandas as pd


def corpus_notes(rows: pd.DataFrame) -> dict[str, list[str]]:
    """By task, a sentence for each corpus that has a note; rows of earlier versions have none."""
    if "corpus_note" not in rows:
        return {}
    noted = rows[rows["corpus_note"].notna()].drop_duplicates(["task", "corpus", "corpus_note"])
    found: dict[str, list[str]] = {}
    for task, corpus, note in noted[["task", "corpus", "corpus_note"]].itertuples(index=False):
        found.setdefault(task, []).append(f"corpus {corpus}: {note}")
    return found
