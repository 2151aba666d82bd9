"""Requests answered by an engine: shared prefixes are read once, their state is saved and loaded for what follows.

A request is a row of tokens of which the last ones are scored. What several rows begin with is read at batch size 1
(`ttbench.lmeval.prefixes`); the rests are read side by side, at most `batch_size` of them, the saved state broadcast
to each. Letters: B requests, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from ttbench.engines.engine import Engine
from ttbench.errors import UnsupportedError
from ttbench.lmeval.prefixes import PrefixNode, share

# A batch holds at most this many tokens, whatever the batch size: state and activations stay within a few GiB.
MAX_BATCH_TOKENS = 65_536
UNSCORED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Tokens of which the last `num_scored` are scored; the last of them is a target only, it is not read."""

    ids: tuple[int, ...]
    num_scored: int

    @property
    def num_read(self) -> int:
        """Tokens that the model reads."""
        return len(self.ids) - 1

    @property
    def prefix(self) -> tuple[int, ...]:
        """What is read before the first token whose prediction is scored: this much can be shared."""
        return self.ids[: self.num_read - self.num_scored]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a model says of the scored tokens of a request."""

    nats: float  # negative log-likelihood, summed in float64
    greedy: bool  # each scored token is the most likely one


def usable_batch_size(engine: Engine, asked: int) -> int:
    """The batch size asked for; 1 when the engine computes several sequences at once wrongly."""
    try:
        engine.reset(asked, 1)
    except UnsupportedError:
        return 1
    return asked


def score(
    requests: Sequence[ScoreRequest],
    engine: Engine,
    *,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> list[Score]:
    """Score every request from an empty state. `progress` gets requests done, and all."""
    found: dict[int, Score] = {}
    for saved, start, places in visit([request.prefix for request in requests], engine):
        for batch in _batches(places, requests, start=start, batch_size=batch_size):
            rows = [requests[place] for place in batch]
            found.update(zip(batch, _score_batch(rows, engine, saved=saved, start=start), strict=True))
            progress(len(found), len(requests))
    return [found[place] for place in range(len(requests))]


def visit(prefixes: Sequence[Sequence[int]], engine: Engine) -> Iterator[tuple[Any, int, tuple[int, ...]]]:
    """Read what prefixes share, and yield for each node its saved state, its length in tokens, and its leaves.

    The saved state is None at the root, where nothing was read. Whoever takes a leaf resets the engine, restores the
    state and reads the rest of that leaf.
    """
    yield from _visit(share(prefixes), engine, before=None)


def _visit(node: PrefixNode, engine: Engine, *, before: Any) -> Iterator[tuple[Any, int, tuple[int, ...]]]:
    saved = before
    if node.ids:
        engine.reset(1, node.end)
        if before is not None:
            engine.restore(before)
        engine.prefill(np.array([node.ids], dtype=np.int64))
        saved = engine.snapshot()
    if node.leaves:
        yield saved, node.end, node.leaves
    for child in node.children:
        yield from _visit(child, engine, before=saved)


def _batches(
    places: Sequence[int], requests: Sequence[ScoreRequest], *, start: int, batch_size: int
) -> Iterator[list[int]]:
    """Requests of similar lengths together, the longest first, so that memory runs out at once or never."""
    left = sorted(places, key=lambda place: -requests[place].num_read)
    while left:
        size = max(1, min(batch_size, MAX_BATCH_TOKENS // requests[left[0]].num_read))
        yield left[:size]
        left = left[size:]


def _score_batch(rows: Sequence[ScoreRequest], engine: Engine, *, saved: Any, start: int) -> list[Score]:
    lengths = np.array([row.num_read - start for row in rows])
    ids, targets = _pad(rows, start=start, width=int(lengths.max()))
    engine.reset(len(rows), start + ids.shape[1])
    if saved is not None:
        engine.restore(saved)
    nats, top = engine.score_top(ids, targets, lengths)
    scored = targets != UNSCORED
    return [
        Score(nats=float(nats[row][scored[row]].sum()), greedy=bool(top[row][scored[row]].all()))
        for row in range(len(rows))
    ]


def _pad(
    rows: Sequence[ScoreRequest], *, start: int, width: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, "B T"]]:
    """What is read from `start` on, and its targets, filled up on the right, where no row sees it."""
    ids = np.zeros((len(rows), width), dtype=np.int64)
    targets = np.full((len(rows), width), UNSCORED, dtype=np.int64)
    for index, row in enumerate(rows):
        end = row.num_read - start
        ids[index, :end] = row.ids[start:-1]
        targets[index, end - row.num_scored : end] = row.ids[len(row.ids) - row.num_scored :]
    return ids, targets
