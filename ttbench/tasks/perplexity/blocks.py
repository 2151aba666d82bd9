"""The text of the protocols `packed`, `position` and `stream`: test documents end to end, cut in blocks of c tokens.

    d1 d1 d1 d1 BOS d2 d2 d2 BOS d3 ...      targets; a BOS between documents is read but never scored
    |--- c ---|--- c ---|--- c ---|-tail-|   each block is read from an empty state, after one BOS of its own

Every token is scored once, the shorter tail too, so the bytes scored are those of the text at every c. A tokenizer
without BOS has nothing to predict a block's first token from: that token is read and not scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ttbench.corpora.corpus import Document
from ttbench.errors import TooShortError

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer
    from ttbench.engines.engine import Engine

UNSCORED, BETWEEN = -1, -1
Nats = Float[np.ndarray, "_"]  # of one block; blocks of several contexts have several lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockText:
    """Documents end to end, one entry per token."""

    documents: tuple[Document, ...]
    ids: Int[np.ndarray, "T"]  # int32, as all three: a text of millions of tokens must not hide a model's memory
    owner: Int[np.ndarray, "T"]  # index of the document; BETWEEN for a BOS between two
    num_bytes: Int[np.ndarray, "T"]
    bos_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Additive totals by document and bucket of positions."""

    num_tokens: Int[np.ndarray, "N K"]
    num_bytes: Int[np.ndarray, "N K"]
    nats: Float[np.ndarray, "N K"]
    num_reused: Int[np.ndarray, "N K"]  # of num_tokens, those that were known already
    edges: tuple[int, ...]  # K + 1 positions


def lay_out(documents: Sequence[Document], tokenizer: Tokenizer) -> BlockText:
    """Encode and join, with BOS between documents as in training."""
    bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=np.int32)
    ids, owner, num_bytes = [], [], []
    for index, document in enumerate(documents):
        encoded = tokenizer.encode(document.text)
        gap = bos if index else bos[:0]
        ids += [gap, encoded.astype(np.int32)]
        owner += [np.full(len(gap), BETWEEN, np.int32), np.full(len(encoded), index, np.int32)]
        num_bytes += [np.zeros(len(gap), np.int32), tokenizer.byte_lengths(encoded).astype(np.int32)]
    return BlockText(
        documents=tuple(documents),
        ids=np.concatenate(ids),
        owner=np.concatenate(owner),
        num_bytes=np.concatenate(num_bytes),
        bos_id=tokenizer.bos_id,
    )


def position_edges(context_len: int) -> tuple[int, ...]:
    """0, 1, 2, 4, 8, ... context_len: bucket k holds the positions from edge k up to edge k + 1."""
    edges = [0, 1]
    while edges[-1] < context_len:
        edges.append(min(2 * edges[-1], context_len))
    return tuple(edges)


def score_blocks(
    text: BlockText,
    engine: Engine,
    *,
    context_len: int,
    chunk_len: int,
    batch_size: int,
    by_position: bool,
    known: dict[int, Nats] | None,
    progress: Callable[[int, int], None],
) -> Sums:
    """Score every block, `chunk_len` tokens at a time with the state carried over.

    Args:
        known: nats of blocks by their start, of longer contexts too: a block whose beginning is among them is not read
            again, and what is read is added. None: every block is read, and nothing as long as a block is kept.

    Raises:
        TooShortError: the text is shorter than one block; nothing is ever repeated to fill it.
    """
    num_tokens = len(text.ids)
    if num_tokens < context_len:
        raise TooShortError(
            f"the {len(text.documents)} test documents asked for have {num_tokens:,} tokens in all, too few for one "
            f"block of {context_len:,}; ask for at most {num_tokens:,}, or for more documents"
        )
    tally = _Tally(text, position_edges(context_len) if by_position else (0, context_len))
    done = 0
    for starts, block_len in _blocks(num_tokens, context_len=context_len):
        # without BOS the first token of a block has nothing before it
        skipped = int(text.bos_id is None)
        fresh = [start for start in starts if known is None or len(known.get(start, ())) < block_len - skipped]
        done += (len(starts) - len(fresh)) * block_len
        for first in range(0, len(fresh), batch_size):
            batch = np.array(fresh[first : first + batch_size])
            rows = []
            for chunk, nats in _score_batch(text, engine, batch, block_len=block_len, chunk_len=chunk_len):
                if known is None:
                    tally.add(batch, chunk, nats)
                else:
                    rows.append(nats)
                progress(done + len(batch) * int(chunk[-1] + 1), num_tokens)
            if known is not None:
                known |= dict(zip(batch.tolist(), np.concatenate(rows, axis=1), strict=True))
            done += len(batch) * block_len
        if known is not None:
            read, places = set(fresh), np.arange(skipped, block_len)
            for start in starts:
                tally.add(np.array([start]), places, known[start][None, : len(places)], reused=start not in read)
        progress(done, num_tokens)
    return tally.sums


class _Tally:
    """Sums that grow, in the order of the text."""

    def __init__(self, text: BlockText, edges: tuple[int, ...]) -> None:
        shape = (len(text.documents), len(edges) - 1)
        counts = [np.zeros(shape, np.int64) for _ in range(3)]
        self._text = text
        self.sums = Sums(
            num_tokens=counts[0], num_bytes=counts[1], num_reused=counts[2], nats=np.zeros(shape), edges=edges
        )

    def add(
        self,
        starts: Int[np.ndarray, "B"],
        chunk: Int[np.ndarray, "C"],
        nats: Float[np.ndarray, "B C"],
        *,
        reused: bool = False,
    ) -> None:
        """Nats of the targets at the places `chunk` of the blocks at `starts`."""
        sums, places = self.sums, starts[:, None] + chunk
        owner = self._text.owner[places]
        scored = owner != BETWEEN
        bucket = np.broadcast_to(np.searchsorted(sums.edges, chunk, side="right") - 1, places.shape)
        at = (owner[scored], bucket[scored])
        np.add.at(sums.num_tokens, at, 1)
        np.add.at(sums.num_bytes, at, self._text.num_bytes[places][scored])
        np.add.at(sums.nats, at, nats[scored])
        if reused:
            np.add.at(sums.num_reused, at, 1)


def _blocks(num_tokens: int, *, context_len: int) -> Iterator[tuple[list[int], int]]:
    """Starts and length of the full blocks, then of the tail."""
    yield list(range(0, num_tokens - context_len + 1, context_len)), context_len
    tail = num_tokens % context_len
    if tail:
        yield [num_tokens - tail], tail


def _score_batch(
    text: BlockText, engine: Engine, starts: Int[np.ndarray, "B"], *, block_len: int, chunk_len: int
) -> Iterator[tuple[Int[np.ndarray, "C"], Float[np.ndarray, "B C"]]]:
    """Places within a block that are targets, `chunk_len` at a time, and their nats in each block.

    Nothing here is as long as a block, so that a long one needs no more memory than a short one.
    """
    engine.reset(len(starts), block_len)
    for first in range(int(text.bos_id is None), block_len, chunk_len):
        chunk = np.arange(first, min(first + chunk_len, block_len))
        places = starts[:, None] + chunk  # [B, C]
        ids = text.ids[places - 1].astype(np.int64)
        if first == 0 and text.bos_id is not None:
            ids[:, 0] = text.bos_id
        targets = np.where(text.owner[places] == BETWEEN, UNSCORED, text.ids[places]).astype(np.int64)
        yield chunk, engine.score(ids, targets)
