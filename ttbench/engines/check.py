"""Whether a loaded checkpoint does what its architecture promises, asked before its scores are believed.

The structural probes run in float64, where rounding cannot hide a fault: an error of 1e-8 is a fault, not noise. So do
those of `ttbench.engines.probes`, which look as far as is asked. The text probes run in the dtype asked for.
`ttbench check MODEL` prints the results; the same probes run on every architecture in the tests, and
`ttbench check architecture:NAME` runs them on one that has no checkpoint yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_model, load_tokenizer, save_checkpoint
from ttbench.checkpoints.tokenizer import Tokenizer
from ttbench.engines.check_result import CheckResult, counted, not_applicable
from ttbench.engines.eager import EagerEngine
from ttbench.engines.engine import Engine
from ttbench.engines.findings import NEAR
from ttbench.engines.probes import guarded
from ttbench.engines.probing import probe, probe_interface
from ttbench.errors import TtbenchError, UnsupportedError, UsageError, raised
from ttbench.models.base import SequenceModel
from ttbench.registry import ARCHITECTURES
from ttbench.types import Checkpoint

EXACT_LIMIT = 1e-8
FLOAT32_LIMIT = 1e-5  # of an architecture that declares `float32_inside`
PROBE_LEN = 100  # tokens; not a multiple of any chunk
# Tokens; past the ends of the usual windows, segments and chunks, and just short of an end that decoding then passes.
LONG_PROMPTS = (17, 61, 129, 253, 513)
LONG_STEPS = 8  # tokens decoded after each
LONGEST_WINDOW = 2048  # tokens; a longer one is not gone past
SPLITS = ((1, 99), (15, 17, 63, 5), (64, 36), (16, 16, 1, 67))

# Mean absolute change in nats per token against float64 that rounding alone may make.
ROUNDING_LIMIT = {"float64": 1e-9, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
NO_TOKENIZER = "the folder has no tokenizer, so no text can be read; tasks on text will refuse it"
NOT_CAUSAL = "not causal: it reads whole texts only, without a state, and tasks refuse it"

TEXT = b'''The library of the town stood at the end of a long street, and every evening the same lamp was lit in its
window. People who came home late used to say that as long as the lamp was burning, somebody was still reading, and
that as long as somebody was reading, nothing that had been written there was lost.

def read_lines(path, encoding="utf-8"):
    """Return the lines of a text file without their line ends."""
    with open(path, encoding=encoding) as file:
        return [line.rstrip("\\n") for line in file]

In the morning the lamp was out and the street was full of carts. The books did not mind. They had been written
slowly, by people who were in no hurry, and they were willing to wait until the evening for the lamp to be lit again.
'''


def check(checkpoint: str | Checkpoint, *, device: str, dtype: str, ctx: int | None = None) -> list[CheckResult]:
    """Run every probe on a checkpoint; the results are in a fixed order. A model that fails `interface` stops there.

    Args:
        ctx: tokens to look at; None: what the checkpoint was trained on, at most NEAR.

    Raises:
        UsageError: an unknown device or dtype.
        CheckpointError: it cannot be found, identified or read.
    """
    if isinstance(checkpoint, str):
        checkpoint = resolve(checkpoint, dtype=dtype)
    exact = load_model(checkpoint, device=device, dtype="float64", attention=None)
    tokenizer = load_tokenizer(checkpoint)
    results = model_probes(exact, device=device, looked=ctx or default_look(checkpoint), tokenizer=tokenizer)
    if results[0].name == "interface":
        return results
    if not exact.strictly_causal:
        return [*results, *no_text(NOT_CAUSAL)]
    if tokenizer is None:
        return [*results, *no_text()]
    engine = EagerEngine(load_model(checkpoint, device=device, dtype=dtype, attention=None), device=device, dtype=dtype)
    return [*results, *text_probes(engine, EagerEngine(exact, device=device, dtype="float64"), tokenizer)]


def default_look(checkpoint: Checkpoint) -> int:
    """Tokens that are looked at where nobody says how many."""
    return min(checkpoint.train_ctx or NEAR, NEAR)


def model_probes(
    model: SequenceModel, *, device: str, looked: int, tokenizer: Tokenizer | None = None
) -> list[CheckResult]:
    """Every probe that needs no text, in float64; `interface` alone where that fails.

    Those that look far are asked of a model that passes the short ones: a fault needs finding once.
    """
    engine = EagerEngine(model, device=device, dtype="float64")
    shapes = probe_interface(engine)
    if shapes.passed is False:
        return [shapes]
    results = list(structural_probes(model, device=device))
    if any(result.passed is False for result in results):
        return results
    looked = looked if engine.max_context is None else min(looked, engine.max_context)
    return results + reading_probes(engine, looked=looked, tokenizer=tokenizer, windows=sorted(declared_windows(model)))


def reading_probes(
    engine: Engine, *, looked: int, tokenizer: Tokenizer | None, windows: Sequence[int]
) -> list[CheckResult]:
    """What a run asks before its first score, on `looked` tokens; see `ttbench.engines.probes`.

    Without those that the short probes have asked already.
    """
    ids = None if tokenizer is None else tokenizer.encode(TEXT)
    found = probe(engine, looked=looked, ids=ids, windows=windows, seed=20240707)
    return [result for result in found.results if result.name not in ("interface", "rows") or result.passed is False]


def no_text(why: str = NO_TOKENIZER) -> list[CheckResult]:
    """The probes on text, for a checkpoint that can read none."""
    return [not_applicable(name, why) for name in ("tokenizer", "rounding", "perplexity")]


def check_architecture(name: str, *, device: str, ctx: int | None = None) -> list[CheckResult]:
    """Run every probe that needs no training on an architecture's `tiny()`; the results are in a fixed order.

    `ctx` as for `check`, a quarter of NEAR where it is None. Every weight is moved from its start value, so that zeros
    and ones hide nothing.

    Raises:
        UsageError: an unknown device, or a model whose code fails before a probe.
        UnknownNameError: no such architecture.
        CheckpointError: none of its dialects, or one of another architecture, reads what it writes.
    """
    model_class: type[SequenceModel] = ARCHITECTURES.load(name)
    with torch.random.fork_rng(devices=[]), _told(model_class, "cannot be built"):
        torch.manual_seed(0)
        model = model_class.tiny().double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    found = model_probes(model, device=device, looked=ctx or NEAR // 4)
    if found[0].name == "interface":
        return found
    with _told(model_class, "cannot be written and read back"):
        return [write_and_load(model, name, device=device), *found]


@contextlib.contextmanager
def _told(model_class: type[SequenceModel], what: str) -> Iterator[None]:
    """Turn what the code of an architecture raises into one sentence that names its last line there."""
    try:
        yield
    except Exception as error:  # the border to code that nobody here wrote
        if isinstance(error, TtbenchError):
            raise
        said = f"{model_class.__name__} {what}: {raised(error, file=inspect.getfile(model_class))}"
        hint = "; make a constant tensor in forward, or a buffer of it: files are read into a model without memory"
        raise UsageError(said + (hint if "device meta" in str(error) else "")) from error


def write_and_load(model: SequenceModel, name: str, *, device: str) -> CheckResult:
    """A folder written by the architecture, read back as it, gives the same logits bit for bit."""
    ids = torch.randint(model.config.vocab_size, (2, PROBE_LEN), generator=torch.Generator().manual_seed(20240705))
    with tempfile.TemporaryDirectory() as parent:
        save_checkpoint(model, f"{parent}/model", dtype="float64")
        checkpoint = resolve(f"{parent}/model", dtype="float64")
        loaded = load_model(checkpoint, device=device, dtype="float64", attention=None)
    before, after = (EagerEngine(each, device=device, dtype="float64").logits(ids) for each in (model, loaded))
    num_changed = int((before != after).sum()) + (checkpoint.architecture != name)
    words = f"logits that differ after writing and loading, as '{checkpoint.dialect}' of '{checkpoint.architecture}'"
    return counted("write_and_load", num_changed, words)


def structural_probes(model: SequenceModel, *, device: str) -> Iterator[CheckResult]:
    """What must hold for any weights; of a model that is not causal, what needs no state. In float64, in place."""
    engine = EagerEngine(model, device=device, dtype="float64")
    generator = torch.Generator().manual_seed(20240705)
    ids = torch.randint(engine.vocab_size, (3, PROBE_LEN), generator=generator)
    limit = FLOAT32_LIMIT if model.float32_inside else EXACT_LIMIT
    probes: dict[str, Callable[[EagerEngine, Tensor], CheckResult]] = {
        "step_equals_forward": step_equals_forward,
        "split_invariance": split_invariance,
        "long_prompt": long_prompt,
        "causality": causality,
        "batch_independence": batch_independence,
        "save_and_load": functools.partial(save_and_load, limit=limit),
        "reset_restores": reset_restores,
        "state_bytes": state_bytes,
    }
    stateless = ("causality", "batch_independence")
    for name, ask in probes.items():
        if not model.strictly_causal and name not in stateless:
            yield not_applicable(name, NOT_CAUSAL)
            continue
        result = guarded(name, functools.partial(ask, engine, ids))
        if model.float32_inside and result.limit == EXACT_LIMIT:
            result = widened(result, limit)
            words = "the architecture declares that parts of it compute in float32"
            result = dataclasses.replace(result, explanation=f"{result.explanation}; {words}")
        yield result


def widened(result: CheckResult, limit: float) -> CheckResult:
    """The same finding, judged by another limit where it was judged at all."""
    passed = None if result.passed is None else result.measured is not None and result.measured <= limit
    return dataclasses.replace(result, limit=limit, passed=passed)


def step_equals_forward(engine: Engine, ids: Tensor) -> CheckResult:
    """One token at a time against all at once."""
    whole = engine.logits(ids)
    engine.reset(len(ids), ids.shape[1])
    steps = torch.stack([engine.decode(ids[:, t]) for t in range(ids.shape[1])], dim=1)
    return _exact(
        "step_equals_forward", _relative(steps, whole), f"logits of {ids.shape[1]} single steps against one forward"
    )


def split_invariance(engine: Engine, ids: Tensor) -> CheckResult:
    """A prompt read in pieces against the same prompt read whole."""
    whole = engine.logits(ids)
    worst = 0.0
    for split in SPLITS:
        engine.reset(len(ids), ids.shape[1])
        end = 0
        for length in split:
            end += length
            worst = max(worst, _relative(engine.prefill(ids[:, end - length : end]), whole[:, end - 1]))
    return _exact("split_invariance", worst, f"logits after reading the prompt in pieces, {len(SPLITS)} ways")


def long_prompt(engine: EagerEngine, ids: Tensor) -> CheckResult:
    """Prompts longer than windows, segments and chunks, read at once and gone on from, against one forward."""
    windows = declared_windows(engine.model)
    lengths = {*LONG_PROMPTS, *(window + 1 for window in windows if window <= LONGEST_WINDOW)}
    room = engine.max_context or max(lengths) + LONG_STEPS
    lengths = sorted(length for length in lengths if length + LONG_STEPS <= room)
    if not lengths:
        return not_applicable("long_prompt", f"the model takes {room} tokens at most")
    row = torch.randint(
        engine.vocab_size, (1, lengths[-1] + LONG_STEPS), generator=torch.Generator().manual_seed(20240706)
    )
    whole = engine.logits(row)
    apart = {}
    for length in lengths:
        end = length + LONG_STEPS
        engine.reset(1, end)
        steps = [engine.prefill(row[:, :length]), *(engine.decode(row[:, t]) for t in range(length, end))]
        apart[length] = _relative(torch.stack(steps, dim=1), whole[:, length - 1 : end])
    limit = FLOAT32_LIMIT if engine.model.float32_inside else EXACT_LIMIT
    wrong = [length for length in lengths if not apart[length] <= limit]
    words = f"logits of {LONG_STEPS} steps after prompts of {', '.join(map(str, lengths))} tokens against one forward"
    found = f"; wrong after {', '.join(map(str, wrong))}" if wrong else ""
    beyond = [window for window in windows if window + 1 not in lengths]
    found += f"; the window of {max(beyond)} is longer than what was tried" if beyond else ""
    return _exact("long_prompt", max(apart.values(), key=lambda value: (math.isnan(value), value)), words, found=found)


def declared_windows(model: SequenceModel) -> set[int]:
    """Tokens that layers of limited attention see, by the architecture's own formula of cost."""
    try:
        cost = type(model).cost(model.config, dtype_bytes=8)
    except UnsupportedError:
        return set()
    return {window for window in (cost.window, cost.local_window) if window}


