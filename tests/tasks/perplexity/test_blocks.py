"""Where in a block each token's nats are counted, added up by hand."""

from __future__ import annotations

import numpy as np
import pytest
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task

from ttbench.checkpoints.tokenizer import Tokenizer
from ttbench.tasks.perplexity.perplexity import Perplexity


def one_nat_per_token_read(vocab_size: int) -> StubEngine:
    """The target behind a tokens costs a nats, BOS counted: a number that tells where in its block a target stands."""
    return StubEngine(lambda history: np.full(vocab_size, -float(len(history))), vocab_size=vocab_size)


def by_position(text: bytes, *, tokenizer: Tokenizer | None = None) -> dict[tuple[object, object], list[object]]:
    samples = run_task(
        Perplexity(),
        engine=one_nat_per_token_read(257 if tokenizer is None else tokenizer.vocab_size),
        corpus=corpus_of({"doc": text}),
        context_len=8,
        tokenizer=tokenizer,
        protocol="position",
    )
    return {
        (sample.keys["position"], sample.keys["position_end"]): [
            sample.values[name] for name in ("num_tokens", "num_bytes", "nats")
        ]
        for sample in samples
    }


def test_each_bucket_holds_the_nats_of_its_own_positions() -> None:
    # two blocks, of 8 and 5 tokens; the target at position p has BOS and p tokens before it: p + 1 nats
    assert by_position(b"abcdefghijklm") == {
        (0, 1): [2, 2, 1 + 1],
        (1, 2): [2, 2, 2 + 2],
        (2, 4): [4, 4, (3 + 4) + (3 + 4)],
        (4, 8): [5, 5, (5 + 6 + 7 + 8) + 5],
    }


def test_without_bos_the_first_position_is_empty_and_the_others_stay_where_they_are() -> None:
    # one block of 8 tokens of two bytes; the target at position p has p tokens before it, the 0th none
    assert by_position(b"abcdefghijklmnop", tokenizer=PairTokenizer()) == {
        (1, 2): [1, 2, 1],
        (2, 4): [2, 4, 2 + 3],
        (4, 8): [4, 8, 4 + 5 + 6 + 7],
    }


@pytest.mark.parametrize("context_len", [8, 4])
def test_a_block_that_was_read_for_a_longer_context_is_counted_at_the_same_positions(context_len: int) -> None:
    memo: dict[object, object] = {}
    corpus = corpus_of({"doc": b"abcdefgh"})
    for length in (8, context_len):
        samples = run_task(
            Perplexity(),
            engine=one_nat_per_token_read(257),
            corpus=corpus,
            context_len=length,
            memo=memo,
            protocol="position",
        )
    # at 4 the second block begins at the fifth token, and reads no token of the first
    expected = {8: {0: 1, 1: 2, 2: 7, 4: 26}, 4: {0: 2, 1: 4, 2: 14}}[context_len]
    assert {sample.keys["position"]: sample.values["nats"] for sample in samples} == expected
    assert sum(sample.values["reused_tokens"] or 0 for sample in samples) == {8: 8, 4: 4}[context_len]
