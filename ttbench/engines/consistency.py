"""Probes of how an engine reads: the same text in several ways, which must cost the same, token by token.

    at once    |=============================|        the way tasks read
    in pieces  |=|==|=====|========|===|====||        a piece has seen nothing that follows it
    changed    |=============|xxxxxxxxxxxxxxx|        the same shape with other tokens after a cut
    and again  a short text, before and after the long one

The end of each piece is a cut: a model that looks ahead, from whatever place on, gives the last tokens of a piece
another loss than when it reads on. So one reading in pieces tests causality at some thirty places, and the carried
state at all of them. Differences are those of losses in nats, which is what a score is made of. Everything goes through
the Engine, so one set of probes serves every engine, in the dtype of the run.

Beyond NEAR tokens the text is read once, in the forwards a task would use, and only some of these forwards are repeated
in pieces and with changed tokens: the last, and others drawn at random.
Letters: B batch, T tokens, S of a short text, N targets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ttbench.engines.check_result import CheckResult
from ttbench.engines.engine import Engine
from ttbench.engines.findings import NUM_CUTS, SHORT

Ids = Int[np.ndarray, "T"]
Nats = Float[np.ndarray, "N"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Changes of a token's loss that are rounding."""

    same: float  # nats; of any token, where shapes are the same and only later or unrelated tokens differ
    mean: float  # nats; on average, where the same tokens are read by other shapes
    far: float  # nats; of single tokens likewise


# Measured on every architecture of the registry and the zoo (tests/engines/test_probes.py): float32 stays below a
# tenth of these. A choice among discrete ways (a bucket of LSH attention, an expert) may turn with rounding, so a few
# tokens may lie beyond `far`, and more beyond `same` where nothing moves in float64 (`Session.unmoved`).
TOLERANCES = {
    "float64": Tolerance(same=1e-9, mean=1e-7, far=1e-6),
    "float32": Tolerance(same=1e-3, mean=1e-3, far=1e-2),
    "float16": Tolerance(same=1e-2, mean=5e-2, far=0.5),
    "bfloat16": Tolerance(same=2e-2, mean=0.1, far=1.0),
}
FEW = 0.01  # share of tokens that may lie beyond `far`; two at least
# Of a model of choices: cuts after which other tokens are read, and tokens before each that are looked at. Moves that
# are spread over a quarter of these distances, or more, make as many at one of them in less than CHANCE of all models.
RETRIED_CUTS, REACH, CHANCE = 16, 256, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeText:
    """What is read: random ids, or ids of a text with stretches of random ones."""

    long: Int[np.ndarray, "T"]  # as many tokens as are looked at, and one more as the last target
    short: Int[np.ndarray, "S"]  # SHORT tokens and one more
    other: Int[np.ndarray, "S"]  # another short text


