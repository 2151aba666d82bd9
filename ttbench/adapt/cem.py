"""The cross-entropy method over shares in [0, 1]: a normal per dimension, refitted to the best of each generation.

numpy only. Source: Rubinstein and Kroese 2004; as few-shot adaptation uses it, Sun, Cetin and Tang 2025, section 3.2.
Letters: K dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Score = tuple[float, ...]  # higher is better, later entries settle ties


@dataclass(frozen=True, slots=True, kw_only=True)
class CemSettings:
    """How long and how wide to search."""

    population: int  # candidates of a generation
    elites: int  # of them, to which the next generation is fitted
    iterations: int  # generations
    start_std: float = 0.3  # of the first generation
    least_std: float = 0.02  # kept, so that the search does not freeze


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best candidate seen."""

    shares: Float[np.ndarray, "K"]
    score: Score
    num_tried: int


def cross_entropy_search(
    score: Callable[[Float[np.ndarray, "K"]], Score],
    *,
    num_dims: int,
    settings: CemSettings,
    rng: np.random.Generator,
) -> Found:
    """Maximise `score` from the even mixture on; the first candidate tried is that mixture itself."""
    mean = np.full(num_dims, 1 / num_dims)
    std = np.full(num_dims, settings.start_std)
    best: tuple[Score, np.ndarray] | None = None
    num_tried = 0
    for generation in range(settings.iterations):
        candidates = np.clip(mean + std * rng.normal(size=(settings.population, num_dims)), 0.0, 1.0)
        if generation == 0:
            candidates[0] = mean
        scores = [score(candidate) for candidate in candidates]
        num_tried += len(candidates)
        order = sorted(range(len(candidates)), key=lambda place: scores[place], reverse=True)
        if best is None or scores[order[0]] > best[0]:
            best = scores[order[0]], candidates[order[0]]
        elites = candidates[order[: settings.elites]]
        mean, std = elites.mean(axis=0), np.maximum(elites.std(axis=0), settings.least_std)
    assert best is not None
    return Found(shares=best[1], score=best[0], num_tried=num_tried)
