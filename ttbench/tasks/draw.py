"""Local randomness: a generator from what it is for, so that cells agree with each other and with themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from ttbench.types import Scalar, canonical_json, digest

Item = TypeVar("Item")


def generator(*purpose: Scalar) -> np.random.Generator:
    """A generator that depends on `purpose` alone: the same seed, task and document give the same draws anywhere."""
    return np.random.Generator(np.random.PCG64(int(digest(canonical_json(list(purpose))), 16)))


def shuffled(names: Iterable[str], *purpose: Scalar) -> list[str]:
    """`names` in an order where the first n are the same n whatever is asked for; one name never moves two others."""
    return sorted(names, key=lambda name: digest(canonical_json([*purpose, name])))


def deal(total: int, hands: Sequence[Item]) -> list[int]:
    """How many of `total` each hand gets, as evenly as can be, the first hands first."""
    return [total // len(hands) + (index < total % len(hands)) for index in range(len(hands))]
