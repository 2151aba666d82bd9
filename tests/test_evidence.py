"""A score opens down to its sample, and says so when it no longer can."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ttbench.errors import UsageError
from ttbench.evidence import open_sample
from ttbench.harness.data import open_corpus
from ttbench.harness.tokenizer import ByteTokenizer
from ttbench.record import CellRecord, cell_lines, evidence_lines
from ttbench.types import Cell, Checkpoint, Sample

DOCUMENT = open_corpus("kjv").documents("test")[0]
START, CONTEXT, SIZE = 700, 512, 4


def record(samples: list[Sample], *, folder: Path, **changed) -> CellRecord:
    (folder / "config.json").write_text(json.dumps({"tokenizer": "bytes", "vocab_size": 257}))
    checkpoint = Checkpoint(
        name="tiny",
        path=str(folder),
        architecture="transformer",
        architecture_version=1,
        dialect="own",
        provenance="local",
        revision=None,
        weights_digest="w",
        config_digest="c",
        tokenizer_digest=ByteTokenizer.digest,
        vocab_size=257,
        train_ctx=None,
        num_params=1,
        num_params_non_embedding=1,
        weight_bytes=4,
        cost=None,
    )
    cell = Cell(
        task="perplexity",
        task_version=1,
        checkpoint=checkpoint,
        context_len=CONTEXT,
        params={},
        corpus="kjv",
        corpus_digest=open_corpus("kjv").digest,
        seed=0,
        dtype="float32",
        device="cpu",
        engine="eager",
        attention="sdpa",
        batch_size=1,
        threads=1,
    )
    return CellRecord(
        cell=dataclasses.replace(cell, **changed),
        status="ok",
        reason=None,
        started="2026-01-01T00:00:00.000+00:00",
        cell_s=1.0,
        cell_cpu_s=1.0,
        load_average=0.0,
        engine="eager",
        kernel_path={},
        metrics=(),
        samples=tuple(samples),
    )


def window(**values) -> Sample:
    return Sample(
        keys={"document": DOCUMENT.name, "window_start": START, "shared_context": 2048},
        values={"num_tokens": SIZE, "num_bytes": SIZE, "nats": 6.0, **values},
        evidence={"token_nats": [0.5, 1.0, 1.5, 3.0]},
    )


def opened(made: CellRecord, folder: Path, index: int = 0):
    cell, evidence = folder / f"{made.cell.cell_id}.jsonl", folder / "evidence.jsonl"
    cell.write_text("".join(f"{line}\n" for line in cell_lines(made)))
    evidence.write_text("".join(f"{line}\n" for line in evidence_lines(made)))
    return open_sample(cell, evidence, index)


def test_a_window_shows_the_ends_of_its_context_and_the_nats_of_its_tokens(tmp_path: Path) -> None:
    found = opened(record([window(), window()], folder=tmp_path), tmp_path, 1)["rebuilt"]
    text = DOCUMENT.text
    assert found["prompt_start"].encode() == text[START - CONTEXT :][:240]
    assert found["prompt_end"].encode() == text[START - 240 : START]
    assert [target["id"] for target in found["targets"]] == list(text[START : START + SIZE])
    assert [target["nats"] for target in found["targets"]] == [0.5, 1.0, 1.5, 3.0]


@pytest.mark.parametrize(
    ("values", "changed", "because"),
    [
        ({"num_bytes": 5}, {}, "are 4 bytes; the row has 5"),
        ({}, {"corpus_digest": "0"}, "another digest than when it was measured"),
        ({}, {"corpus": "text:/nowhere"}, "no such file"),
    ],
)
def test_a_text_that_is_not_the_rows_is_not_shown(values, changed, because: str, tmp_path: Path) -> None:
    found = opened(record([window(**values)], folder=tmp_path, **changed), tmp_path)
    assert found["rebuilt"] is None
    assert because in found["not_rebuilt"]
    assert found["evidence"] == {"token_nats": [0.5, 1.0, 1.5, 3.0]}


def test_another_tokenizer_is_noticed(tmp_path: Path) -> None:
    made = record([window()], folder=tmp_path)
    other = dataclasses.replace(made.cell.checkpoint, tokenizer_digest="other")
    found = opened(dataclasses.replace(made, cell=dataclasses.replace(made.cell, checkpoint=other)), tmp_path)
    assert "tokenizer" in found["not_rebuilt"]


def test_a_recipe_is_read_and_evidence_stays_with_its_sample(tmp_path: Path) -> None:
    samples = [
        Sample(keys={"recipe": '{"seed":0}', "depth": 0.5}, values={"hits": 1}, evidence={"answer": f"no\u2028{index}"})
        for index in range(3)
    ]
    found = opened(record(samples, folder=tmp_path), tmp_path, 2)
    assert (found["recipe"], found["keys"], found["values"]) == ({"seed": 0}, {"depth": 0.5}, {"hits": 1})
    assert found["evidence"] == {"answer": "no\u20282"}
    assert (found["rebuilt"], found["not_rebuilt"]) == (None, None)


def test_a_sample_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has 1 samples .* there is no sample 1"):
        opened(record([window()], folder=tmp_path), tmp_path, 1)
