"""How a task shows the evidence of one sample: parts that `ttbench show RUN CELL --sample N` prints one after another.

The two ends of a prompt (`PROMPT`, see `ttbench.tasks.ends`) are printed before them, for every task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PROMPT = ("prompt_start", "first_ids", "prompt_end", "last_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Names and what stands under them, one pair a line."""

    title: str
    rows: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table. Columns with "text" in their heads are wrapped."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


Part = Pairs | Grid


def pairs(title: str, evidence: Mapping[str, Any], names: Iterable[str]) -> Pairs:
    """The entries of these names that are there, with blanks for underscores."""
    found = ((name.replace("_", " "), evidence.get(name)) for name in names)
    return Pairs(title=title, rows=tuple((name, value) for name, value in found if value is not None))


def rest(evidence: Mapping[str, Any], told: Iterable[str] = ()) -> Pairs:
    """Every entry but the prompt's and those that were told already."""
    left = {name: value for name, value in evidence.items() if name not in {*PROMPT, *told} and value is not None}
    return Pairs(title="kept", rows=tuple(left.items()))
