"""One score down to its sample: the recipe, the prompt's ends, tokens, answer and log-probabilities.

What the task kept is read from the run's evidence, and text is made again where only its place or its ids were kept:

    a window            cut from the corpus, with the nats of each token
    ids with questions  decoded, with what was asked for after which token, and its nats
    a sum               over a document, or a part of one: the document's ends; nats of single tokens were not kept

Text is shown only when the task's version, corpus, tokenizer and number of bytes are still those of the row: another
version may have drawn and read otherwise. Torch-free.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttbench.checkpoints.files import MAX_CONFIG_BYTES, read_json
from ttbench.checkpoints.tokenizer import Tokenizer, read_tokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.errors import CorpusError, TtbenchError, UsageError
from ttbench.registry import TASKS
from ttbench.store.record import CellRecord
from ttbench.store.store import read_evidence
from ttbench.tasks.ends import ENDS_TOKENS, prompt_ends, readable
from ttbench.tasks.view import EvidencePart, rest
from ttbench.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What must be known of a cell to show one of its samples, from a run or from published rows."""

    cell_id: str
    task: str
    task_version: int
    checkpoint: str  # its name
    path: Path | None  # of the checkpoint; None: it is not on this machine
    tokenizer_digest: str | None
    context_len: int  # tokens
    corpus: str | None
    corpus_digest: str | None
    status: str
    samples: tuple[Sample, ...]


def open_sample(record: CellRecord, evidence_path: Path, index: int) -> dict[str, Any]:
    """All that is known of one sample of a stored cell, as plain data.

    `recipe` is None where the row has none, `evidence` where the task kept none; `view` is the evidence in the parts
    that its task shows; `rebuilt` is the text that was cut again, or None, and then `not_rebuilt` says why, where there
    would be one.

    Raises:
        UsageError: the cell has no sample of that number.
        StoreError: its evidence is damaged.
    """
    cell = record.cell
    measured = Measured(
        cell_id=cell.cell_id,
        task=cell.task,
        task_version=cell.task_version,
        checkpoint=cell.checkpoint.name,
        path=Path(cell.checkpoint.path),
        tokenizer_digest=cell.checkpoint.tokenizer_digest,
        context_len=cell.context_len,
        corpus=cell.corpus,
        corpus_digest=cell.corpus_digest,
        status=record.status,
        samples=record.samples,
    )
    _require_sample(measured, index)
    entries = (entry for entry in read_evidence(evidence_path, record) if entry.pop("sample") == index)
    return view_sample(measured, index, next(entries, None))


def view_sample(measured: Measured, index: int, kept: dict[str, Any] | None) -> dict[str, Any]:
    """One sample as `open_sample` gives it; `kept` is its evidence, None where none is here.

    Raises UsageError when the cell has no sample of that number.
    """
    _require_sample(measured, index)
    sample = measured.samples[index]
    recipe = sample.keys.get("recipe")
    rebuilt, reason = _rebuild(measured, sample, kept)
    return {
        "cell_id": measured.cell_id,
        "task": measured.task,
        "checkpoint": measured.checkpoint,
        "context_len": measured.context_len,
        "sample": index,
        "num_samples": len(measured.samples),
        "keys": {name: value for name, value in sample.keys.items() if name != "recipe"},
        "values": dict(sample.values),
        "recipe": json.loads(recipe) if isinstance(recipe, str) else None,
        "evidence": kept,
        "view": [] if kept is None else [dataclasses.asdict(part) for part in _view(measured, kept)],
        "rebuilt": rebuilt,
        "not_rebuilt": reason,
    }


def _require_sample(measured: Measured, index: int) -> None:
    if not 0 <= index < len(measured.samples):
        raise UsageError(
            f"cell {measured.cell_id[:12]} has {len(measured.samples)} samples (status {measured.status}), numbered "
            f"from 0; there is no sample {index}"
        )


def _rebuild(
    cell: Measured, sample: Sample, kept: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, str | None]:
    """The text that a sample is about and the nats of its tokens, or why not; neither where there is no text."""
    start, document = sample.keys.get("window_start"), sample.keys.get("document")
    try:
        questions = kept if kept is not None and {"ids", "target_ids"} <= kept.keys() else None
        if questions is None and (not isinstance(document, str) or cell.corpus is None):
            return None, None
        _require_version(cell)
        if questions is not None:
            return _decode_questions(cell, questions), None
        assert isinstance(document, str)
        if isinstance(start, int):
            return _cut_window(cell, sample, kept, document=document, start=start), None
        return _cut_document(cell, document), None
    except (TtbenchError, OSError) as error:
        return None, str(error)