def causality(engine: EagerEngine, ids: Tensor) -> CheckResult:
    """Later tokens are changed; earlier logits must not notice."""
    kept = 61
    changed = ids.clone()
    changed[:, kept:] = (changed[:, kept:] + 1) % engine.vocab_size
    after, before = engine.logits(changed)[:, :kept], engine.logits(ids)[:, :kept]
    words = f"change of the first {kept} logits when all later tokens change"
    moved = ((after - before).abs().amax((0, 2)) > EXACT_LIMIT * before.abs().max()).nonzero()[:, 0].tolist()
    found = f"; {len(moved)} of them move, that of token {moved[0]} first" if moved else ""
    result = _exact("causality", _relative(after, before), words, found=found)
    if engine.model.strictly_causal:
        return result
    return dataclasses.replace(
        result,
        passed=None,
        explanation=f"NOT CAUSAL: declared not strictly causal, and tasks refuse it. {result.explanation}",
    )


def batch_independence(engine: Engine, ids: Tensor) -> CheckResult:
    """Each row alone against the same row among others."""
    together = engine.logits(ids)
    alone = torch.cat([engine.logits(row[None]) for row in ids])
    return _exact("batch_independence", _relative(alone, together), "logits of a row alone against among neighbours")


def save_and_load(engine: Engine, ids: Tensor, *, limit: float = EXACT_LIMIT) -> CheckResult:
    """A state saved, moved on, and brought back must go on bit for bit as before; also onto a larger batch."""
    first, read, written = ids[:1], 37, 20
    engine.reset(1, ids.shape[1])
    engine.prefill(first[:, :read])
    saved = engine.snapshot()
    before = torch.cat([engine.decode(first[:, read + t]) for t in range(written)])
    engine.restore(saved)
    after = torch.cat([engine.decode(first[:, read + t]) for t in range(written)])
    num_changed = int((before != after).sum())
    engine.reset(2, ids.shape[1])
    engine.restore(saved)
    twice = torch.stack([engine.decode(first[:, read + t].expand(2)) for t in range(written)])
    if _relative(twice, before[:, None].expand_as(twice)) > limit:
        num_changed += 1
    return counted("save_and_load", num_changed, f"logits that differ in {written} steps after a state is brought back")


