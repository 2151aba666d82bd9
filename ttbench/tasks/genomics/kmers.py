"""Words of 24 bases: how much of a text stands in other texts, word for word, on either strand. numpy only.

By chance a word of 24 is almost never met twice: 4^24 is 2.8e14. Letters: T bases, N, M and O words, K bases of a
word.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, UInt

from ttbench.corpora.corpus import Document
from ttbench.tasks.genomics.markov import bases_of

K = 24


def words_of(bases: Int[np.ndarray, "T"]) -> UInt[np.ndarray, "N"]:
    """Each word of K bases (codes 0 to 3) as a number (uint64), the same for a word and its reverse complement."""
    forward = _digits(bases.astype(np.uint64))
    backward = _digits(3 - bases[::-1].astype(np.uint64))[::-1]
    return np.minimum(forward, backward)


def _digits(digits: UInt[np.ndarray, "T"]) -> UInt[np.ndarray, "N"]:
    """Every run of K digits as a number in base 4: runs of 2, 4, 8, 16 of two halves, 24 of 8 + 16."""
    lengths = {1: digits}
    for length in (2, 4, 8, 16):
        lengths[length] = _joined(lengths[length // 2], lengths[length // 2], length // 2)
    return _joined(lengths[8], lengths[16], 16)


def _joined(left: UInt[np.ndarray, "N"], right: UInt[np.ndarray, "M"], right_len: int) -> UInt[np.ndarray, "O"]:
    """Runs whose first digits stand in `left` and whose last `right_len`, straight after them, in `right`."""
    left_len = K - right_len if right_len == 16 else right_len
    num_runs = max(0, len(right) - left_len)
    return (left[:num_runs] << np.uint64(2 * right_len)) | right[left_len : left_len + num_runs]


@lru_cache(maxsize=1)
def vocabulary(documents: tuple[Document, ...]) -> UInt[np.ndarray, "N"]:
    """All words of these documents, sorted, each once; the last answer is kept."""
    return np.unique(np.concatenate([words_of(bases_of(document)) for document in documents]))


def seen(words: UInt[np.ndarray, "N"], known: UInt[np.ndarray, "M"]) -> Bool[np.ndarray, "N"]:
    """Which words stand in a sorted vocabulary."""
    at = np.minimum(np.searchsorted(known, words), max(0, len(known) - 1))
    return known[at] == words if len(known) else np.zeros(len(words), dtype=bool)


def shared(documents: Iterable[Document], known: UInt[np.ndarray, "M"]) -> float:
    """Share of the words of some documents that stand in a vocabulary. Raises ZeroDivisionError without a word."""
    found = [seen(words_of(bases_of(document)), known) for document in documents]
    return float(sum(int(part.sum()) for part in found)) / sum(len(part) for part in found)