def _view(cell: Measured, kept: Mapping[str, Any]) -> Iterator[EvidencePart]:
    """What the task shows of its evidence; that of another version, or of a task that is not there, entry by entry."""
    today = TASKS.load(cell.task) if cell.task in TASKS else None
    return today.view(kept) if today is not None and today.version == cell.task_version else iter([rest(kept)])


def _require_version(cell: Measured) -> None:
    """Raises UsageError where this is another version of the task than the one that measured."""
    version = TASKS.load(cell.task).version if cell.task in TASKS else None
    if version != cell.task_version:
        today = "is not there" if version is None else f"is of version {version}"
        raise UsageError(f"measured by {cell.task} of version {cell.task_version}, and {cell.task} {today}")


def _cut_window(
    cell: Measured, sample: Sample, kept: Mapping[str, Any] | None, *, document: str, start: int
) -> dict[str, Any]:
    tokenizer, ids = _document_ids(cell, document)
    num_tokens = int(sample.values["num_tokens"] or 0)
    # A context holds its window; without BOS one more token of the document is read before it.
    read = cell.context_len - num_tokens + (tokenizer.bos_id is None)
    before, targets = ids[max(0, start - read) : start], ids[start : start + num_tokens]
    num_bytes = int(tokenizer.byte_lengths(targets).sum())
    # a base is a byte
    counted = sample.values["num_bytes" if "num_bytes" in sample.values else "num_bases"]
    if num_bytes != counted:
        raise UsageError(
            f"the {num_tokens} tokens from {start} of '{document}' are {num_bytes} bytes; the row has {counted}"
        )
    nats = (kept or {}).get("token_nats")
    return {
        **_ends(tokenizer, before),
        "targets": [
            {
                "id": int(token),
                "text": readable(tokenizer.decode(np.array([token]))),
                "nats": None if nats is None else nat,
            }
            for token, nat in zip(targets, nats or [None] * num_tokens, strict=True)
        ],
    }


def _cut_document(cell: Measured, document: str) -> dict[str, Any]:
    tokenizer, ids = _document_ids(cell, document)
    return {**_ends(tokenizer, ids), "document_tokens": len(ids)}


def _decode_questions(cell: Measured, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What was read, and each question: the place it was asked at, and the tokens that would have answered it."""
    tokenizer, ids = _tokenizer(cell), np.array(kept["ids"], dtype=np.int64)
    names = ("question", "asked_after", "target_ids", "token_nats")
    questions: dict[int, dict[str, Any]] = {}
    for number, place, target, nats in zip(*(kept[name] for name in names), strict=True):
        entry = {"question": number, "asked_after": place, "ids": [], "nats": [], "answered": kept["answered"][number]}
        entry = questions.setdefault(number, entry)
        entry["ids"].append(target)
        entry["nats"].append(nats)
    for entry in questions.values():
        entry["before"] = readable(tokenizer.decode(ids[: entry["asked_after"] + 1][-ENDS_TOKENS:]))
        entry["text"] = readable(tokenizer.decode(np.array(entry["ids"])))
    return {**_ends(tokenizer, ids), "questions": list(questions.values())}


def _ends(tokenizer: Tokenizer, ids: np.ndarray) -> dict[str, Any]:
    return {**prompt_ends(ids, tokenizer), "bos_id": tokenizer.bos_id}


def _tokenizer(cell: Measured) -> Tokenizer:
    """The tokenizer of the cell's checkpoint, as it was when it was measured."""
    if cell.path is None:
        raise UsageError(f"checkpoint '{cell.checkpoint}' is not on this machine, and its tokenizer makes the text")
    tokenizer = read_tokenizer(cell.path, read_json(cell.path / "config.json", max_bytes=MAX_CONFIG_BYTES))
    found = None if tokenizer is None else tokenizer.digest
    if tokenizer is None or found != cell.tokenizer_digest:
        raise UsageError(f"the tokenizer in '{cell.path}' has another digest than when it was measured: {found}")
    return tokenizer


def _document_ids(cell: Measured, document: str) -> tuple[Tokenizer, np.ndarray]:
    """The tokenizer and the tokens of a test document, as they were when the cell was measured."""
    corpus = open_corpus(cell.corpus or "")
    if corpus.digest != cell.corpus_digest:
        raise CorpusError(f"corpus '{cell.corpus}' has another digest than when it was measured: {corpus.digest}")
    tokenizer = _tokenizer(cell)
    texts = {each.name: each.text for each in corpus.documents("test")}
    if document not in texts:
        raise CorpusError(f"corpus '{cell.corpus}' has no test document '{document}'")
    return tokenizer, tokenizer.encode(texts[document])
