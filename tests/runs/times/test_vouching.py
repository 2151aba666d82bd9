"""What the probes cost, counted, against what they really call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ttbench.engines import probing
from ttbench.engines.eager import EagerEngine
from ttbench.machine.work import Work
from ttbench.models.transformer import Transformer
from ttbench.runs.times.vouching import Reading, probes


class Counted(EagerEngine):
    """An engine that counts what it is asked to read.

    Where it has no forward of its own, each call reads all that came before as well, as a model of transformers does
    whose cache does not hold.
    """

    tokens = scored = steps = calls = 0

    def _count(self, ids: Any, *, scored: bool, before: int = 0) -> None:
        ids = np.asarray(ids)
        self.tokens += ids.size + (0 if self.forward_len else len(ids) * before)
        self.scored += ids.size if scored else 0
        self.calls += 1

    def prefill(self, ids: Any) -> Any:
        self._count(ids, scored=False, before=self.num_tokens)
        return super().prefill(ids)

    def score(self, ids: Any, targets: Any, lengths: Any = None) -> Any:
        self._count(ids, scored=True, before=self.num_tokens)
        return super().score(ids, targets, lengths)

    def logits(self, ids: Any) -> Any:
        self._count(ids, scored=True)
        return super().logits(ids)

    def decode(self, ids: Any) -> Any:
        if self.forward_len is None:
            self._count(ids, scored=False, before=self.num_tokens)
        self.steps += 1
        return super().decode(ids)


def totals(work: Work) -> dict[str, float]:
    read = [calls for calls in work.calls if not calls.steps]
    return {
        "tokens": sum(calls.num * calls.batch_size * calls.num_tokens for calls in read),
        "scored": sum(calls.num * calls.batch_size * calls.scored for calls in read),
        "calls": sum(calls.num for calls in read),
        "steps": sum(calls.num * calls.num_tokens for calls in work.calls if calls.steps),
    }


@pytest.mark.parametrize(("looked", "forward_len"), [(150, 2048), (500, 2048), (5000, 2048), (500, None), (4500, None)])
def test_the_probes_are_counted_as_they_are_called(looked: int, forward_len: int | None) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        engine = Counted(Transformer.tiny(), device="cpu", dtype="float32")
    engine.forward_len = forward_len
    found = probing.probe(engine, looked=looked, ids=None, windows=(), seed=1)
    assert found.failed is None
    told = totals(probes(looked, Reading(max_context=None, forward_len=forward_len, batched=True, causal=True)))
    if forward_len is None:
        # Its prefixes end at cuts that are drawn.
        assert told["tokens"] == pytest.approx(engine.tokens, rel=0.3)
        assert told["calls"] == pytest.approx(engine.calls, rel=0.05)
        return
    assert told["tokens"] == pytest.approx(engine.tokens, rel=0.02)
    assert told["scored"] == pytest.approx(engine.scored, rel=0.02)
    assert told["calls"] == pytest.approx(engine.calls, rel=0.2)
    assert told["steps"] == pytest.approx(engine.steps, abs=1)
