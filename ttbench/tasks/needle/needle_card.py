"""Needles on the card of a checkpoint that was trained on text."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttbench.corpora.training_rows.puzzles import PUZZLES
from ttbench.tasks.card_scores import CardLine, CardScore, at_least_one

if TYPE_CHECKING:
    import pandas as pd

SHORT_CTX = 512  # tokens, beside the training context
TRIALS = 20
CORPUS = "kjv"
_SCORERS = (("hits_generate", "retrieved", "chance: 0"), ("hits_choice", "recognised", "chance: 0.1"))


def scores(kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
    """A short context and the training context; none where the rows are DNA or puzzles alone."""
    if set(kinds) == {"dna"} or set(kinds) <= set(PUZZLES):
        return
    for ctx in (SHORT_CTX, context_len):
        options = {"ctx": ctx, "corpus": CORPUS, "limit": at_least_one(TRIALS, share)}
        yield CardScore(options=options, lines=functools.partial(_lines, context_len=ctx))


def _lines(rows: pd.DataFrame, *, context_len: int) -> Iterator[CardLine]:
    statuses = set(rows["status"].tolist())
    if statuses != {"ok"}:
        # a short training context has no room for the question
        yield f"needles at {context_len}, in `{CORPUS}`", ", ".join(sorted(statuses)), ""
        return
    trials = float(np.asarray(rows["num_trials"], dtype=np.float64).sum())
    for column, word, chance in _SCORERS:
        share = float(np.asarray(rows[column], dtype=np.float64).sum()) / trials
        yield f"needles {word} at {context_len}, of {trials:.0f} in `{CORPUS}`", f"{share:.2f}", chance
