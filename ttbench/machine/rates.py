"""How long work takes on a machine whose rates are known: arithmetic on measured times. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ttbench.machine.work import Calls, Work

# Attention may be so much slower or faster than the products of the same number of FLOP.
_ATTENTION_SPREAD = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of one call at a batch size: a fixed part, a part for each token, a part for each earlier token read."""

    call_s: float
    token_s: float  # for each token of each sequence
    pair_s: float  # for each earlier token that a token of a sequence reads
    step_s: float  # of one decoding step of the whole batch at an empty state

    def seconds(self, calls: Calls, window: int | None) -> float:
        """Wall seconds of one call."""
        pairs = calls.batch_size * calls.pairs(window) * self.pair_s
        if calls.steps:
            return calls.num_tokens * self.step_s + pairs
        return self.call_s + calls.batch_size * calls.num_tokens * self.token_s + pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast a checkpoint runs on a machine, as measured at some batch sizes."""

    paces: Mapping[int, Pace]  # by batch size
    window: int | None  # of the checkpoint's Cost
    load_s: float

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
    times: Mapping[int, float], *, batch_size: int, step_s: float, window: int | None, attention: float | None
) -> Pace:
    """The pace that fits the seconds of calls of some lengths, no part of it negative; relative errors weigh equally.

    Args:
        times: tokens of a sequence -> seconds of a call of `batch_size` such sequences.
        attention: FLOP for an earlier token read, for each FLOP of a token by itself; None: not known. Where the
            calls were too short to show the cost of context, it is told from this.
    """
    columns = np.array(
        [[1.0, batch_size * size, batch_size * Calls(num=1, num_tokens=size).pairs(window)] for size in times]
    )
    seconds = np.array(list(times.values()))
    call_s, token_s, pair_s = _least_squares(columns / seconds[:, None])
    if attention is not None:
        lowest, highest = attention * token_s / _ATTENTION_SPREAD, attention * token_s * _ATTENTION_SPREAD
        pair_s = min(max(pair_s, lowest), highest)
    return Pace(call_s=call_s, token_s=token_s, pair_s=pair_s, step_s=step_s)


def _least_squares(columns: np.ndarray) -> tuple[float, float, float]:
    """Non-negative x with columns @ x as near to 1 as can be: the best of all choices of parts that are not zero."""
    best, found = float("inf"), (0.0, 0.0, 0.0)
    for number in range(1, min(3, len(columns)) + 1):
        for chosen in itertools.combinations(range(3), number):
            part = columns[:, chosen]
            solved = np.linalg.lstsq(part, np.ones(len(columns)), rcond=None)[0]
            error = float(np.square(part @ solved - 1.0).sum())
            if (solved >= 0).all() and error < best * (1 - 1e-9):
                parts = [0.0, 0.0, 0.0]
                for place, value in zip(chosen, solved, strict=True):
                    parts[place] = float(value)
                best, found = error, (parts[0], parts[1], parts[2])
    return found
