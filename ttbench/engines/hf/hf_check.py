"""The probes of `ttbench check` for engine hf: what the model can do with its cache, what it leaks, and whether the
engine built on that agrees with one plain forward.

The cache is probed in the dtype asked for, the rest in float64. transformers computes norms, softmax and recurrences in
float32 whatever the dtype, so its limits are wider than those of native architectures.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_tokenizer
from ttbench.engines import check
from ttbench.engines.check import CheckResult
from ttbench.engines.hf.hf_engine import HFEngine, load_hf_engine
from ttbench.engines.hf.hf_forward import LIMITS

_LIMIT = LIMITS[torch.float64]


def check_hf(checkpoint: str, *, device: str, dtype: str, ctx: int | None = None) -> list[CheckResult]:
    """Run every probe on a checkpoint that transformers runs; the results are in a fixed order.

    `ctx` as for `ttbench.engines.check.check`.

    Raises:
        UsageError: an unknown device or dtype.
        CheckpointError: it cannot be found, identified or read.
    """
    found = resolve(checkpoint, dtype=dtype, engine="hf")
    engine = load_hf_engine(found, device=device, dtype=dtype, attention=None, unchecked=True)
    exact = engine
    if dtype != "float64":
        exact = load_hf_engine(found, device=device, dtype="float64", attention=None, unchecked=True)
    tokenizer = load_tokenizer(found)
    looked = ctx or check.default_look(found)
    looked = looked if engine.max_context is None else min(looked, engine.max_context)
    results = [cache_mode(engine), leak(engine), length(engine, looked=looked), *engine_probes(exact)]
    if engine.probe.causal:
        results += check.reading_probes(exact, looked=looked, tokenizer=tokenizer, windows=engine.windows)
    if tokenizer is None:
        return [*results, *check.no_text()]
    return [*results, *check.text_probes(engine, exact, tokenizer)]


def cache_mode(engine: HFEngine) -> CheckResult:
    """How the model's cache is continued, and what was tried."""
    found = engine.probe
    tried = "; ".join(
        f"{name} {error if isinstance(error, str) else f'off by {error:.1e}'}" for name, error in found.errors.items()
    )
    beyond = "".join(f"; {name} {span} is longer than what was tried" for name, span in found.beyond.items())
    batch = found.batch if isinstance(found.batch, str) else f"off by {found.batch:.1e}"
    beyond = f"; two sequences at once {batch}{beyond}"
    error = found.errors.get(found.mode, 0.0)
    return CheckResult(
        name="cache_mode",
        passed=True,
        measured=error if isinstance(error, float) else None,
        limit=found.limit,
        unit="relative",
        explanation=f"mode {found.mode}, on {found.num_tokens} tokens in {engine.dtype}: {tried}{beyond}",
    )


def leak(engine: HFEngine) -> CheckResult:
    """What later tokens do to earlier logits."""
    found = engine.probe
    return CheckResult(
        name="causality",
        passed=found.causal,
        measured=found.leak,
        limit=found.limit,
        unit="relative",
        explanation=f"change of earlier logits when later tokens change, {engine.dtype}; a model that looks ahead is "
        "scored on tokens that it has seen",
    )


def length(engine: HFEngine, *, looked: int) -> CheckResult:
    """Up to which length the model is one function of its text."""
    steady = engine.steady_len
    if steady is None:
        words = "tables that move with the length of a text, at every length that the config names"
        return check.counted("length", 0, words)
    words = (
        f"one function up to {steady:,} tokens; beyond, tables move with the length of the text, and the engine reads "
        "in mode whole with fresh ones: a loss is that of one forward over all that was read"
    )
    return check.not_applicable("length", words)


def engine_probes(engine: HFEngine) -> Iterator[CheckResult]:
    """The engine against the model's own forward, on a few random sequences."""
    num_tokens = check.PROBE_LEN if engine.max_context is None else min(check.PROBE_LEN, engine.max_context)
    generator = torch.Generator().manual_seed(20240705)
    num_rows = 3 if engine.probe.batched else 1
    ids: Tensor = torch.randint(engine.vocab_size, (num_rows, num_tokens), generator=generator)
    for probe in (check.step_equals_forward, check.batch_independence):
        yield check.widened(probe(engine, ids), _LIMIT)
    if num_tokens == check.PROBE_LEN:
        yield check.widened(check.split_invariance(engine, ids), _LIMIT)
    if num_tokens == check.PROBE_LEN and engine.probe.batched:
        yield check.save_and_load(engine, ids, limit=_LIMIT)
