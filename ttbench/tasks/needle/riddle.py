"""What is hidden and asked for: keys, values, wrong values to choose among, and needles that nobody asks for.

All of it follows from the seed, the number of the trial and the variant: the same at every length, depth and
checkpoint. Letters: T tokens, N candidates.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from ttbench.corpora.training_rows.needle_words import ADJECTIVES, NOUNS
from ttbench.errors import UnsupportedError
from ttbench.tasks.draw import generator
from ttbench.tasks.needle.ruler import NUM_DIGITS, RulerTask
from ttbench.tasks.needle.wordings import NAMES

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Riddle:
    """Needles by key; the first `variant.num_queries` keys are asked for."""

    keys: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]  # of each key
    share: float  # 0 to 1; where in the corpus the haystack begins

    def asked(self, variant: RulerTask) -> tuple[tuple[str, str], ...]:
        """(key, value) of what is asked for."""
        return self._needles(0, variant.num_queries)

    def others(self, variant: RulerTask) -> tuple[tuple[str, str], ...]:
        """(key, value) of the needles with other keys."""
        return self._needles(variant.num_queries, len(self.keys))

    def _needles(self, first: int, last: int) -> tuple[tuple[str, str], ...]:
        return tuple((self.keys[i], value) for i in range(first, last) for value in self.values[i])


def draw_riddle(variant: RulerTask, *, seed: int, trial: int) -> Riddle:
    """Distinct keys and distinct values. Variants whose first needle is a word and a number share that needle."""
    rng = generator(seed, "needle", trial)
    word, number, share = _word(rng), _number(rng), float(rng.random())
    more = generator(seed, "needle", variant.name, trial)
    keys = _distinct([word] if variant.key == "words" else [], _MAKERS[variant.key], more, count=variant.num_keys)
    values = _distinct(
        [number] if variant.value == "numbers" else [],
        _MAKERS[variant.value],
        more,
        count=variant.num_keys * variant.num_values,
    )
    dealt = tuple(tuple(values[i : i + variant.num_values]) for i in range(0, len(values), variant.num_values))
    return Riddle(keys=tuple(keys), values=dealt, share=share)


def draw_wording(*, seed: int, trial: int) -> str:
    """The name of a trial's wording: each comes once in as many trials as there are wordings, in seeded order."""
    order = generator(seed, "needle", "wordings", trial // len(NAMES)).permutation(len(NAMES))
    return NAMES[order[trial % len(NAMES)]]


def draw_lines(variant: RulerTask, riddle: Riddle, *, seed: int, trial: int) -> Iterator[str]:
    """Needles for a haystack of needles, without end: none has a key or a value that is asked for."""
    rng = generator(seed, "needle", variant.name, "lines", trial)
    taken = {part for needle in riddle.asked(variant) for part in needle}
    make_key, make_value = _MAKERS[variant.key], _MAKERS[variant.value]
    while True:
        key, value = make_key(rng), make_value(rng)
        if key not in taken and value not in taken:
            yield variant.needle(key, value)


def draw_candidates(
    value: str, tokenizer: Tokenizer, *, variant: RulerTask, count: int, seed: int, trial: int
) -> tuple[list[str], Int[np.ndarray, "N T"]]:
    """`count` values, the true one first, all of as many bytes and tokens; and their ids as answers.

    Raises:
        UnsupportedError: the tokenizer has too few values of the true one's length in tokens.
    """
    rng = generator(seed, "needle", "candidates", trial)
    values, rows = [value], [answer_ids(value, tokenizer)]
    for _ in range(1000 * count):
        if len(values) == count:
            break
        other = _MAKERS[variant.value](rng)
        ids = answer_ids(other, tokenizer)
        if other not in values and len(ids) == len(rows[0]):
            values.append(other)
            rows.append(ids)
    if len(values) < count:
        raise UnsupportedError(
            f"only {len(values)} of {count} candidates are {len(rows[0])} tokens long like '{value}' in tokenizer "
            f"'{tokenizer.name}'; use the scorer generate, or fewer candidates"
        )
    return values, np.stack(rows)


def answer_ids(value: str, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """A value as it continues the question."""
    return tokenizer.encode(f" {value}".encode())


def _distinct(
    found: list[str], make: Callable[[np.random.Generator], str], rng: np.random.Generator, *, count: int
) -> list[str]:
    while len(found) < count:
        other = make(rng)
        if other not in found:
            found.append(other)
    return found


def _word(rng: np.random.Generator) -> str:
    return f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]}-{NOUNS[rng.integers(len(NOUNS))]}"


def _number(rng: np.random.Generator) -> str:
    """Seven digits, the first of them not 0."""
    return str(rng.integers(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS))


def _uuid(rng: np.random.Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))


_MAKERS: dict[str, Callable[[np.random.Generator], str]] = {"words": _word, "numbers": _number, "uuids": _uuid}
