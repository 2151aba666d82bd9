"""How long work takes on a machine whose rates are known: arithmetic on measured times. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ttbench.machine.work import Calls, Work

# Attention may be so much slower or faster than the products of the same number of FLOP.
_ATTENTION_SPREAD = 4.0
_SAME_FIT = 1e-9  # squared relative errors that are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of one call at a batch size: a fixed part, and parts for tokens, earlier tokens read and losses."""

    call_s: float
    token_s: float  # for each token of each sequence
    pair_s: float  # for each earlier token that a token of a sequence reads
    step_s: float  # of one decoding step of the whole batch at an empty state
    score_s: float = 0.0  # for each token of each sequence whose loss is taken

    def seconds(self, calls: Calls, window: int | None) -> float:
        """Wall seconds of one call."""
        pairs = calls.batch_size * calls.pairs(window) * self.pair_s
        if calls.steps:
            return calls.num_tokens * self.step_s + pairs
        losses = calls.batch_size * calls.scored * self.score_s
        return self.call_s + calls.batch_size * calls.num_tokens * self.token_s + pairs + losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast a checkpoint runs on a machine, as measured at some batch sizes."""

    paces: Mapping[int, Pace]  # by batch size
    window: int | None  # of the checkpoint's Cost

    def seconds(self, work: Work, *, compress_s: float) -> float:
        """Wall seconds of a cell's work, without what its process needs to begin.

        Args:
            compress_s: seconds of the compressors for a byte of text.
        """
        return work.seconds + work.compressed_bytes * compress_s + sum(self._seconds(calls) for calls in work.calls)

    def _seconds(self, calls: Calls) -> float:
        nearest = min(self.paces, key=lambda size: abs(np.log(size / max(1, calls.batch_size))))
        one = self.paces[nearest].seconds(calls, self.window)
        total = max(calls.num * one, calls.least_s)
        return total if calls.most_s is None else min(total, max(calls.most_s, 0.0) + one)


def fit_pace(
    times: Mapping[int, float],
    *,
    batch_size: int,
    step_s: float,
    window: int | None,
    attention: float | None,
    score_s: float = 0.0,
) -> Pace:
    """The pace that fits the seconds of calls of some lengths, no part of it negative; relative errors weigh equally.

    Args:
        times: tokens of a sequence -> seconds of a call of `batch_size` such sequences.
        attention: FLOP for an earlier token read, for each FLOP of a token by itself; None: not known. A fit that
            gives context another cost than these FLOP allow is made again with the nearest cost that they do: short
            calls cannot tell a token's own cost from that of the few before it.
    """
    columns = np.array(
        [[1.0, batch_size * size, batch_size * Calls(num=1, num_tokens=size).pairs(window)] for size in times]
    )
    columns /= np.array(list(times.values()))[:, None]
    call_s, token_s, pair_s = _least_squares(columns)
    if attention is not None:
        lowest, highest = attention / _ATTENTION_SPREAD, attention * _ATTENTION_SPREAD
        if not lowest * token_s <= pair_s <= highest * token_s:
            share = lowest if pair_s < lowest * token_s else highest
            call_s, token_s = _least_squares(np.stack([columns[:, 0], columns[:, 1] + share * columns[:, 2]], axis=1))
            pair_s = share * token_s
    return Pace(call_s=call_s, token_s=token_s, pair_s=pair_s, step_s=step_s, score_s=score_s)


def _least_squares(columns: np.ndarray) -> list[float]:
    """Non-negative x with columns @ x as near to 1 as can be: the best of all choices of parts that are not zero.

    Of choices that fit equally well, as many do where there are few lengths, the first: fewest parts, plainest parts.
    """
    num_parts = columns.shape[1]
    best, found = float("inf"), [0.0] * num_parts
    for number in range(1, min(num_parts, len(columns)) + 1):
        for chosen in itertools.combinations(range(num_parts), number):
            part = columns[:, chosen]
            solved = np.linalg.lstsq(part, np.ones(len(columns)), rcond=None)[0]
            error = float(np.square(part @ solved - 1.0).sum())
            if (solved >= 0).all() and error < best - _SAME_FIT:
                best, found = error, [0.0] * num_parts
                for place, value in zip(chosen, solved, strict=True):
                    found[place] = float(value)
    return found
