"""Puzzles: the answers are right by another way of computing them, and cannot be read off."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from ttbench.corpora.training_rows.keyed_rows import recall_query
from ttbench.corpora.training_rows.mixture import BOS, Mixture
from ttbench.corpora.training_rows.puzzles import (
    FIRST_PERMUTATION,
    NOT_ASKED,
    PUZZLES,
    Puzzle,
    copying,
    most_pairs,
    mqar,
    parity,
    s5,
)

LENGTHS = (15, 16, 63, 64, 100, 257)


def draw(kind: str, num_tokens: int, seed: int = 0) -> Puzzle:
    return PUZZLES[kind](np.random.default_rng(seed), num_tokens)


@pytest.mark.parametrize("num_tokens", LENGTHS)
@pytest.mark.parametrize("kind", PUZZLES)
def test_a_puzzle_is_as_long_as_asked_and_the_same_for_the_same_seed(kind: str, num_tokens: int) -> None:
    one, two, other = draw(kind, num_tokens), draw(kind, num_tokens), draw(kind, num_tokens, seed=1)
    assert len(one.symbols) == num_tokens - 1
    assert len(one.targets) == num_tokens
    assert one.targets[0] == NOT_ASKED
    assert (one.targets != NOT_ASKED).any()
    assert np.array_equal(one.symbols, two.symbols)
    assert np.array_equal(one.targets, two.targets)
    assert not np.array_equal(one.symbols, other.symbols)


@pytest.mark.parametrize("num_pairs", [1, 3, 16, 25])
def test_each_key_of_mqar_is_stated_once_and_asked_for_once_and_its_value_is_right(num_pairs: int) -> None:
    for seed in range(20):
        puzzle = mqar(np.random.default_rng(seed), 100, num_pairs)
        read = [BOS, *puzzle.symbols.tolist()]
        stated = dict(zip(read[1 : 2 * num_pairs : 2], read[2 : 2 * num_pairs + 1 : 2], strict=True))
        asked = np.flatnonzero(puzzle.targets != NOT_ASKED)
        assert len(stated) == len(set(stated.values())) == num_pairs
        assert sorted(read[place] for place in asked) == sorted(stated)
        assert all(stated[read[place]] == puzzle.targets[place] for place in asked)
        assert all(read.count(key) == 2 for key in stated)


def test_queries_of_mqar_come_soon_rather_than_late() -> None:
    places = [np.flatnonzero(mqar(np.random.default_rng(s), 256, 8).targets != NOT_ASKED) for s in range(200)]
    share_early = float(np.mean(np.concatenate(places) < 17 + (256 - 17) / 4))
    assert share_early > 0.5


def test_as_many_pairs_fit_as_are_said_to() -> None:
    for num_tokens in LENGTHS:
        most = most_pairs(num_tokens)
        assert (mqar(np.random.default_rng(0), num_tokens, most).targets != NOT_ASKED).sum() == most
        with pytest.raises(ValueError, match=f"at most {most} do"):
            mqar(np.random.default_rng(0), num_tokens, most + 1)


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_what_copying_asks_for_is_the_string_and_a_bar(num_tokens: int) -> None:
    puzzle = copying(np.random.default_rng(3), num_tokens)
    text = bytes(puzzle.symbols.tolist())
    before, after = text.rsplit(b"|", 1)
    string = before.lstrip(b"|")
    asked = puzzle.targets[puzzle.targets != NOT_ASKED]
    assert string == after
    assert bytes(asked.tolist()) == string + b"|"
    assert len(string) == (num_tokens - 2) // 2


@pytest.mark.parametrize("num_tokens", LENGTHS)
def test_parity_counts_the_ones_so_far(num_tokens: int) -> None:
    puzzle = parity(np.random.default_rng(4), num_tokens)
    text = bytes(puzzle.symbols.tolist())
    for place in range(1, num_tokens):
        assert puzzle.targets[place] == ord("0") + text[:place].count(b"1") % 2


@pytest.mark.parametrize("num_tokens", [15, 63, 100])
def test_s5_asks_for_the_product_that_matrices_give(num_tokens: int) -> None:
    elements = list(permutations(range(5)))
    matrices = [np.eye(5, dtype=int)[list(element)].T for element in elements]
    puzzle = s5(np.random.default_rng(5), num_tokens)
    product = np.eye(5, dtype=int)
    for symbol, target in zip(puzzle.symbols, puzzle.targets[1:], strict=True):
        product = matrices[symbol - FIRST_PERMUTATION] @ product
        assert np.array_equal(product, matrices[target - FIRST_PERMUTATION])


@pytest.mark.parametrize("kind", ["mqar", "parity", "s5"])
def test_what_is_read_after_a_question_is_its_answer_no_oftener_than_by_chance(kind: str) -> None:
    hits = [
        bool(puzzle.symbols[t] == puzzle.targets[t])
        for seed in range(60)
        for puzzle in [draw(kind, 64, seed)]
        for t in np.flatnonzero(puzzle.targets != NOT_ASKED)
        if t < len(puzzle.symbols)
    ]
    chance = {"mqar": 1 / 100, "parity": 1 / 2, "s5": 1 / 120}[kind]
    assert abs(np.mean(hits) - chance) < 4 * np.sqrt(chance * (1 - chance) / len(hits)) + 0.005


@pytest.mark.parametrize("kind", PUZZLES)
def test_a_training_row_weighs_what_is_asked_for_and_nothing_else(kind: str) -> None:
    mixture = Mixture(seed=3, answer_weight=6.0)
    row = mixture.row({kind: 1.0}, stream=0, index=2, num_tokens=64)
    again = mixture.row({kind: 1.0}, stream=0, index=2, num_tokens=64)
    asked = row.weights[0] > 0
    assert row.inputs.shape == row.targets.shape == row.weights.shape == (1, 64)
    assert row.inputs[0, 0] == BOS
    assert set(row.weights[0]) <= {0.0, 1.0}
    assert asked.any()
    assert row.targets.min() >= 0
    assert row.digest("") == again.digest("")


def test_sentences_that_ask_state_each_key_once_and_its_value_before() -> None:
    for seed in range(30):
        query = recall_query(np.random.default_rng(seed), 8)
        spans = [span for sentence in (*query.stated, *query.asked) for span in sentence]
        stated = {a.text: b.text for a, b in zip(spans[0:24:3], spans[1:24:3], strict=True)}
        asked = {a.text: b.text for a, b in zip(spans[24::3], spans[25::3], strict=True)}
        assert len(stated) == 8
        assert asked == stated
        assert [span.weight for span in spans[1:24:3]] == [0.0] * 8
        assert [span.weight for span in spans[25::3]] == [1.0] * 8
