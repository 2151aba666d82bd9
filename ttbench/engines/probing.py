"""Whether a run may believe its engine: the probes, asked once before the first score, and kept.

How far is looked, and where findings are kept, is told in `ttbench.engines.findings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ttbench.checkpoints.tokenizer import Tokenizer
from ttbench.engines import findings
from ttbench.engines.check_result import CheckResult
from ttbench.engines.consistency import TOLERANCES, Ids, Tolerance, draw_text
from ttbench.engines.engine import Engine
from ttbench.engines.findings import SHORT, Verdict
from ttbench.engines.probes import Findings, Session, ask, guarded
from ttbench.types import Checkpoint, canonical_json, digest

BYTES_PER_TOKEN = 8  # from above, of most texts


def vouch(
    engine: Engine,
    checkpoint: Checkpoint,
    *,
    attention: str,
    looked: int,
    text: Callable[[int], Ids | None],
    exact: Callable[[], Engine],
) -> Verdict:
    """What the probes say of an engine: kept from an earlier process, or found now.

    Args:
        attention: the implementation of attention in use.
        looked: tokens to look at; at most what the engine can take.
        text: ids of some text of the run's own, at least so many; None where it reads none.
        exact: opens the same checkpoint in float64; see `probe`.
    """
    looked = findings.within(looked, engine.max_context)
    key = findings.identify(
        checkpoint,
        engine=engine.name,
        dtype=engine.dtype,
        device=getattr(engine, "placement", engine.device),
        attention=attention,
    )
    note = findings.place(key)
    known = None if note is None else findings.recall(note, key)
    if known is not None and known.answers(looked):
        return known
    seed = int(digest(canonical_json(key))[:8], 16)
    found = probe(engine, looked=looked, ids=text(looked + 1), windows=(), seed=seed, exact=exact)
    failed = found.failed
    verdict = Verdict(
        looked=found.looked,
        failed=None if failed is None else failed.name,
        reason=None if failed is None else failed.explanation,
    )
    if note is not None:
        findings.remember(note, key, verdict)
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


def probe(
    engine: Engine,
    *,
    looked: int,
    ids: Ids | None,
    windows: Sequence[int],
    seed: int,
    exact: Callable[[], Engine] | None = None,
) -> Findings:
    """Ask an engine all probes, on `looked` tokens of `ids` with random stretches, or on random ones.

    Args:
        exact: opens the same model in float64; asked where the model makes discrete choices, and has that precision.
    """
    causal = getattr(engine.model, "strictly_causal", True)
    turns = getattr(engine.model, "discrete_choices", False) and not engine.float32_inside and engine.dtype != "float64"
    text = draw_text(ids, num_tokens=looked, vocab_size=engine.vocab_size, seed=seed)
    return ask(
        engine,
        text,
        tolerance(engine),
        windows=windows,
        seed=seed,
        causal=causal,
        exact=exact if turns else None,
    )


def probe_interface(engine: Engine) -> CheckResult:
    """The first of the probes alone: whether the engine returns what the interface says."""
    text = draw_text(None, num_tokens=SHORT, vocab_size=engine.vocab_size, seed=0)
    causal = getattr(engine.model, "strictly_causal", True)
    session = Session(engine, text, tolerance(engine), windows=(), seed=0, causal=causal)
    return guarded("interface", session.interface)


def tolerance(engine: Engine) -> Tolerance:
    """What counts as rounding: of its dtype, and of float32 where parts compute in that whatever the dtype."""
    return TOLERANCES["float32" if engine.float32_inside and engine.dtype == "float64" else engine.dtype]
