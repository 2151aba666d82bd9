"""One pass over a document serves every context that its definition lets it serve, and no number moves by it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from stub_engine import StubEngine, corpus_of, run_task, scattered

from ttbench.engines.eager import EagerEngine
from ttbench.registry import ARCHITECTURES
from ttbench.tasks.perplexity.perplexity import PROTOCOLS, SHARED, Perplexity, PerplexityParams

# Lengths that leave tails at most contexts, and one document that is a block by itself.
TEXTS = {f"doc{i}": bytes(range(i, i + 40)) * 3 for i in range(3)} | {"short": b"abc", "block": bytes(range(64))}
CORPUS = corpus_of(TEXTS)
NUM_TOKENS = 3 * 120 + 3 + 64
CONTEXTS = (64, 32, 16, 8)


def measure(engine: Any, context_len: int, *, memo: dict[Any, Any] | None = None, **options: Any) -> list[Any]:
    return run_task(Perplexity(), engine=engine, corpus=CORPUS, context_len=context_len, memo=memo, **options)


def numbers(samples: list[Any]) -> list[Any]:
    """Keys and values, without what says how they were come by."""
    told = ("reused_tokens", "peak_rss_bytes")
    return [(s.keys, {name: value for name, value in s.values.items() if name not in told}) for s in samples]


def reused(samples: list[Any]) -> int:
    return sum(sample.values["reused_tokens"] for sample in samples)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("contexts", list(itertools.permutations((64, 32, 8))), ids=str)
def test_a_cell_alone_and_cells_in_any_order_give_equal_numbers(protocol: str, contexts: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"protocol": protocol, "window": 8, "max_context": 64}
    memo: dict[Any, Any] = {}
    for context_len in contexts:
        together = measure(StubEngine(scattered(257)), context_len, memo=memo, **options)
        assert numbers(together) == numbers(measure(StubEngine(scattered(257)), context_len, **options))


@pytest.mark.parametrize("protocol", ["packed", "position"])
def test_a_sweep_reads_each_prefix_once(protocol: str) -> None:
    engine, memo = StubEngine(scattered(257)), {}
    text = NUM_TOKENS + len(TEXTS) - 1  # with a BOS between documents
    taken = [reused(measure(engine, context_len, memo=memo, protocol=protocol)) for context_len in CONTEXTS]
    assert taken[0] == 0
    # Where a block of 64 begins, one of 32 begins, and so on, so each context reads its odd blocks only. Of 32: those
    # at 32, 96, ..., 352, and the tail of 15 at 416; of 16: those at 16, 48, ..., 400; of 8: those at 8, 24, ..., 408,
    # and the tail of 7 at 424.
    assert text == 431
    assert engine.num_read == 431 + (6 * 32 + 15) + 13 * 16 + (26 * 8 + 7)
    apart = StubEngine(scattered(257))
    for context_len in CONTEXTS:
        assert reused(measure(apart, context_len, protocol=protocol)) == 0
    assert apart.num_read == 4 * 431


def test_positions_at_a_long_context_serve_packed_at_a_shorter_one() -> None:
    engine, memo = StubEngine(scattered(257)), {}
    measure(engine, 64, memo=memo, protocol="position")
    before = engine.num_read
    short = measure(engine, 32, memo=memo, protocol="packed")
    assert numbers(short) == numbers(measure(StubEngine(scattered(257)), 32, protocol="packed"))
    assert engine.num_read - before == 6 * 32 + 15


def test_rolling_windows_share_those_that_begin_at_the_same_token() -> None:
    engine, memo = StubEngine(scattered(257)), {}
    taken = {
        context_len: reused(measure(engine, context_len, memo=memo, protocol="lme-rolling")) for context_len in (64, 32)
    }
    # Of 120 tokens, windows of 64 score 1-64 and, moved back to be full, 65-120. Windows of 32 score 1-32, known;
    # 33-64; 65-96, whose window of 64 began elsewhere; and 97-120. Of 64 tokens the first 32 are known; 3 tokens are
    # one window at both.
    assert taken == {64: 0, 32: 3 * 32 + 32 + 3}


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name not in SHARED])
def test_what_shares_no_prefix_by_its_definition_takes_nothing_over(protocol: str) -> None:
    memo: dict[Any, Any] = {}
    options: dict[str, Any] = {"protocol": protocol, "window": 8, "max_context": 64}
    counts = []
    for context_len in CONTEXTS:
        engine = StubEngine(scattered(257))
        assert reused(measure(engine, context_len, memo=memo, **options)) == 0
        alone = StubEngine(scattered(257))
        measure(alone, context_len, **options)
        counts.append((engine.num_read, alone.num_read))
    assert all(together == alone for together, alone in counts)


@pytest.mark.parametrize("given", [{"seed": 1}, {"limit": 2}])
def test_another_text_takes_nothing_over(given: dict[str, Any]) -> None:
    memo: dict[Any, Any] = {}
    measure(StubEngine(scattered(257)), 64, memo=memo, protocol="packed")
    samples = measure(StubEngine(scattered(257)), 32, memo=memo, protocol="packed", **given)
    assert reused(samples) == 0
    assert numbers(samples) == numbers(measure(StubEngine(scattered(257)), 32, protocol="packed", **given))


@pytest.mark.parametrize("architecture", ["transformer", "ttt-linear", "mamba2", "titans-mac"])
@pytest.mark.parametrize("protocol", SHARED)
def test_a_model_s_numbers_are_those_of_a_cell_alone(architecture: str, protocol: str) -> None:
    torch.manual_seed(0)
    engine = EagerEngine(ARCHITECTURES.load(architecture).tiny(vocab_size=257), device="cpu", dtype="float32")
    memo: dict[Any, Any] = {}
    taken = 0
    for context_len in (64, 32):
        together = measure(engine, context_len, memo=memo, protocol=protocol)
        alone = measure(engine, context_len, protocol=protocol, batch_size=1)
        taken += reused(together)
        assert [s.keys for s in together] == [s.keys for s in alone]
        assert [s.values["nats"] for s in together] == pytest.approx([s.values["nats"] for s in alone], rel=1e-6)
    assert taken > 0


def test_contexts_come_longest_first_where_that_saves_a_pass_and_shortest_first_elsewhere() -> None:
    task = Perplexity()
    order = {name: task.order(PerplexityParams(protocol=name), (1024, 4096, 2048)) for name in PROTOCOLS}
    longest_first, shortest_first = (4096, 2048, 1024), (1024, 2048, 4096)
    assert order == {
        "fixed": shortest_first,
        "hf-stride": shortest_first,
        "stream": shortest_first,
        "packed": longest_first,
        "position": longest_first,
        "lme-rolling": longest_first,
    }