def draw_text(ids: Ids | None, *, num_tokens: int, vocab_size: int, seed: int) -> ProbeText:
    """Text for the probes: `ids`, repeated as needed, in which every fifth stretch of 64 tokens is random."""
    rng = np.random.default_rng(seed)
    short, other = rng.integers(0, vocab_size, (2, SHORT + 1))
    long = rng.integers(0, vocab_size, num_tokens + 1)
    if ids is not None and len(ids):
        own = np.resize(ids, num_tokens + 1)
        long = np.where(np.arange(num_tokens + 1) // 64 % 5 == 4, long, own)
        # a text's own beginning, the opening token among it
        short[: SHORT // 2] = own[: SHORT // 2] if num_tokens >= SHORT else short[: SHORT // 2]
    return ProbeText(long=long, short=short, other=other)


def draw_cuts(num_tokens: int, *, windows: Sequence[int], seed: int) -> list[int]:
    """Places at which a text of T tokens is cut, ascending: by the logarithm, uniformly, and at ends of usual blocks.

    Besides these: about each of `windows`, and the last tokens.
    """
    rng = np.random.default_rng(seed)
    by_log = np.exp(rng.uniform(0, np.log(max(num_tokens, 2)), NUM_CUTS // 3)).astype(int)
    uniform = rng.integers(1, max(num_tokens, 2), NUM_CUTS - len(by_log))
    # every third one moves to a multiple of a power of two: 16 to 256
    blocks = 2 ** rng.integers(4, 9, len(uniform[::3]))
    uniform[::3] = uniform[::3] // blocks * blocks
    near = [window + step for window in windows for step in (-1, 1)]
    last = [num_tokens - 1, num_tokens - 2, num_tokens - 5]
    return sorted({int(cut) for cut in (*by_log, *uniform, *near, *last) if 0 < cut < num_tokens})


class Reader:
    """One engine, and what its readings are judged by."""

    def __init__(self, engine: Engine, tolerance: Tolerance) -> None:
        self.engine, self.tolerance = engine, tolerance

    def read(self, ids: Ids, cuts: Sequence[int] = (), *, changed: int | None = None) -> Float[np.ndarray, "T-1"]:
        """Losses of ids[1:], read on from the engine's state in pieces that end at `cuts`.

        `changed`: from this place on other tokens are read; what is scored stays, so that a model which has seen its
        target shows.
        """
        shown = ids
        if changed is not None:
            shown = np.where(np.arange(len(ids)) < changed, ids, (ids + 1) % self.engine.vocab_size)
        edges = [0, *cuts, len(ids) - 1]
        parts = [
            self.engine.score(shown[None, start:end], ids[None, start + 1 : end + 1])[0]
            for start, end in itertools.pairwise(edges)
        ]
        return np.concatenate(parts)

    def fresh(self, ids: Ids, cuts: Sequence[int] = (), *, changed: int | None = None) -> Float[np.ndarray, "T-1"]:
        """The same from an empty state."""
        self.engine.reset(1, len(ids) - 1)
        return self.read(ids, cuts, changed=changed)

    def same(self, name: str, found: Nats, expected: Nats, words: str, *, first: int = 0) -> CheckResult:
        """Judge two readings whose shapes are the same. `first` is the place of the first token in its text."""
        change = np.abs(found - expected)
        change = np.where(np.isfinite(change), change, np.inf)
        worst = float(change.max(initial=0.0))
        wrong = np.flatnonzero(change > self.tolerance.same)
        if not len(wrong):
            return _result(name, True, worst, self.tolerance.same, words)
        place = first + int(wrong[0]) + 1
        told = f"{words}: {len(wrong)} of {len(change)} move, by up to {worst:.2g} nats, that of token {place} first"
        return _result(name, False, worst, self.tolerance.same, told)

    def alike(self, name: str, found: Nats, expected: Nats, words: str, *, first: int = 0) -> CheckResult:
        """Judge two readings by other shapes, which rounding tells apart."""
        change = np.abs(found - expected)
        change = np.where(np.isfinite(change), change, np.inf)
        mean, far = float(change.mean()), change > self.tolerance.far
        if mean <= self.tolerance.mean and far.sum() <= max(2, FEW * len(change)):
            return _result(name, True, mean, self.tolerance.mean, f"{words}, mean change of a loss")
        place = first + int(np.argmax(change > min(self.tolerance.far, max(mean, self.tolerance.mean)))) + 1
        told = f"{words}: they move by {mean:.2g} nats on average and up to {change.max():.2g}, from token {place} on"
        return _result(name, False, mean, self.tolerance.mean, told)

    def borders(self, name: str, found: Nats, expected: Nats, cuts: Sequence[int], words: str) -> CheckResult | None:
        """Whether the last tokens of pieces cost otherwise than in one reading; None when they do not."""
        change = np.abs(found - expected)
        ends = np.array([change[cut - 1] for cut in cuts])
        moved = [cut for cut, end in zip(cuts, ends, strict=True) if not end <= self.tolerance.far]
        # a state that is carried wrongly shows after a cut as well, a look ahead before it alone
        after = np.array([change[cut] for cut in cuts if cut < len(change)])
        if len(moved) < 2 or len(moved) <= (after > self.tolerance.far).sum():
            return None
        told = (
            f"{words}: the last token of {len(moved)} of {len(cuts)} pieces costs otherwise, by up to {ends.max():.2g} "
            f"nats, than with later tokens in view, first at token {moved[0]}: the model looks ahead"
        )
        return _result(name, False, float(ends.max()), self.tolerance.far, told)

    def at_one_distance(self, reading: Callable[[int], Nats], whole: Nats, *, seed: int) -> str:
        """Which token before a cut moves more often than moves are spread over the text, in words; empty: none.

        Args:
            reading: losses of a text with other tokens from a place on.
            whole: its losses as it is.
        """
        reach = min(REACH, len(whole) // 2)
        if len(whole) - reach < RETRIED_CUTS:
            return ""
        cuts = np.random.default_rng(seed).choice(np.arange(reach, len(whole)), RETRIED_CUTS, replace=False).tolist()
        counts, num_moved = np.zeros(reach, dtype=int), 0
        for cut in cuts:
            moved = ~(np.abs(reading(cut)[:cut] - whole[:cut]) <= self.tolerance.same)
            counts += moved[cut - reach :]
            num_moved += int(moved.sum())
        most, distance = int(counts.max()), reach - int(counts.argmax())
        # rounding may move more near a cut, at all distances alike
        near = float(np.quantile(counts, 0.75)) / RETRIED_CUTS
        spread = min(max((num_moved - most + 1) / sum(cuts), near), 1.0)
        if reach * _at_least(most, RETRIED_CUTS, spread) >= CHANCE:
            return ""
        which = "the last token before a cut" if distance == 1 else f"token {distance} before a cut"
        return f"{which} moves at {most} of {RETRIED_CUTS} cuts"


def _at_least(least: int, num_tries: int, share: float) -> float:
    """Chance of `least` successes or more, each of this chance."""
    return sum(
        math.comb(num_tries, hits) * share**hits * (1 - share) ** (num_tries - hits)
        for hits in range(least, num_tries + 1)
    )


def _result(name: str, passed: bool, measured: float, limit: float, explanation: str) -> CheckResult:
    return CheckResult(
        name=name,
        passed=passed,
        measured=measured if np.isfinite(measured) else None,
        limit=limit,
        unit="nats",
        explanation=explanation,
    )
