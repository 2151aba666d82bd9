"""What the context mixer needs for windows that it was counted on beforehand: `counted.csv`, written by `make gain`.

A window is known by its text: corpus digest, document, place, length and context. The mixer reads bytes, so only a
checkpoint that reads bytes has windows there. Its numbers stand in rows as `mixer_nats`, beside those of a model.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.tasks.base import Bench
from ttbench.tasks.windows import Window
from ttbench.types import digest

PACKAGE, TABLE = "ttbench.tasks.perplexity", "counted.csv"
TABLE_DIGEST = "c5bbc3bb4767d872c1b2b4418ab11ee0"  # of its bytes; here, so that a table made again is other code
Place = tuple[str, str, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedWindow:
    """The mixer on one window in one context."""

    corpus: str
    corpus_digest: str
    mixer_digest: str  # of the mixer's source
    context_len: int  # bytes
    document: str
    window_start: int  # byte of the document
    num_bytes: int
    nats: float


def mixer_digest() -> str:
    """Of the source that the numbers are made by; numbers of another one are not looked up."""
    return digest(files(PACKAGE).joinpath("mixer.py").read_bytes())


def values_of(bench: Bench, window: Window) -> dict[str, int | float | None]:
    """Columns `mixer_nats` and `mixer_bytes` of a window; none where it was not counted, or tokens are not bytes."""
    if bench.tokenizer.digest != ByteTokenizer.digest:
        return {}
    place = (bench.corpus.digest, window.document.name, window.start, window.num_bytes, bench.cell.context_len)
    nats = _table().get(place)
    return {} if nats is None else {"mixer_nats": nats, "mixer_bytes": window.num_bytes}


@cache
def _table() -> dict[Place, float]:
    ours = mixer_digest()
    lines = files(PACKAGE).joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    return {
        (
            row["corpus_digest"],
            row["document"],
            int(row["window_start"]),
            int(row["num_bytes"]),
            int(row["context_len"]),
        ): float(row["nats"])
        for row in csv.DictReader(lines)
        if row["mixer_digest"] == ours
    }
