"""Words of 24 bases: how much of a text stands in other texts, word for word, on either strand. numpy only.

By chance a word of 24 is almost never met twice: 4^24 is 2.8e14. Letters: N words, K bases of a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from ttbench.harness.data import Document
from ttbench.tasks.markov import bases_of

K = 24


def words_of(bases: Int[np.ndarray, "T"]) -> Int[np.ndarray, "N"]:
    """Each word of K bases (codes 0 to 3) as a number (uint64), the same for a word and its reverse complement."""
    num_words = max(0, len(bases) - K + 1)
    forward, backward = np.zeros(num_words, np.uint64), np.zeros(num_words, np.uint64)
    for place in range(K):
        part = bases[place : place + num_words].astype(np.uint64)
        forward = forward * np.uint64(4) + part
        backward += (np.uint64(3) - part) * np.uint64(4**place)
    return np.minimum(forward, backward)


@lru_cache(maxsize=1)
def vocabulary(documents: tuple[Document, ...]) -> Int[np.ndarray, "N"]:
    """All words of these documents, sorted, each once; the last answer is kept."""
    return np.unique(np.concatenate([words_of(bases_of(document)) for document in documents]))


def seen(words: Int[np.ndarray, "N"], known: Int[np.ndarray, "M"]) -> Bool[np.ndarray, "N"]:
    """Which words stand in a sorted vocabulary."""
    at = np.minimum(np.searchsorted(known, words), max(0, len(known) - 1))
    return known[at] == words if len(known) else np.zeros(len(words), dtype=bool)


def shared(documents: Iterable[Document], known: Int[np.ndarray, "M"]) -> float:
    """Share of the words of some documents that stand in a vocabulary. Raises ZeroDivisionError without a word."""
    found = [seen(words_of(bases_of(document)), known) for document in documents]
    return float(sum(int(part.sum()) for part in found)) / sum(len(part) for part in found)
