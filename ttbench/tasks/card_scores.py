"""What the card of a trained checkpoint says of it: which runs of a task, and which lines are made of their rows.

A task declares it in `Task.card`, for `ttbench train` to run and print. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

CardLine = tuple[str, str, str]  # what was scored, the checkpoint's score, what to compare it with


@dataclass(frozen=True, slots=True, kw_only=True)
class CardScore:
    """One run of a task on the checkpoint."""

    options: Mapping[str, Any]  # of `ttbench run`, but for the checkpoint
    lines: Callable[[pd.DataFrame], Iterable[CardLine]]  # of its rows


def at_least_one(count: int, share: float) -> int:
    """A share of a count: a model trained on a share of a recipe is scored on as little."""
    return max(1, round(count * share))
