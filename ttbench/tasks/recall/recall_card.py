"""Questions answered, on the card of a checkpoint that was trained on puzzles alone."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttbench.corpora.training_rows.puzzles import PUZZLES
from ttbench.tasks.card_scores import CardLine, CardScore, at_least_one
from ttbench.tasks.recall.sequences import ROW_KINDS

if TYPE_CHECKING:
    import pandas as pd

LENGTHS = (1, 2, 4)  # times the training context
SEQUENCES = 16  # for each length and number of pairs


def scores(kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
    """Every puzzle that it was trained on, at its training context and beyond."""
    if not set(kinds) <= set(PUZZLES):
        return
    asked = {row: kind for kind, row in ROW_KINDS["symbols"].items()}
    for row in kinds:
        options = {
            "ctx": ",".join(str(context_len * times) for times in LENGTHS),
            "params": {"kind": asked[row], "form": "symbols"},
            "limit": at_least_one(SEQUENCES, share),
        }
        yield CardScore(options=options, lines=functools.partial(_lines, row=row))


def _lines(rows: pd.DataFrame, *, row: str) -> Iterator[CardLine]:
    for ctx, part in rows.groupby("context_len"):
        hits, blind, questions = (
            np.asarray(part[name], dtype=np.float64).sum() for name in ("hits", "chance_hits", "num_questions")
        )
        what = f"questions of {row} answered at {ctx}"
        yield what, f"{hits / questions:.3f}", f"chance: {blind / questions:.3f}"
