"""A Markov model of DNA: what the twelve bases before a base say about it. numpy only.

    p_k(x | c1..ck) = (n(c1..ck x) + ALPHA p_{k-1}(x | c1..c_{k-1})) / (n(c1..ck) + ALPHA),    p_{-1}(x) = 1/4

c1 is the base just before x; n counts in the training genomes, forward strand only; k goes up to 12, or to the
beginning of the document. So a context that was never seen says what its shorter ones say. ALPHA was chosen on the
valid species (docs/decisions/0015-genomes-and-a-probe.md). The counts are final: nothing is learned
from the document that is scored.

All counts come from one sorted array: a place of the text is the number with the digits x c1 c2 ... c12 in base 4, and
the places with given x c1..ck are a range of it. Letters: N places, M that are scored, P that have
enough bases before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int, UInt

from ttbench.corpora.corpus import Document
from ttbench.errors import UsageError

ORDER = 12
ALPHA = 1024.0
LETTERS = b"ACGT"
_NOT_A_BASE = 255
_CODES = np.full(256, _NOT_A_BASE, dtype=np.uint8)
_CODES[list(LETTERS)] = np.arange(4)


class Markov:
    """Counts of all contexts up to ORDER in some documents."""

    def __init__(self, documents: Sequence[Document]) -> None:
        parts = [_places(bases_of(document), ORDER) for document in documents]
        self._sorted = np.sort(np.concatenate(parts))

    def nats(self, text: Int[np.ndarray, "N"], first: int, *, alpha: float = ALPHA) -> Float[np.ndarray, "M"]:
        """Nats of the bases from `first` on, each after all that stand before it in `text` (codes 0 to 3)."""
        targets = np.arange(first, len(text))
        shares = np.full((len(targets), 4), 0.25)
        context = np.zeros(len(targets), dtype=np.int64)
        for order in range(ORDER + 1):
            if order:
                has = targets >= order
                context = 4 * context + np.where(has, text[np.maximum(targets - order, 0)], 0)
            else:
                has = np.ones(len(targets), dtype=bool)
            counts = np.stack([self._count(x * 4**order + context, order) for x in range(4)], axis=1)
            longer = (counts + alpha * shares) / (counts.sum(axis=1, keepdims=True) + alpha)
            shares = np.where(has[:, None], longer, shares)
        return -np.log(shares[np.arange(len(targets)), text[targets]])

    def _count(self, key: Int[np.ndarray, "N"], order: int) -> Int[np.ndarray, "N"]:
        """Places that begin with the order + 1 digits of `key`."""
        span = 4 ** (ORDER - order)
        edges = np.stack([key * span, (key + 1) * span]).astype(self._sorted.dtype)
        low, high = np.searchsorted(self._sorted, edges)
        return high - low


@lru_cache(maxsize=1)
def markov_of(documents: tuple[Document, ...]) -> Markov:
    """The model of these documents; the last one is kept."""
    return Markov(documents)


def bases_of(document: Document) -> Int[np.ndarray, "N"]:
    """The bases of a document as 0 to 3 (int64). Raises UsageError on any other letter."""
    codes = _CODES[np.frombuffer(document.text, dtype=np.uint8)]
    if (codes == _NOT_A_BASE).any():
        at = int(np.argmax(codes == _NOT_A_BASE))
        raise UsageError(
            f"document '{document.name}' holds {document.text[at : at + 1]!r} at byte {at:,}; bits per base are of "
            "A, C, G and T in capitals alone: take --corpus genomes, or leave headers, line ends and other letters out"
        )
    return codes.astype(np.int64)


def _places(bases: Int[np.ndarray, "N"], order: int) -> UInt[np.ndarray, "P"]:
    """Every place that has `order` bases before it, as a number of order + 1 digits: itself, then those before it."""
    num_places = max(0, len(bases) - order)
    key = np.zeros(num_places, dtype=np.uint32)
    for back in range(order + 1):
        key = 4 * key + bases[order - back : order - back + num_places].astype(np.uint32)
    return key
