"""Which samples of runs a page opens down to their text: as many as it has room for, of every cell alike."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ttbench.cli import console
from ttbench.errors import StoreError
from ttbench.runs.evidence import open_samples
from ttbench.store.store import Store

# Compressed texts of samples that a page takes: with the libraries and 10,000 rows it stays below 3 MiB.
EVIDENCE_BYTES = 600 * 1024


def views_of(folders: Sequence[Path], wanted: set[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Samples of these cells with their text: the first of each cell, then the second, until the page is full."""
    waiting: dict[str, Iterator[dict[str, Any]]] = {}
    for folder in folders:
        store = Store(folder)
        for record in store.survey().records:
            cell_id = record.cell.cell_id
            if cell_id in wanted and cell_id not in waiting and record.samples:
                try:
                    waiting[cell_id] = open_samples(record, store.evidence_path(record))
                except StoreError as error:
                    console.say(str(error), style="yellow")
    found: dict[str, dict[int, dict[str, Any]]] = {}
    packer, size = zlib.compressobj(9), 0
    while waiting:
        for cell_id, samples in list(waiting.items()):
            view = next(samples, None)
            if view is None:
                del waiting[cell_id]
                continue
            size += len(packer.compress(json.dumps(view).encode())) + len(packer.flush(zlib.Z_SYNC_FLUSH))
            if size > EVIDENCE_BYTES:
                return found
            found.setdefault(cell_id, {})[view["sample"]] = view
    return found
