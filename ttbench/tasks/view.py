"""How a task shows the evidence of one sample: parts that `ttbench show RUN CELL --sample N` prints one after another.

The two ends of a prompt (`PROMPT`, see `ttbench.tasks.ends`) are printed before them, for every task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

PROMPT = ("prompt_start", "first_ids", "prompt_end", "last_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedValues:
    """Names and what stands under them, one pair a line."""

    title: str
    rows: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceTable:
    """A table. Columns with "text" in their heads are wrapped."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


EvidencePart = NamedValues | EvidenceTable


def named_values(title: str, evidence: Mapping[str, Any], names: Iterable[str]) -> NamedValues:
    """The entries of these names that are there, with blanks for underscores."""
    found = ((name.replace("_", " "), evidence.get(name)) for name in names)
    return NamedValues(title=title, rows=tuple((name, value) for name, value in found if value is not None))


def rest(evidence: Mapping[str, Any], told: Iterable[str] = ()) -> NamedValues:
    """Every entry but the prompt's and those that were told already."""
    left = {name: value for name, value in evidence.items() if name not in {*PROMPT, *told} and value is not None}
    return NamedValues(title="kept", rows=tuple(left.items()))
