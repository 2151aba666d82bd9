"""The windows of `lme-rolling` and `hf-stride`: each read from an empty state, together they score each token once.

    lme-rolling, T = 4    each document by itself, BOS before its first window; a window knows one token before its
                          targets, and the last one is moved back to be full
        text       BOS  a  b  c  d  e  f  g  h  i  j
        window 1   read read ..  ..                        reads BOS a b c, scores a b c d
        window 2                 read ..  ..  ..           reads d e f g,   scores e f g h
        window 3                          read .. ..  ..   reads f g h i,   scores i j

    hf-stride, T = 4, S = 2    documents end to end, no BOS; a window ends S tokens after the one before and scores
                               what that one did not; of the first, the first token is read only
        text       a  b  c  d  e  f  g
        window 1   .. b  c  d                              reads a b c,     scores b c d
        window 2         .. .. e  f                        reads c d e,     scores e f
        window 3               .. .. g                     reads e f,       scores g

T is the most tokens that one window holds: that are read in `lme-rolling`, read or scored in `hf-stride`.

Source: lm-evaluation-harness 0.4.13, `loglikelihood_rolling` of its Hugging Face model with `context_len=1`; the page
"Perplexity of fixed-length models" of the transformers documentation @ 052b1dc.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ttbench.corpora.corpus import Document
from ttbench.errors import TooShortError, UnsupportedError

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer
    from ttbench.engines.engine import Engine

UNSCORED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSpan:
    """One window: places [begin, end - 1) are read, the tokens at [first, end) scored."""

    begin: int  # place
    first: int  # place; after begin
    end: int  # place
    page_tokens: int  # targets that the page of hf-stride takes this window to have

    @property
    def num_read(self) -> int:
        """Tokens read."""
        return self.end - 1 - self.begin


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingTape:
    """All that is read, one entry per place."""

    documents: tuple[Document, ...]
    ids: Int[np.ndarray, "T"]
    owner: Int[np.ndarray, "T"]  # index of the document
    num_bytes: Int[np.ndarray, "T"]  # 0 for BOS
    starts: tuple[int, ...]  # place of each document's first entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums by document, [N] each."""

    num_tokens: Int[np.ndarray, "N"]
    num_bytes: Int[np.ndarray, "N"]
    nats: Float[np.ndarray, "N"]
    page_tokens: Float[np.ndarray, "N"]
    page_nats: Float[np.ndarray, "N"]
    num_reused: Int[np.ndarray, "N"]  # of num_tokens, those that were known already


def lay_tape(documents: Sequence[Document], tokenizer: Tokenizer, *, bos_id: int | None) -> RollingTape:
    """Encode the documents one by one and join them, each behind `bos_id` unless that is None."""
    bos = np.array([] if bos_id is None else [bos_id], dtype=np.int64)
    ids, owner, num_bytes, starts = [], [], [], [0]
    for index, document in enumerate(documents):
        encoded = tokenizer.encode(document.text)
        ids += [bos, encoded]
        num_bytes += [np.zeros(len(bos), dtype=np.int64), tokenizer.byte_lengths(encoded)]
        owner.append(np.full(len(bos) + len(encoded), index))
        starts.append(starts[-1] + len(owner[-1]))
    return RollingTape(
        documents=tuple(documents),
        ids=np.concatenate(ids),
        owner=np.concatenate(owner),
        num_bytes=np.concatenate(num_bytes),
        starts=tuple(starts[:-1]),
    )


def lay_rolling(
    documents: Sequence[Document], tokenizer: Tokenizer, *, max_len: int
) -> tuple[RollingTape, list[ScoredSpan]]:
    """Text and windows of `lme-rolling`.

    Raises:
        UnsupportedError: the tokenizer has no BOS to predict a document's first token from.
    """
    if tokenizer.bos_id is None:
        raise UnsupportedError(
            "lme-rolling predicts a document's first token from BOS, and this tokenizer has none; use --protocol packed"
        )
    tape = lay_tape(documents, tokenizer, bos_id=tokenizer.bos_id)
    lengths = np.diff([*tape.starts, len(tape.ids)])
    placed = zip(tape.starts, lengths, strict=True)
    return tape, [span for start, size in placed for span in rolling_spans(int(size) - 1, start=start, max_len=max_len)]


