"""A score opens down to its sample, and says so when it no longer can."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.cli.sample import print_sample
from ttbench.corpora.corpus import open_corpus
from ttbench.errors import UsageError
from ttbench.registry import TASKS
from ttbench.runs.evidence import open_sample
from ttbench.store.record import CellRecord, cell_text, evidence_lines, parse_cell
from ttbench.types import Cell, Checkpoint, Sample, digest

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
        task_version=TASKS.load("perplexity").version,
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
    evidence = folder / "evidence.jsonl"
    text = "".join(f"{line}\n" for line in evidence_lines(made))
    evidence.write_text(text)
    made = dataclasses.replace(made, evidence_digest=digest(text) if text else None)
    return open_sample(parse_cell(cell_text(made), cell_id=made.cell.cell_id), evidence, index)


def test_a_window_shows_the_ends_of_its_context_and_the_nats_of_its_tokens(tmp_path: Path) -> None:
    found = opened(record([window(), window()], folder=tmp_path), tmp_path, 1)["rebuilt"]
    text = DOCUMENT.text
    # A context of 512 tokens holds its window of 4 targets: the opening token and 508 bytes go before them.
    assert found["prompt_start"].encode() == text[START - 508 :][:240]
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


def test_a_window_of_bases_is_a_window(tmp_path: Path) -> None:
    sample = window(num_bases=SIZE)
    sample = dataclasses.replace(sample, values={k: v for k, v in sample.values.items() if k != "num_bytes"})
    genomics = {"task": "genomics", "task_version": TASKS.load("genomics").version}
    found = opened(record([sample], folder=tmp_path, **genomics), tmp_path)
    assert [target["nats"] for target in found["rebuilt"]["targets"]] == [0.5, 1.0, 1.5, 3.0]
    wrong = dataclasses.replace(sample, values={**sample.values, "num_bases": 5})
    assert "the row has 5" in opened(record([wrong], folder=tmp_path, **genomics), tmp_path)["not_rebuilt"]


def test_a_sum_over_a_document_shows_its_ends(tmp_path: Path) -> None:
    sample = Sample(keys={"document": DOCUMENT.name, "window_start": None}, values={"num_tokens": 9, "nats": 6.0})
    found = opened(record([sample], folder=tmp_path), tmp_path)
    rebuilt = found["rebuilt"]
    assert (rebuilt["prompt_start"].encode(), rebuilt["prompt_end"].encode()) == (
        DOCUMENT.text[:240],
        DOCUMENT.text[-240:],
    )
    assert rebuilt["document_tokens"] == len(DOCUMENT.text)
    other = opened(record([sample], folder=tmp_path, corpus_digest="0"), tmp_path)
    assert (other["rebuilt"], "another digest" in other["not_rebuilt"]) == (None, True)


QUESTIONS = {
    "ids": [256, *b"ab\xff:12, ab\xff:"],
    "asked_after": [12, 13],
    "question": [0, 0],
    "target_ids": [*b"12"],
    "token_nats": [0.5, 0.25],
    "answered": [1],
}


def test_questions_say_what_was_asked_for_after_which_text_and_what_it_cost(tmp_path: Path) -> None:
    sample = Sample(keys={"sequence": "1"}, values={"hits": 1}, evidence=QUESTIONS)
    recall = {"task": "recall", "task_version": TASKS.load("recall").version}
    made = record([sample], folder=tmp_path, corpus=None, corpus_digest=None, **recall)
    rebuilt = opened(made, tmp_path)["rebuilt"]
    assert rebuilt["prompt_end"] == "ab\\xff:12, ab\\xff:"
    (question,) = rebuilt["questions"]
    assert (question["before"], question["text"]) == ("ab\\xff:12, ab\\xff:", "12")
    assert (question["ids"], question["nats"], question["answered"]) == ([49, 50], [0.5, 0.25], 1)
    checkpoint = dataclasses.replace(made.cell.checkpoint, tokenizer_digest="other")
    other = dataclasses.replace(made, cell=dataclasses.replace(made.cell, checkpoint=checkpoint))
    assert "tokenizer" in opened(other, tmp_path)["not_rebuilt"]


@pytest.mark.parametrize("task", ["perplexity", "recall"])
def test_a_sample_of_another_version_of_its_task_is_not_shown_by_today_s_rule(
    task: str, tmp_path: Path, capsys
) -> None:
    today = TASKS.load(task).version
    sample = (
        window() if task == "perplexity" else Sample(keys={"sequence": "1"}, values={"hits": 1}, evidence=QUESTIONS)
    )
    found = opened(record([sample], folder=tmp_path, task=task, task_version=today - 1), tmp_path)
    assert found["rebuilt"] is None
    told = f"measured by {task} of version {today - 1}, and {task} is of version {today}"
    assert found["not_rebuilt"] == told
    print_sample(found)
    assert f"the text cannot be shown: {told}" in capsys.readouterr().err


def printed(capsys: pytest.CaptureFixture[str], found) -> str:
    print_sample(found)
    seen = capsys.readouterr()
    return " ".join((seen.out + seen.err).split())


NEEDLE = {
    "value": "42",
    "value_ids": [52, 50],
    "value_token_nats": [0.5, 0.25],
    "value_token_control_nats": [4.0, 3.0],
    "candidates": ["42", "17"],
    "nats": [0.75, 5.0],
    "control_nats": [7.0, 5.0],
    "note": "n",
}
ASKED = {"doc_hash": "h", "target": "1"}


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (QUESTIONS, [r"prompt start ab\xff:12, ab\xff:", "'12' 49 50 0.7500 yes"]),
        (
            {
                **ASKED,
                "arguments": [["Why?\nA:", " no"], ["Why?\nA:", " yes"]],
                "responses": [[[-3.5, False]], [[-1.0, True]]],
            },
            [r"prompt start Why?\nA:", "' no' -3.5000 no", "' yes' -1.0000 yes", "target 1"],
        ),
        (
            {
                **ASKED,
                "arguments": [["Ann", " goes"], ["Bob", " goes"]],
                "responses": [[[-3.5, False]], [[-1.0, True]]],
            },
            ["prompt 1 prompt start Ann", "prompt 2 prompt start Bob", "2 ' goes' -1.0000 yes"],
        ),
        ({**ASKED, "arguments": [["a text"]], "responses": [[-30.5]]}, ["prompt start a text", "1 - -30.5000"]),
        (
            {**ASKED, "arguments": [["2+2", "{}"]], "responses": [[" 4"]]},
            ["prompt start 2+2", "answer text 1 '{}' ' 4'"],
        ),
        (NEEDLE, ["answer value 42", "52 0.5000 4.0000", "change 42 0.7500 7.0000 -6.2500 17 5.0000", "kept note n"]),
        ({"answer": [3, 4], "prompt_tokens": 12}, ["answer 3 4", "prompt_tokens 12"]),
        ({"answer": "\x1b[2J"}, [r"answer \x1b[2J"]),
    ],
    ids=["questions", "choices", "contexts", "rolled", "written", "needle", "ids", "control"],
)
def test_whatever_a_task_kept_is_printed(evidence, told: list[str], tmp_path: Path, capsys) -> None:
    sample = Sample(keys={"sequence": "1"}, values={"hits": 1}, evidence=evidence)
    kinds = {"arguments": "commonsense", "candidates": "needle", "target_ids": "recall"}
    owner = next((task for name, task in kinds.items() if name in evidence), "perplexity")
    cell = {"task": owner, "task_version": TASKS.load(owner).version, "corpus": None, "corpus_digest": None}
    text = printed(capsys, opened(record([sample], folder=tmp_path, **cell), tmp_path))
    for part in told:
        assert part in text


def test_a_sum_says_that_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = Sample(keys={"document": DOCUMENT.name}, values={"nats": 6.0})
    text = printed(capsys, opened(record([sample], folder=tmp_path), tmp_path))
    assert f"the document has {len(DOCUMENT.text):,} tokens; this row is a sum" in text
    assert "prompt start" in text


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


def test_a_long_table_is_cut_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = 40
    sample = Sample(
        keys={"document": DOCUMENT.name, "window_start": START},
        values={"num_tokens": size, "num_bytes": size, "nats": 40.0},
        evidence={"token_nats": [1.0] * size},
    )
    found = opened(record([sample], folder=tmp_path), tmp_path)
    assert len(found["rebuilt"]["targets"]) == len(found["rebuilt_view"][0]["rows"]) == size
    text = printed(capsys, found)
    assert "8 more in this table: --json" in text
    assert f"31 {DOCUMENT.text[START + 31]} " in text
    assert f"32 {DOCUMENT.text[START + 32]} " not in text


def test_a_task_that_is_not_installed_says_so(tmp_path: Path) -> None:
    found = opened(record([window()], folder=tmp_path, task="gone"), tmp_path)
    assert found["rebuilt"] is None
    assert (
        found["not_rebuilt"] == f"measured by gone of version {TASKS.load('perplexity').version}, and gone is not there"
    )
    assert found["view"][0]["rows"] == (("token_nats", [0.5, 1.0, 1.5, 3.0]),)
