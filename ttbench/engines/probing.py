"""Whether a run may believe its engine: the probes, asked once before the first score, and kept.

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
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttbench.checkpoints import files
from ttbench.checkpoints.tokenizer import Tokenizer
from ttbench.code import code_digest
from ttbench.engines.check_result import CheckResult
from ttbench.engines.consistency import NEAR, SHORT, TOLERANCES, Ids, Tolerance, draw_text
from ttbench.engines.engine import Engine
from ttbench.engines.probes import Findings, Session, ask, guarded
from ttbench.errors import CacheError, UnsupportedError
from ttbench.types import Checkpoint, canonical_json, digest
from ttbench.user_cache import cache_folder

VERSION = 1  # of the probes; bumped when they find more, so that what was kept is asked again
SHARE = 0.05  # of the tokens that a run reads
BYTES_PER_TOKEN = 8  # from above, of most texts
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


def affordable(reach: int, *, num_tokens: int) -> int:
    """How far to look, in tokens.

    Args:
        reach: tokens of the longest sequence that will be read.
        num_tokens: tokens that will be read in all.
    """
    left = SHARE * num_tokens - 3 * NEAR
    return min(reach, max(NEAR, int(left / REREAD)))


def vouch(
    engine: Engine, checkpoint: Checkpoint, *, attention: str, looked: int, text: Callable[[int], Ids | None]
) -> Verdict:
    """What the probes say of an engine: kept from an earlier process, or found now.

    Args:
        attention: the implementation of attention in use.
        looked: tokens to look at; at most what the engine can take.
        text: ids of some text of the run's own, at least so many; None where it reads none.
    """
    looked = max(looked, SHORT) if engine.max_context is None else min(max(looked, SHORT), engine.max_context)
    key = _key(engine, checkpoint, attention=attention)
    note = _place(key)
    known = None if note is None else recall(note, key)
    if known is not None and (known.failed is not None or known.looked >= looked):
        return known
    found = probe(
        engine, looked=looked, ids=text(looked + 1), windows=(), seed=int(digest(canonical_json(key))[:8], 16)
    )
    failed = found.failed
    verdict = Verdict(
        looked=found.looked,
        failed=None if failed is None else failed.name,
        reason=None if failed is None else failed.explanation,
    )
    if note is not None:
        remember(note, key, verdict)
    return verdict


def encode(texts: Iterable[bytes], tokenizer: Tokenizer, *, num_tokens: int) -> Ids:
    """Ids of texts, one after the other behind an opening token each, until there are `num_tokens`."""
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    found, parts = 0, [np.array([], dtype=np.int64)]
    for text in texts:
        # no more of a long document than is needed, whole words of it
        most = BYTES_PER_TOKEN * (num_tokens - found)
        piece = text if len(text) <= most else text[:most].rpartition(b" ")[0] or text
        parts += [np.array(start, dtype=np.int64), tokenizer.encode(piece)]
        found += len(start) + len(parts[-1])
        if found >= num_tokens:
            break
    return np.concatenate(parts)


def probe(engine: Engine, *, looked: int, ids: Ids | None, windows: Sequence[int], seed: int) -> Findings:
    """Ask an engine all probes, on `looked` tokens of `ids` with random stretches, or on random ones."""
    causal = getattr(engine.model, "strictly_causal", True)
    text = draw_text(ids, num_tokens=looked, vocab_size=engine.vocab_size, seed=seed)
    return ask(engine, text, tolerance(engine), windows=windows, seed=seed, causal=causal)


def probe_interface(engine: Engine) -> CheckResult:
    """The first of the probes alone: whether the engine returns what the interface says."""
    text = draw_text(None, num_tokens=SHORT, vocab_size=engine.vocab_size, seed=0)
    causal = getattr(engine.model, "strictly_causal", True)
    session = Session(engine, text, tolerance(engine), windows=(), seed=0, causal=causal)
    return guarded("interface", session.interface)


def tolerance(engine: Engine) -> Tolerance:
    """What counts as rounding: of its dtype, and of float32 where parts compute in that whatever the dtype."""
    return TOLERANCES["float32" if engine.float32_inside and engine.dtype == "float64" else engine.dtype]


def _key(engine: Engine, checkpoint: Checkpoint, *, attention: str) -> dict[str, Any]:
    """Everything that can change what is found."""
    return {
        "probes": VERSION,
        "weights": checkpoint.weights_digest,
        "config": checkpoint.config_digest,
        "code": code_digest(architecture=checkpoint.architecture, task=None, engine=engine.name),
        "engine": engine.name,
        "dtype": engine.dtype,
        "device": engine.device,
        "attention": attention,
        "torch": torch.__version__,
    }


def _place(key: Mapping[str, Any]) -> Path | None:
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
    files.write_note(note, _note(key, verdict))


def _note(key: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    body = {"key": dict(key), "verdict": dataclasses.asdict(verdict)}
    return body | {"checksum": digest(canonical_json(body))}
