"""Draws depend on what they are for alone: against blake2b of the purpose as JSON, written out here."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ttbench.tasks.draw import deal, generator, shuffled


def number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")


def test_a_generator_is_pcg64_seeded_by_the_purpose() -> None:
    expected = np.random.Generator(np.random.PCG64(number('["needle",3,"code/é"]'))).random(4)
    assert generator("needle", 3, "code/é").random(4).tolist() == expected.tolist()
    assert generator("needle", 4, "code/é").random(4).tolist() != expected.tolist()


def test_names_are_ordered_by_their_digests_wherever_they_stand() -> None:
    names = [f"doc{place}" for place in range(20)]
    expected = sorted(names, key=lambda name: number(f'["documents",7,"{name}"]'))
    assert expected != names
    assert shuffled(names, "documents", 7) == shuffled(reversed(names), "documents", 7) == expected
    assert shuffled(names[1:], "documents", 7) == [name for name in expected if name != "doc0"]


@pytest.mark.parametrize(
    ("total", "hands", "expected"),
    [(7, "abc", [3, 2, 2]), (8, "abc", [3, 3, 2]), (6, "abc", [2, 2, 2]), (2, "abc", [1, 1, 0]), (0, "a", [0])],
)
def test_hands_differ_by_one_at_most_and_the_first_get_more(total: int, hands: str, expected: list[int]) -> None:
    assert deal(total, hands) == expected
