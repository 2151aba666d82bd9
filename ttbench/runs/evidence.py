"""One score down to its sample: the recipe, the prompt's ends, tokens, answer and log-probabilities.

What the task kept is read from the run's evidence. Where only a place or ids were kept, the task makes the text again
(`Task.rebuild`), from a corpus and a tokenizer that must still be those of the cell. Text is shown only when the task's
version, corpus and tokenizer are still the same: another version may have drawn and read otherwise. Torch-free.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ttbench.checkpoints.files import MAX_CONFIG_BYTES, read_json
from ttbench.checkpoints.tokenizer import Tokenizer, read_tokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.errors import CorpusError, TtbenchError, UsageError
from ttbench.registry import TASKS
from ttbench.store.cells import read_evidence
from ttbench.store.record import CellRecord
from ttbench.store.segments import Stretch
from ttbench.tasks.base import Task
from ttbench.tasks.view import EvidencePart, RebuiltText, rest
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


def open_sample(record: CellRecord, evidence_path: Path | Stretch, index: int) -> dict[str, Any]:
    """All that is known of one sample of a stored cell, as plain data.

    `recipe` is None where the row has none, `evidence` where the task kept none; `view` is the evidence in the parts
    that its task shows; `rebuilt` is the text that the task made again, or None, and `rebuilt_view` the parts of it;
    `not_rebuilt` says why there is none, where there would be one.

    Raises:
        UsageError: the cell has no sample of that number.
        StoreError: its evidence is damaged.
    """
    measured = _measured(record)
    _require_sample(measured, index)
    entries = (entry for entry in read_evidence(evidence_path, record) if entry.pop("sample") == index)
    return view_sample(measured, index, next(entries, None))


def open_samples(record: CellRecord, evidence_path: Path | Stretch) -> Iterator[dict[str, Any]]:
    """Every sample of a stored cell as `open_sample` gives it, each made when it is asked for.

    Raises StoreError when its evidence is damaged.
    """
    measured = _measured(record)
    kept = {entry.pop("sample"): entry for entry in read_evidence(evidence_path, record)}
    return (view_sample(measured, index, kept.get(index)) for index in range(len(measured.samples)))


def _measured(record: CellRecord) -> Measured:
    cell = record.cell
    return Measured(
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


def view_sample(measured: Measured, index: int, kept: dict[str, Any] | None) -> dict[str, Any]:
    """One sample as `open_sample` gives it; `kept` is its evidence, None where none is here.

    Raises UsageError when the cell has no sample of that number.
    """
    _require_sample(measured, index)
    sample = dataclasses.replace(measured.samples[index], evidence=kept)
    recipe = sample.keys.get("recipe")
    rebuilt, reason = _rebuild(measured, sample)
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
        "rebuilt": None if rebuilt is None else {**rebuilt.ends, **rebuilt.data},
        "rebuilt_view": [] if rebuilt is None else [dataclasses.asdict(part) for part in rebuilt.parts],
        "not_rebuilt": reason,
    }


def _require_sample(measured: Measured, index: int) -> None:
    if not 0 <= index < len(measured.samples):
        raise UsageError(
            f"cell {measured.cell_id[:12]} has {len(measured.samples)} samples (status {measured.status}), numbered "
            f"from 0; there is no sample {index}"
        )


def _task_of(cell: Measured) -> type[Task] | None:
    """Today's task of the cell's name; None: there is none."""
    return TASKS.load(cell.task) if cell.task in TASKS else None


def _view(cell: Measured, kept: Mapping[str, Any]) -> Iterator[EvidencePart]:
    """What the task shows of its evidence; that of another version, or of a task that is not there, entry by entry."""
    today = _task_of(cell)
    return today.view(kept) if today is not None and today.version == cell.task_version else iter([rest(kept)])


def _rebuild(cell: Measured, sample: Sample) -> tuple[RebuiltText | None, str | None]:
    """The text that a sample is about and the nats of its tokens, or why not; neither where there is no text."""
    today = _task_of(cell)
    if today is None:
        return None, f"measured by {cell.task} of version {cell.task_version}, and {cell.task} is not there"
    try:
        return today.rebuild(sample, _AsMeasured(cell)), None
    except (TtbenchError, OSError) as error:
        return None, str(error)


class _AsMeasured:
    """What the text of a cell's samples is made from; see `ttbench.tasks.view.TextSource`."""

    def __init__(self, cell: Measured) -> None:
        self.cell, self.context_len = cell, cell.context_len

    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        """Read once: a document is encoded by it, and its tokens are decoded again."""
        cell = self.cell
        self._require_version()
        if cell.path is None:
            raise UsageError(f"checkpoint '{cell.checkpoint}' is not on this machine, and its tokenizer makes the text")
        tokenizer = read_tokenizer(cell.path, read_json(cell.path / "config.json", max_bytes=MAX_CONFIG_BYTES))
        found = None if tokenizer is None else tokenizer.digest
        if tokenizer is None or found != cell.tokenizer_digest:
            raise UsageError(f"the tokenizer in '{cell.path}' has another digest than when it was measured: {found}")
        return tokenizer

    def document(self, name: str) -> Int[np.ndarray, "T"]:
        cell = self.cell
        self._require_version()
        corpus = open_corpus(cell.corpus or "")
        if corpus.digest != cell.corpus_digest:
            raise CorpusError(f"corpus '{cell.corpus}' has another digest than when it was measured: {corpus.digest}")
        tokenizer = self.tokenizer()
        texts = {each.name: each.text for each in corpus.documents("test")}
        if name not in texts:
            raise CorpusError(f"corpus '{cell.corpus}' has no test document '{name}'")
        return tokenizer.encode(texts[name])

    def _require_version(self) -> None:
        cell, today = self.cell, _task_of(self.cell)
        if today is not None and today.version != cell.task_version:
            raise UsageError(
                f"measured by {cell.task} of version {cell.task_version}, and {cell.task} is of version {today.version}"
            )