def lay_strided(
    documents: Sequence[Document], tokenizer: Tokenizer, *, max_len: int, stride: int
) -> tuple[RollingTape, list[ScoredSpan]]:
    """Text and windows of `hf-stride`.

    Raises:
        UnsupportedError: a window of one token has nothing to score.
        TooShortError: the text is shorter than one window.
    """
    if max_len < 2:
        raise UnsupportedError("a window of hf-stride holds what it reads and what it scores; ask for 2 tokens or more")
    tape = lay_tape(documents, tokenizer, bos_id=None)
    num_tokens = len(tape.ids)
    if num_tokens < max_len:
        raise TooShortError(
            f"the {len(documents)} test documents asked for have {num_tokens:,} tokens in all, too few for one window "
            f"of {max_len:,}; ask for at most {num_tokens:,}, or for more documents"
        )
    return tape, strided_spans(num_tokens, max_len=max_len, stride=stride)


def rolling_spans(num_tokens: int, *, start: int, max_len: int) -> list[ScoredSpan]:
    """Windows of `lme-rolling` over BOS at place `start` and the `num_tokens` tokens behind it."""
    spans = []
    for scored in range(0, num_tokens, max_len):
        end = min(scored + max_len, num_tokens)
        spans.append(
            ScoredSpan(
                begin=start + max(0, end - max_len),
                first=start + 1 + scored,
                end=start + 1 + end,
                page_tokens=end - scored,
            )
        )
    return spans


def strided_spans(num_tokens: int, *, max_len: int, stride: int) -> list[ScoredSpan]:
    """Windows of `hf-stride` over `num_tokens` tokens. One without a token to score is left out.

    `page_tokens` is one less than the tokens that are new in a window, as on the page. Where windows overlap all of
    the new ones are scored: the page's mean over them is exact, its weight is one too small.
    """
    spans, scored = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + max_len, num_tokens)
        first = max(scored, begin + 1)
        if first < end:
            spans.append(ScoredSpan(begin=begin, first=first, end=end, page_tokens=end - scored - 1))
        scored = end
        if end == num_tokens:
            break
    return spans


def score_spans(
    tape: RollingTape,
    spans: Sequence[ScoredSpan],
    engine: Engine,
    *,
    batch_size: int,
    known: dict[int, Float[np.ndarray, "_"]],
    progress: Callable[[int, int], None],
) -> Totals:
    """Score every window, up to `batch_size` of one length at a time, so that nothing is ever padded.

    Args:
        known: nats of the tokens behind a place, read from an empty state, by that place: windows that are among them
            are not read again, and those of which every token is scored are added.
    """
    nats, weights, scored, reused = (np.zeros(len(tape.ids)) for _ in range(4))
    done, total = 0, sum(span.end - span.first for span in spans)
    fresh = []
    for span in spans:
        place = slice(span.first, span.end)
        scored[place], weights[place] = 1, span.page_tokens / (span.end - span.first)
        read = known.get(span.begin, ())
        if len(read) < span.num_read:
            fresh.append(span)
        else:
            nats[place], reused[place] = read[span.first - 1 - span.begin : span.num_read], 1
            done += span.end - span.first
    for batch in _batches(fresh, batch_size=batch_size):
        for span, found in zip(batch, _score_batch(tape, batch, engine), strict=True):
            nats[span.first : span.end] = found
            done += span.end - span.first
            if span.first == span.begin + 1:
                known[span.begin] = found
        progress(done, total)
    progress(done, total)

    def summed(values: np.ndarray) -> Float[np.ndarray, "N"]:
        return np.bincount(tape.owner, weights=values, minlength=len(tape.documents))

    return Totals(
        num_tokens=summed(scored).astype(np.int64),
        num_bytes=summed(scored * tape.num_bytes).astype(np.int64),
        nats=summed(nats),
        page_tokens=summed(weights),
        page_nats=summed(nats * weights),
        num_reused=summed(reused).astype(np.int64),
    )


def _batches(spans: Sequence[ScoredSpan], *, batch_size: int) -> Iterator[list[ScoredSpan]]:
    """Windows of equal length together, the longest first, so that memory is short at once or never."""
    by_len: dict[int, list[ScoredSpan]] = {}
    for span in spans:
        by_len.setdefault(span.num_read, []).append(span)
    for _, alike in sorted(by_len.items(), reverse=True):
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _score_batch(tape: RollingTape, batch: Sequence[ScoredSpan], engine: Engine) -> list[Float[np.ndarray, "S"]]:
    """Nats of each window's targets."""
    ids = np.stack([tape.ids[span.begin : span.end - 1] for span in batch])
    targets = np.full(ids.shape, UNSCORED)
    for row, span in enumerate(batch):
        targets[row, span.first - 1 - span.begin :] = tape.ids[span.first : span.end]
    engine.reset(*ids.shape)
    nats = engine.score(ids, targets)
    return [nats[row, span.first - 1 - span.begin :] for row, span in enumerate(batch)]
