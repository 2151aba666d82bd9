"""The probes of `ttbench check` for engine graph: those of the model, run eagerly, and its replays against them."""

from __future__ import annotations

import torch
from torch import Tensor

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_model
from ttbench.engines.check import check
from ttbench.engines.check_result import CheckResult, counted, not_applicable
from ttbench.engines.eager import EagerEngine
from ttbench.engines.graph.graph_engine import GraphEngine

# Tokens: past the first bucket of attention, and steps over at least two mini-batches of the usual 16.
PROMPT_LEN, NUM_STEPS = 250, 48
BATCH_SIZE = 2
# Greatest difference from eager, in units of the greatest logit, that another order of sums may make.
LIMITS = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}


def check_graph(checkpoint: str, *, device: str, dtype: str, ctx: int | None = None) -> list[CheckResult]:
    """Run every probe on a checkpoint; the results are in a fixed order. Arguments and errors as of `check`."""
    found = resolve(checkpoint, dtype=dtype, engine="graph")
    results = check(found, device=device, dtype=dtype, ctx=ctx)
    model = load_model(found, device=device, dtype=dtype, attention=None)
    if not model.strictly_causal:
        return [*results, not_applicable("replay", "not causal: it has no steps")]
    eager, graph = (kind(model, device=device, dtype=dtype) for kind in (EagerEngine, GraphEngine))
    return [*results, replay(eager, graph), addresses(graph)]


def replay(eager: EagerEngine, graph: EagerEngine) -> CheckResult:
    """A prompt and steps after it, replayed, against the same model run eagerly."""
    ids = _ids(graph)
    found, expected = _read(graph, ids), _read(eager, ids)
    measured = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
    num_changed = int((found != expected).sum())
    limit = LIMITS[graph.dtype]
    words = f"logits after {PROMPT_LEN} tokens and {NUM_STEPS} steps, replayed against eager, {graph.dtype}"
    return CheckResult(
        name="replay",
        passed=measured <= limit,
        measured=measured,
        limit=limit,
        unit="relative",
        explanation=f"{words}; {num_changed} of {found.numel()} are not equal bit for bit",
    )


def addresses(graph: EagerEngine) -> CheckResult:
    """Where the state lies, before and after it is restored and reset."""
    ids = _ids(graph)
    _read(graph, ids)
    before, saved = graph.state_addresses, graph.snapshot()
    graph.restore(saved)
    restored = graph.state_addresses
    graph.reset(BATCH_SIZE, PROMPT_LEN + NUM_STEPS)
    moved = sum(a != b for after in (restored, graph.state_addresses) for a, b in zip(before, after, strict=True))
    return counted("addresses", moved, "tensors of the state that a restore or a reset moves away from its graphs")


def _ids(engine: EagerEngine) -> Tensor:
    draw = torch.Generator().manual_seed(20240708)
    return torch.randint(engine.vocab_size, (BATCH_SIZE, PROMPT_LEN + NUM_STEPS), generator=draw)


def _read(engine: EagerEngine, ids: Tensor) -> Tensor:
    """Logits [1 + N, B, V] of the last token of the prompt and of each step."""
    engine.reset(len(ids), ids.shape[1])
    engine.prepare(prompt_len=PROMPT_LEN, num_steps=NUM_STEPS)
    steps = [engine.prefill(ids[:, :PROMPT_LEN]), *(engine.decode(row) for row in ids[:, PROMPT_LEN:].T)]
    engine.synchronize()
    return torch.stack(steps)