def reset_restores(engine: EagerEngine, ids: Tensor) -> CheckResult:
    """A used state that is reset must be bit for bit a new one, at the same addresses."""
    engine.reset(len(ids), ids.shape[1])
    fresh = engine.prefill(ids[:, :50])
    addresses = engine.state_addresses
    engine.reset(len(ids), ids.shape[1])
    again = engine.prefill(ids[:, :50])
    num_changed = int((fresh != again).sum()) + sum(
        a != b for a, b in zip(addresses, engine.state_addresses, strict=True)
    )
    return counted("reset_restores", num_changed, "logits and addresses that differ after a used state is reset")


def state_bytes(engine: EagerEngine, ids: Tensor) -> CheckResult:
    """Bytes of state in use against the architecture's formula."""
    try:
        cost = type(engine.model).cost(engine.model.config, dtype_bytes=8)
    except UnsupportedError as error:
        return not_applicable("state_bytes", str(error))
    lengths = (1, 17, ids.shape[1])
    worst, seen = 0, []
    for length in lengths:
        engine.reset(1, ids.shape[1])
        engine.prefill(ids[:1, :length])
        worst = max(worst, abs(engine.state_bytes - cost.state_nbytes(length)))
        seen.append(f"{engine.state_bytes} of {cost.state_nbytes(length)} after {length} tokens")
    return counted("state_bytes", worst, f"bytes used against the formula, float64: {', '.join(seen)}", unit="bytes")


