"""Bits per byte on the card of a checkpoint that was trained on text, or on DNA."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ttbench.corpora.training_rows.puzzles import PUZZLES
from ttbench.tasks.card_scores import CardLine, CardScore, at_least_one

if TYPE_CHECKING:
    import pandas as pd

NUM_DOCUMENTS = 10  # of each corpus, the first in seeded order


def scores(kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
    """One run for each corpus that the rows are like; none where they are puzzles alone."""
    if set(kinds) <= set(PUZZLES):
        return
    texts = (*(["languages"] if "languages" in kinds else []), "kjv", "code")
    for corpus in ("genomes", "genomes-strain") if set(kinds) == {"dna"} else texts:
        limit = at_least_one(NUM_DOCUMENTS, share)
        yield CardScore(
            options={"ctx": context_len, "corpus": corpus, "protocol": "packed", "limit": limit},
            lines=functools.partial(_lines, corpus=corpus, context_len=context_len),
        )


def _lines(rows: pd.DataFrame, *, corpus: str, context_len: int) -> Iterator[CardLine]:
    ours, bzip2 = document_bits(rows)
    yield (
        f"bits per byte on the median of {len(ours)} test documents of `{corpus}`, blocks of {context_len}",
        f"{np.median(ours):.3f}",
        f"`bzip2 -9`: {np.median(bzip2):.3f}",
    )


def document_bits(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Bits per byte of each document from perplexity rows, by name: the checkpoint's, and those of `bzip2 -9`.

    Raises ValueError when a row is not ok.
    """
    statuses = set(rows["status"].tolist())
    if statuses != {"ok"}:
        raise ValueError(f"perplexity ended {sorted(statuses)}: {rows['reason'].dropna().tolist()}")
    _, document = np.unique(np.asarray(rows["document"], dtype=str), return_inverse=True)

    def sums(column: str) -> np.ndarray:
        return np.bincount(document, weights=np.nan_to_num(np.asarray(rows[column], dtype=np.float64)))

    bits = sums("nats") / sums("num_bytes") / math.log(2)
    return bits, 8 * sums("bzip2_bytes") / sums("document_bytes")
