"""What the context mixer needs is looked up for the very windows that are scored, and for no others."""

from __future__ import annotations

import csv
import math
from importlib.resources import files
from typing import Any

import pytest
from stub_engine import StubEngine, corpus_of, run_task, uniform

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.tasks.perplexity import counted
from ttbench.tasks.perplexity.gain import CONTEXTS, NUM_DOCUMENTS
from ttbench.tasks.perplexity.perplexity import Perplexity, PerplexityParams
from ttbench.tasks.windows import draw_windows
from ttbench.types import Sample, digest

TEXT = files(counted.PACKAGE).joinpath(counted.TABLE)
LINES = list(csv.DictReader(TEXT.read_text().splitlines()))
NAMES = ("languages", "cipher", "renamed", "code")


class ForeignBytes(ByteTokenizer):
    """Nobody knows that its tokens are bytes."""

    digest = "foreign"


def scored(corpus, **options) -> list[Sample]:
    return run_task(Perplexity(), engine=StubEngine(uniform(257)), corpus=corpus, context_len=512, **options)


def test_the_table_is_the_one_that_the_code_knows_made_by_the_mixer_that_is_here() -> None:
    """Else: `make gain`, which prints the digest."""
    assert digest(TEXT.read_bytes()) == counted.TABLE_DIGEST
    assert {line["mixer_digest"] for line in LINES} == {counted.mixer_digest()}
    assert {line["corpus"] for line in LINES} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_holds_the_windows_that_the_task_scores(name: str) -> None:
    corpus, params = open_corpus(name), PerplexityParams(limit=NUM_DOCUMENTS)
    memo: dict[Any, Any] = {}
    for context_len in (CONTEXTS[0], CONTEXTS[-1]):
        drawn = draw_windows(corpus, ByteTokenizer(), params, seed=0, context_len=context_len, memo=memo).windows
        wanted = [(corpus.digest, window.document.name, window.start) for window in drawn]
        mine = [line for line in LINES if (line["corpus"], line["context_len"]) == (name, str(context_len))]
        assert [(line["corpus_digest"], line["document"], int(line["window_start"])) for line in mine] == wanted
        assert len(wanted) > 20


def test_a_row_has_what_was_counted_for_its_window() -> None:
    samples = scored(open_corpus("cipher"), limit=3)
    own = [line for line in LINES if line["corpus"] == "cipher" and line["context_len"] == "512"]
    lines: dict[Any, float] = {(line["document"], int(line["window_start"])): float(line["nats"]) for line in own}
    assert len(samples) == 3
    for sample in samples:
        place = (sample.keys["document"], sample.keys["window_start"])
        assert sample.values["mixer_nats"] == lines[place]
        assert sample.values["mixer_bytes"] == 256
        assert 1 < lines[place] / 256 / math.log(2) < 6


def test_other_windows_tokens_texts_and_protocols_have_none() -> None:
    cipher = open_corpus("cipher")
    longer = run_task(Perplexity(), engine=StubEngine(uniform(257)), corpus=cipher, context_len=600, limit=2)
    narrow = scored(cipher, limit=2, window=128)
    other = scored(corpus_of({document.name: document.text for document in cipher.documents("test")}), limit=2)
    packed = scored(cipher, limit=2, protocol="packed")
    foreign = scored(cipher, limit=2, tokenizer=ForeignBytes())
    for samples in (longer, narrow, other, packed, foreign):
        assert {(sample.values["mixer_nats"], sample.values["mixer_bytes"]) for sample in samples} == {(None, None)}


def test_numbers_of_another_mixer_are_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "mixer_digest", lambda: "another")
    counted._table.cache_clear()
    try:
        assert {sample.values["mixer_nats"] for sample in scored(open_corpus("cipher"), limit=2)} == {None}
    finally:
        counted._table.cache_clear()
