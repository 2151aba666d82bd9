"""What probes found of an engine, kept for later runs, and how far a run looks. Torch-free.

How far is looked. To the longest sequence of the run's cells where its own work allows it: the probes read at most
SHARE of the tokens that these cells read, and NEAR tokens three times if that is more. What a run does not look at,
its rows say (`checked` is then "partly").

Where findings are kept. In the user's cache folder, as the digests of files are: they belong to weights and code, not
to a run, so that every later run has them, whatever its `--out`. A note is bound to all that can change what was found,
carries a checksum, and is written whole or not at all; without it, or where nothing can be written, the probes are
asked again in every process.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttbench.code import code_digest
from ttbench.errors import CacheError, UnsupportedError
from ttbench.machine.user_cache import cache_folder, write_note
from ttbench.registry import TASKS
from ttbench.types import Cell, Checkpoint, canonical_json, digest

VERSION = 3  # of the probes; bumped when they find something else, so that what was kept is asked again
NEAR = 4096  # tokens that are read in every way
SHORT = 96  # tokens of the short texts
NUM_CUTS = 28  # places at which a text is cut, about
EXAMINED = 8  # of the forwards beyond NEAR, one in so many is repeated
SHARE = 0.05  # of the tokens that a run reads
REREAD = 1.3  # tokens read for each token beyond NEAR that is looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is kept of the probes of one engine."""

    looked: int  # tokens
    failed: str | None  # name of the probe that failed
    reason: str | None  # what it said, in one sentence

    def require(self) -> None:
        """Raise UnsupportedError when a probe failed."""
        if self.failed is not None:
            raise UnsupportedError(
                f"probe '{self.failed}' failed: {self.reason}; --unchecked scores it all the same and marks it"
            )

    def answers(self, looked: int) -> bool:
        """Whether nothing need be asked again for a run that looks at so many tokens."""
        return self.failed is not None or self.looked >= looked


def is_probed(cell: Cell) -> bool:
    """Whether probes go before the cell: not where a task times or weighs a process of its own and scores nothing."""
    return TASKS.load(cell.task).isolation == "checkpoint"


def reach(cell: Cell) -> int:
    """Tokens of the cell's longest sequence."""
    return cell.context_len if cell.reach is None else cell.reach


def affordable(reach: int, *, num_tokens: int) -> int:
    """How far to look, in tokens.

    Args:
        reach: tokens of the longest sequence that will be read.
        num_tokens: tokens that will be read in all.
    """
    left = SHARE * num_tokens - 3 * NEAR
    return min(reach, max(NEAR, int(left / REREAD)))


def wanted(cells: Iterable[Cell]) -> int:
    """How far the cells of one process ask to look, in tokens; 0 where none of them is probed."""
    scored = [cell for cell in cells if is_probed(cell)]
    tasks = [TASKS.load(cell.task) for cell in scored]
    num_tokens = sum(
        task().tokens(task.Params(**cell.params), cell.context_len) for task, cell in zip(tasks, scored, strict=True)
    )
    return affordable(max(map(reach, scored)), num_tokens=num_tokens) if scored else 0


def within(looked: int, max_context: int | None) -> int:
    """Tokens that are really looked at: no fewer than the short texts have, no more than the model can take."""
    looked = max(looked, SHORT)
    return looked if max_context is None else min(looked, max_context)


def identify(checkpoint: Checkpoint, *, engine: str, dtype: str, device: str, attention: str) -> dict[str, Any]:
    """Everything that can change what is found."""
    return {
        "probes": VERSION,
        "weights": checkpoint.weights_digest,
        "config": checkpoint.config_digest,
        "code": code_digest(architecture=checkpoint.architecture, task=None, engine=engine),
        "engine": engine,
        "dtype": dtype,
        "device": device,
        "attention": attention,
        "torch": importlib.metadata.version("torch"),
    }


def known(cell: Cell) -> Verdict | None:
    """What earlier processes found of the cell's checkpoint; None where nobody asked."""
    key = identify(
        cell.checkpoint, engine=cell.engine, dtype=cell.dtype, device=cell.placement, attention=cell.attention
    )
    note = place(key)
    return None if note is None else recall(note, key)


def place(key: Mapping[str, Any]) -> Path | None:
    """Where a finding is kept; None where there is no place to."""
    try:
        return cache_folder() / "findings" / f"{digest(canonical_json(key))}.json"
    except CacheError:
        return None


def recall(note: Path, key: Mapping[str, Any]) -> Verdict | None:
    """What a note says; None when there is none, or it is damaged or of something else."""
    try:
        data = json.loads(note.read_bytes())
        verdict = Verdict(**data["verdict"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return verdict if data == _note(key, verdict) else None


def remember(note: Path, key: Mapping[str, Any], verdict: Verdict) -> None:
    """Keep a verdict. Where the folder cannot be written nothing is lost but time."""
    write_note(note, _note(key, verdict))


def _note(key: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    body = {"key": dict(key), "verdict": dataclasses.asdict(verdict)}
    return body | {"checksum": digest(canonical_json(body))}