def text_probes(engine: Engine, exact: Engine, tokenizer: Tokenizer) -> Iterator[CheckResult]:
    """What must hold for a checkpoint that has learned something, on a page of text."""
    ids = tokenizer.encode(TEXT)
    said = f"; {tokenizer.remark}" if tokenizer.remark else ""
    num_wrong = abs(int(tokenizer.byte_lengths(ids).sum()) - len(TEXT)) + (tokenizer.decode(ids) != TEXT)
    yield counted(
        "tokenizer", num_wrong, f"bytes of {len(TEXT)} that {len(ids)} tokens do not account for{said}", unit="bytes"
    )
    if tokenizer.bos_id is not None:
        ids = np.concatenate(([tokenizer.bos_id], ids))
    nats, nats_exact = (_score(each, ids) for each in (engine, exact))
    rounding, limit = float(np.abs(nats - nats_exact).mean()), ROUNDING_LIMIT[engine.dtype]
    yield CheckResult(
        name="rounding",
        passed=rounding <= limit,
        measured=rounding,
        limit=limit,
        unit="nats/token",
        explanation=f"mean change of a token's loss in {engine.dtype} against float64",
    )
    loss, uniform = float(nats.mean()), math.log(engine.vocab_size)
    yield CheckResult(
        name="perplexity",
        passed=loss < uniform,
        measured=loss,
        limit=uniform,
        unit="nats/token",
        explanation="mean loss on a page of text against ln V, what guessing costs; at or above it the weights are "
        "untrained, damaged, or read with the wrong tokenizer or configuration",
    )


def _score(engine: Engine, ids: np.ndarray) -> np.ndarray:
    engine.reset(1, len(ids))
    return engine.score(ids[None, :-1], ids[None, 1:])[0]


def _relative(found: Tensor, expected: Tensor) -> float:
    """Greatest difference, in units of the greatest expected value."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _exact(name: str, measured: float, explanation: str, *, found: str = "") -> CheckResult:
    finite = math.isfinite(measured)
    words = "float64, greatest difference relative to the greatest logit" if finite else "float64: not finite"
    return CheckResult(
        name=name,
        passed=finite and measured <= EXACT_LIMIT,
        measured=measured if finite else None,
        limit=EXACT_LIMIT,
        unit="relative",
        explanation=f"{explanation}, {words}{found}",
    )
