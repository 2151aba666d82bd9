"""One rule for every task: a context of c tokens is all that is read for a score, so that a checkpoint's own training
length can be measured, and rows beyond it are the extrapolated ones."""

from __future__ import annotations

from typing import Any

import pytest
from made_genomes import CORPUS as GENOMES
from needle_models import oracle
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task, scattered, uniform

from ttbench.registry import TASKS
from ttbench.tasks.base import Task
from ttbench.tasks.genomics.genomics import Genomics
from ttbench.tasks.needle.needle import Needle
from ttbench.tasks.perplexity.perplexity import PROTOCOLS, Perplexity
from ttbench.tasks.recall.recall import Recall

TEXT = corpus_of({f"doc{i}": bytes(range(33, 120)) * 6 + b"." for i in range(3)})
PROSE = corpus_of({"book": b"The river ran past the walls of the town. " * 200})


class Stateless(StubEngine):
    """For recall, which asks for the bytes of a state."""

    state_bytes = 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("tokenizer", [None, PairTokenizer()], ids=["bytes", "pairs-without-bos"])
def test_perplexity_reads_as_many_tokens_as_the_context_has(protocol: str, tokenizer: Any) -> None:
    if protocol == "lme-rolling" and tokenizer is not None:
        pytest.skip("it refuses a tokenizer without BOS")
    vocab_size = 257 if tokenizer is None else tokenizer.vocab_size
    engine = StubEngine(uniform(vocab_size), vocab_size=vocab_size)
    options: dict[str, Any] = {"window": 16, "max_context": 64, "protocol": protocol, "chunk": 7}
    run_task(Perplexity(), engine=engine, corpus=TEXT, context_len=64, tokenizer=tokenizer, **options)
    # The last token of a context is a target that nothing comes after, so it is not read: BOS, or a token before, is.
    expected = {"hf-stride": 63, "packed": 64, "position": 64, "stream": 64}.get(protocol, 64)
    if tokenizer is not None and protocol in ("packed", "position", "stream"):
        expected = 63
    assert engine.longest_sequence == expected


def test_the_targets_of_fixed_are_the_last_of_the_context() -> None:
    engine = StubEngine(scattered(257))
    run_task(Perplexity(), engine=engine, corpus=TEXT, context_len=64, window=16, max_context=64)
    # BOS and 48 tokens of the document stand before the first of 16 targets, of which the last is not read
    assert {len(prompt) for prompt in engine.prompts_scored} == {1 + 48}
    assert engine.longest_sequence == 1 + 48 + 15


def test_genomics_needle_and_recall_read_no_more_than_the_context() -> None:
    engine = StubEngine(uniform(257))
    run_task(Genomics(), engine=engine, corpus=GENOMES, context_len=64, window=16, windows=3, max_context=64)
    assert engine.longest_sequence == 64
    engine = StubEngine(oracle)
    run_task(Needle(), engine=engine, corpus=PROSE, context_len=700, limit=1, depths="0,1")
    # 32 tokens are kept for the answer; in their place a candidate of eight is read, but for its last
    assert engine.longest_sequence == 700 - 32 + 7
    engine = Stateless(uniform(257))
    run_task(Recall(), engine=engine, corpus=PROSE, context_len=256, limit=1, kind="mqar", form="text")
    assert engine.longest_sequence <= 256


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("context_len", [256, 1024, 32_768])
def test_no_task_says_that_it_reads_beyond_its_context(name: str, context_len: int) -> None:
    task: Task = TASKS.load(name)()
    params = task.settle(task.Params(), (context_len,))
    assert task.reach(params, context_len) <= context_len
