"""Sequences of symbols with questions that have one right answer: recall, copying and state tracking. Torch-free.

              read     BOS k1 v1 k2 v2 .. k2 ~  ~  ~  k1      ~ any symbol that is no key of the sequence
    mqar      asked                       v2          v1      the value stated after the key, each key once
              read     BOS c  a  t  |  c  a  t
    copying   asked                 c  a  t  |                the string again, from the bar on
              read     BOS 1  0  1  1
    parity    asked        1  1  0  1                         whether the ones so far are odd
              read     BOS g1 g2 g3 ..
    s5        asked        g1 g2*g1 ..                        the product so far of permutations of five

A symbol is a byte, so a byte tokenizer reads each as one token. What is asked for never stands in what is read, except
in `copying`, where each letter follows when the next one is asked for: a running product that can be read is
no state that must be tracked. The same sequences train (`ttbench.corpora.training_rows.mixture`) and test
(`ttbench.tasks.recall`).

Sources: MQAR, Arora et al. 2023 (Zoology, arXiv:2312.04927), HazyResearch/zoology @ dbcb60d data/multiquery_ar.py:
keys and values of two halves of the vocabulary, none twice, queries at gaps by a power law. Here no fill is a key of
the sequence, so each question has one answer. Copying, Jelassi et al. 2024 (arXiv:2402.01032). Word problems with the
running product as label, Merrill et al. 2024 (The Illusion of State, arXiv:2404.08819; their experiments use A5).
Letters: T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Int

KEYS = np.arange(128, 256)  # symbols of mqar; values are the other half of the bytes
VALUES = np.arange(128)
POWER_A = 0.01  # of the law that gaps before a query follow: p(slot) ~ slot ** (POWER_A - 1)
PAIR_LEN = 4  # symbols that a pair takes: stated and asked for, with a value or fill after each key
LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", dtype=np.uint8).astype(np.int64)
BAR = ord("|")
BITS = np.frombuffer(b"01", dtype=np.uint8).astype(np.int64)
FIRST_PERMUTATION = ord("!")  # symbol of the identity; the others follow in lexical order
PERMUTATIONS = np.array(list(permutations(range(5))))  # [120, 5]: where each of five places is sent
NOT_ASKED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """What is read after BOS, and what is asked for after BOS and each symbol."""

    targets: Int[np.ndarray, "T"]  # a symbol, or NOT_ASKED
    symbols: Int[np.ndarray, "T-1"]


def mqar(rng: np.random.Generator, num_tokens: int, num_pairs: int) -> Puzzle:
    """Pairs of a key and a value, then each key once more, in an order and at gaps that are drawn.

    Raises ValueError when the pairs do not fit `num_tokens`, BOS included, or outnumber the keys.
    """
    if not 1 <= num_pairs <= most_pairs(num_tokens):
        raise ValueError(f"{num_pairs} pairs do not fit {num_tokens} tokens; at most {most_pairs(num_tokens)} do")
    keys, values = (rng.choice(symbols, size=num_pairs, replace=False) for symbols in (KEYS, VALUES))
    num_slots = num_tokens // 2
    slots = np.zeros((num_slots, 2), dtype=np.int64)
    slots[:num_pairs] = np.stack([keys, values], axis=1)
    fill = np.setdiff1d(np.arange(256), keys)
    slots[num_pairs:] = rng.choice(fill, size=(num_slots - num_pairs, 2))
    space = num_slots - num_pairs
    law = np.arange(1, space + 1) ** (POWER_A - 1)
    asked = num_pairs + rng.choice(space, size=num_pairs, replace=False, p=law / law.sum())
    slots[asked, 0] = keys
    targets = np.full(num_tokens, NOT_ASKED, dtype=np.int64)
    targets[1 + 2 * asked] = values
    symbols = np.concatenate([slots.reshape(-1), rng.choice(fill, size=1)])
    return Puzzle(symbols=symbols[: num_tokens - 1], targets=targets)


def most_pairs(num_tokens: int) -> int:
    """The most pairs of `mqar` that fit."""
    return min(num_tokens // PAIR_LEN, len(KEYS))


def copying(rng: np.random.Generator, num_tokens: int) -> Puzzle:
    """A string of letters, a bar, and the string again; the last thing asked for is a bar."""
    length = _string_len(num_tokens)
    string = rng.choice(LETTERS, size=length)
    targets = np.full(num_tokens, NOT_ASKED, dtype=np.int64)
    targets[num_tokens - length - 1 :] = np.append(string, BAR)
    # an odd symbol more than two strings and a bar need goes in front
    front = np.full(num_tokens - 2 - 2 * length, BAR, dtype=np.int64)
    return Puzzle(symbols=np.concatenate([front, string, [BAR], string]), targets=targets)


def _string_len(num_tokens: int) -> int:
    return (num_tokens - 2) // 2


def parity(rng: np.random.Generator, num_tokens: int) -> Puzzle:
    """Random bits, and after each whether the ones so far are odd."""
    bits = rng.integers(2, size=num_tokens - 1)
    odd = BITS[np.cumsum(bits) % 2]
    return Puzzle(symbols=BITS[bits], targets=np.append(NOT_ASKED, odd))


def s5(rng: np.random.Generator, num_tokens: int) -> Puzzle:
    """Random permutations of five places, and after each the permutation that all so far make, the first one first."""
    drawn = rng.integers(len(PERMUTATIONS), size=num_tokens - 1)
    state, products = np.arange(5), []
    for index in drawn:
        state = PERMUTATIONS[index][state]
        products.append(_NUMBERS[tuple(state)])
    targets = np.append(NOT_ASKED, FIRST_PERMUTATION + np.array(products, dtype=np.int64))
    return Puzzle(symbols=FIRST_PERMUTATION + drawn, targets=targets)


_NUMBERS: Mapping[tuple[int, ...], int] = {places: number for number, places in enumerate(permutations(range(5)))}


def _mqar_of_any_size(rng: np.random.Generator, num_tokens: int) -> Puzzle:
    """As many pairs as are drawn, small numbers as often as large ones."""
    most = most_pairs(num_tokens)
    return mqar(rng, num_tokens, int(np.exp(rng.uniform(0, np.log(most + 1)))))


# Kind of training row -> puzzle of so many tokens, BOS included; 8 tokens are enough for each.
PUZZLES: Mapping[str, Callable[[np.random.Generator, int], Puzzle]] = {
    "mqar": _mqar_of_any_size,
    "copying": copying,
    "parity": parity,
    "s5": s5,
}
