"""What it costs to vouch for an engine before its first score: the probes as calls, counted, not run. Torch-free.

The probes are those of `ttbench.engines.probes`; how far they look is decided in `ttbench.engines.findings`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ttbench.engines import findings
from ttbench.engines.findings import EXAMINED, NEAR, NUM_CUTS, SHORT
from ttbench.machine.work import Calls, Work
from ttbench.types import Cell

PIECES = NUM_CUTS + 2.0  # of a text that is read in pieces: the drawn cuts that differ, and the last tokens
STEPS = 8  # decoding steps in a row
PREFIXES = (0.15, 0.65, 1.0)  # shares of a text that are read alone, where pieces are not: quartiles of the cuts
AFTER_PREFIX = 3  # steps after each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How an engine reads, as far as the probes depend on it."""

    max_context: int | None  # tokens the model can take at all; None: no limit
    forward_len: int | None  # tokens of one forward; None: a call is one forward over all that came before
    batched: bool  # whether it reads several sequences at once
    causal: bool  # whether it has a state


def looked(cells: Iterable[Cell], *, max_context: int | None = None) -> int | None:
    """Tokens that the probes will look at before the cells of one process are scored; None: they will not be asked.

    Args:
        max_context: tokens that the model can take, where it is known.
    """
    probed = [cell for cell in cells if findings.is_probed(cell) and not cell.unchecked]
    if not probed:
        return None
    num_tokens = findings.within(findings.wanted(probed), max_context)
    verdict = findings.known(probed[0])
    return None if verdict is not None and verdict.answers(num_tokens) else num_tokens


def probes(num_tokens: int, reading: Reading) -> Work:
    """The calls of all probes that look at so many tokens, none of which fails."""
    near, short = min(num_tokens, NEAR), _scored(1, SHORT)
    calls = [_scored(1, 9), _scored(1, 9, batch_size=2)]
    if reading.batched:
        calls += [_scored(1, SHORT, batch_size=3), _scored(3, SHORT)]
    if not reading.causal:
        return Work(calls=tuple(calls))
    calls += [Calls(num=1, num_tokens=7), *_steps(2, after=7, reading=reading)]
    calls += [short, _scored(2, near)]
    calls += _pieces(1, near) if reading.forward_len else _prefixes(near)
    # A saved state: read, gone on from, overwritten and gone on from, also on two rows.
    calls += [Calls(num=1, num_tokens=37), *[short] * 3]
    calls += [step for _ in range(3) for step in _steps(STEPS, after=37, reading=reading)]
    calls += _steps(STEPS, after=37, batch_size=2, reading=reading) if reading.batched else []
    calls += _far(num_tokens, near, reading) if num_tokens > near else []
    return Work(calls=(*calls, short))


def _far(num_tokens: int, near: int, reading: Reading) -> list[Calls]:
    """All of the text once, and some forwards of its rest twice more: with other tokens, and in pieces."""
    if reading.forward_len is None:
        return [_scored(2, num_tokens)]
    rest = num_tokens - near
    num_spans = -(-rest // reading.forward_len)
    examined = min(num_spans, 1 + max(num_spans // EXAMINED, 1))
    size, middle = rest / num_spans, near + rest / 2
    return [_scored(1, num_tokens), _scored(examined, size, after=middle), *_pieces(examined, size, after=middle)]


def _pieces(num: float, num_tokens: float, *, after: float = 0.0) -> list[Calls]:
    """A text in pieces: its tokens as at once, and the fixed cost of a call for each further piece."""
    return [_scored(num, num_tokens, after=after), Calls(num=num * (PIECES - 1), num_tokens=0)]


def _prefixes(num_tokens: float) -> list[Calls]:
    """Beginnings of a text, each once and again for each step after it."""
    return [_scored(1 + AFTER_PREFIX, share * num_tokens) for share in PREFIXES]


def _scored(num: float, num_tokens: float, *, batch_size: int = 1, after: float = 0.0) -> Calls:
    return Calls(num=num, num_tokens=num_tokens, batch_size=batch_size, after=after, scored=num_tokens)


def _steps(num: int, *, after: float, reading: Reading, batch_size: int = 1) -> list[Calls]:
    """Single tokens after a text; without a state of its own an engine reads all of it again for each."""
    if reading.forward_len is None:
        return [Calls(num=num, num_tokens=after + num / 2, batch_size=batch_size)]
    return [Calls(num=1, num_tokens=num, after=after, batch_size=batch_size, steps=True)]
