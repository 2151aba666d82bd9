"""What a cell does, counted before it runs. Torch-free.

A task says its work as calls of an engine. The plan turns them into FLOP by a checkpoint's formulas, and into seconds
by `ttbench.machine.rates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ttbench.types import Cost

# Bytes of text in a token of a vocabulary of words; bytes are tokens where the vocabulary is small.
WORD_BYTES, SMALL_VOCABULARY = 3.5, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Equal calls of an engine."""

    num: float  # calls
    num_tokens: float  # of each sequence, in one call
    batch_size: int = 1  # sequences
    after: float = 0.0  # tokens in the state before the call
    steps: bool = False  # token by token, as in decoding
    scored: float = 0.0  # tokens of each sequence whose loss is taken, in one call
    least_s: float = 0.0  # seconds that the calls are repeated for at least
    most_s: float | None = None  # seconds after which no further call begins; None: no such limit

    def flops(self, cost: Cost) -> float:
        """FLOP of all calls."""
        one = cost.prefill_flops(round(self.after + self.num_tokens)) - cost.prefill_flops(round(self.after))
        return self.num * self.batch_size * one

    def pairs(self, window: int | None) -> float:
        """Earlier tokens that one sequence reads in one call, each token at most `window` of them."""
        most = float("inf") if window is None else float(window)
        return _pairs(self.after + self.num_tokens, most) - _pairs(self.after, most)


def _pairs(num_tokens: float, window: float) -> float:
    held = min(num_tokens, window)
    return held * max(held - 1, 0.0) / 2 + (num_tokens - held) * (window if num_tokens > held else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """All that a cell does once its process, engine and corpus are there."""

    calls: tuple[Calls, ...]
    compressed_bytes: float = 0.0  # of text that compressors are run on
    seconds: float = 0.0  # of anything else whose time does not depend on the machine

    def flops(self, cost: Cost) -> float:
        """FLOP of the calls, at least those of one token."""
        return max(sum(calls.flops(cost) for calls in self.calls), cost.decode_flops(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Sizes of a corpus's documents by split, and what a token holds of them."""

    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # bytes
    token_bytes: float = 1.0

    def tokens(self, split: str = "test", *, limit: int | None = None) -> float:
        """Tokens of a split, or of `limit` of its documents: as many of the average one."""
        sizes = self.sizes.get(split, ())
        share = 1.0 if limit is None or not sizes else min(1.0, limit / len(sizes))
        return share * sum(sizes) / self.token_bytes

    def at_least(self, num_tokens: float, split: str = "test") -> tuple[int, ...]:
        """Bytes of the documents that hold so many tokens."""
        return tuple(size for size in self.sizes.get(split, ()) if size >= num_tokens * self.token_bytes)


def token_bytes(vocab_size: int) -> float:
    """Bytes of text in a token, roughly: a vocabulary of bytes has one."""
    return 1.0 if vocab_size <= SMALL_VOCABULARY else WORD_BYTES


def total(seconds: Sequence[float | None]) -> float | None:
    """Their sum; None while one of them is not known."""
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None
