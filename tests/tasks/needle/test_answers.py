"""Answers to prompts against the rule of an engine without a model, whether or not prompts share what they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stub_engine import StubEngine, scattered

from ttbench.tasks.needle.answers import Answer, PromptReader
from ttbench.tasks.needle.prompts import Prompt

VOCAB = 20
RULE = scattered(VOCAB)
HAYSTACK = np.array([3, 4, 5, 6, 7, 8])
CANDIDATES = np.array([[11, 12, 13], [14, 15, 16], [17, 18, 19]])


def prompt(place: int) -> Prompt:
    return Prompt(
        head=np.array([1, 2]), haystack=HAYSTACK, needles=((place, np.array([9, 9])),), question=np.array([10, 0])
    )


def check(answer: Answer, ids: list[int], *, num_generated: int, num_scored: int) -> None:
    """By the chain rule and greedy writing, from the whole history each time."""
    written: list[int] = []
    for _ in range(num_generated):
        written.append(int(np.argmax(RULE((*ids, *written)))))
    assert answer.generated.tolist() == written
    expected = [
        [-RULE((*ids, *(int(i) for i in candidate[:t])))[candidate[t]] for t in range(3)]
        for candidate in CANDIDATES[:num_scored]
    ]
    assert answer.nats.shape == (num_scored, 3)
    assert answer.nats.tolist() == [pytest.approx(row) for row in expected]
    assert answer.sums.tolist() == pytest.approx([sum(row) for row in expected])


@pytest.mark.parametrize(("num_generated", "num_scored"), [(4, 3), (4, 0), (0, 1), (0, 3)])
@pytest.mark.parametrize("share", [True, False])
def test_prompts_are_read_whole_and_answered_from_their_end(share: bool, num_generated: int, num_scored: int) -> None:
    engine: Any = StubEngine(RULE, vocab_size=VOCAB)
    reader = PromptReader(engine, CANDIDATES, num_generated=num_generated, num_scored=num_scored, max_len=40)
    prompts = [prompt(0), prompt(2), prompt(6)]
    found = reader.read_shared(prompts) if share else reader.read_apart(prompts)
    whole = [[1, 2, 9, 9, 3, 4, 5, 6, 7, 8, 10, 0], [1, 2, 3, 4, 9, 9, 5, 6, 7, 8, 10, 0]]
    whole += [[1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10, 0], [1, 2, 3, 4, 5, 6, 7, 8, 10, 0]]
    for answer, ids in zip((*found.answers, found.control), whole, strict=True):
        check(answer, ids, num_generated=num_generated, num_scored=num_scored)
    # all but the last token of each; shared, what stands before the needles once, and then needle and rest
    read = [answer.prefilled_tokens for answer in (*found.answers, found.control)]
    assert read == ([2 + 9, 2 + 7, 4 + 3, 1] if share else [11, 11, 11, 9])
    assert engine.batch_sizes == [1] * (1 if share else 4)
