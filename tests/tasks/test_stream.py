"""A stream needs no more memory for a long context than for a short one, and says so; what cannot, says that."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_engine import StubEngine, uniform

import ttbench
from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import Document, open_corpus
from ttbench.machine.measure import environment
from ttbench.report import words
from ttbench.report.published import write_derived
from ttbench.report.table import summarise
from ttbench.runs.plan import Plan, plan
from ttbench.runs.process import WorkerProcess
from ttbench.store.collected import table as rows_table
from ttbench.store.rows import frame
from ttbench.store.store import Store
from ttbench.tasks.perplexity.blocks import lay_out, score_blocks

K, MIB = 1024, 1024**2


class FlatEngine(StubEngine):
    """Reads anything and keeps nothing."""

    def score(self, ids: np.ndarray, targets: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        return np.where(targets == -1, 0.0, 1.0)


def prose(folder: Path, num_bytes: int) -> str:
    """A corpus of one file with the first bytes of the King James Bible's test books."""
    text = b"".join(document.text for document in open_corpus("kjv").documents("test"))
    assert len(text) >= num_bytes
    path = folder / f"{num_bytes}.txt"
    path.write_bytes(text[:num_bytes])
    return f"text:{path}"


def lay_stream(checkpoint: str, corpus: str, context_len: int) -> Plan:
    opened = open_corpus(corpus)
    return plan(
        "perplexity",
        checkpoints=[resolve(checkpoint, dtype="float32", engine="eager")],
        context_lens=[context_len],
        params={"protocol": "stream"},
        corpus=corpus,
        corpus_digest=opened.digest,
        seed=0,
        dtype="float32",
        device="cpu",
        attention=None,
        batch_size=None,
        threads=1,
        machine="m",
        # the probes would read as far as the cell does
        unchecked=True,
    )


def test_what_a_stream_holds_of_its_text_does_not_grow_with_the_context() -> None:
    text = lay_out([Document(name="a", text=bytes(2 * MIB))], ByteTokenizer())
    flat: Any = FlatEngine(uniform(257))
    peaks = []
    for context_len in (32 * K, 2 * MIB):
        tracemalloc.start()
        sums = score_blocks(
            text,
            flat,
            context_len=context_len,
            chunk_len=2 * K,
            batch_size=1,
            by_position=False,
            known=None,
            progress=lambda done, total: None,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sums.num_tokens.sum() == sums.nats.sum() == 2 * MIB
    assert max(peaks) < MIB


def test_a_constant_state_streams_eight_times_the_context_in_the_same_memory(tmp_path: Path) -> None:
    corpus = prose(tmp_path, 8 * K)
    options: dict[str, Any] = {"checkpoints": ["ttt-linear"], "corpus": corpus, "threads": 1, "out": tmp_path / "runs"}
    rows = ttbench.run("perplexity", ctx="1k,8k,16k", protocol="stream", params={"chunk": 512}, **options)
    shown = {
        entry["context_len"]: (entry["status"], entry["value"])
        for entry in words.records(summarise(rows))
        if entry["metric"] == "stream_peak_rss_bytes"
    }
    short, long, beyond = shown[K], shown[8 * K], shown[16 * K]
    assert (short[0], long[0]) == ("ok", "ok")
    assert long[1] == pytest.approx(short[1], rel=0.05)
    assert short[1] > 50 * MIB
    # nothing is repeated to make a longer text
    assert beyond == ("too_short", None)
    assert bool(rows["denormals_flushed"].all())


def test_a_growing_cache_is_planned_with_its_bytes_and_ends_out_of_memory(tmp_path: Path) -> None:
    laid = lay_stream("transformer", prose(tmp_path, 256 * K), 256 * K)
    (cell,) = laid.cells
    needed = laid.estimates[cell.cell_id].state_bytes
    assert needed is not None
    assert needed > 2**30
    store = Store.create(tmp_path, name="t", command="c", options={}, cells=laid.cells, environment=environment())
    worker = WorkerProcess(store.folder, cells=laid.cells, memory_limit=needed)
    while worker.next_message(time.monotonic() + 120).kind != "dead":
        pass
    worker.stop()
    assert store.done() == {cell.cell_id: "oom"}
    # a run without one number still has its table
    table = summarise(frame(rows_table(store.records())))
    shown = [(entry["metric"], entry["status"], entry["value"]) for entry in words.records(table)]
    assert ("stream_peak_rss_bytes", "oom", None) in shown
    assert write_derived(table, store.folder)
