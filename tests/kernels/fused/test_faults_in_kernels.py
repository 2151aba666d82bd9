"""A kernel with one wrong line is caught by the cases of its twin: a tail, a mask, a share, a decay, a place."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ttbench.kernels.dispatch.catalogue import absent

if absent() is not None:
    pytest.skip(f"{absent()}", allow_module_level=True)

from ttbench.kernels.dispatch.proof import INTERPRETED_BOUND, error_of
from ttbench.kernels.fused.operands import interpreted

# (file, attribute, number of the case, the line as it is, the line as it must not be)
FAULTS = {
    "the last share is left out of the merge": (
        *("attention.attention_twin", "STEP", 3),
        *("for split in range(1, SPLITS):", "for split in range(1, SPLITS - 1):"),
    ),
    "keys behind the position are seen": (
        *("attention.attention_twin", "STEP", 1),
        *("stop = tl.minimum(first + share, length)", "stop = first + share"),
    ),
    "a group's queries read its neighbour's keys": (
        *("attention.attention_twin", "STEP", 1),
        *("batch, group = row // G, row % G", "batch, group = row // G, row % G * 0"),
    ),
    "a full ring hides the key that is written over": (
        *("attention.window_twin", "WINDOW", 2),
        *("past, to = tl.minimum(position, N), position % N", "past, to = tl.minimum(position, N - 1), position % N"),
    ),
    "a key goes behind the last one of the ring": (
        *("attention.window_twin", "WINDOW", 2),
        *("tl.minimum(position, N), position % N", "tl.minimum(position, N), (position + 1) % N"),
    ),
    "only the first share writes": (
        *("attention.window_twin", "WINDOW", 4),
        *("(first <= Z + to) & (Z + to < stop)", "(split == 0)"),
    ),
    "sinks are turned into places of the ring": (
        *("attention.window_twin", "WINDOW", 2),
        *("places = (at - Z)[:, None]", "places = at[:, None]"),
    ),
    "values are turned like keys": (
        *("attention.window_twin", "SEGMENT", 1),
        *(
            "first_v = tl.load(first_v_ptr + batch * first_v_row + group * D + d, mask=in_d, other=0.0).to(kept)",
            "first_v = _turned(first_v_ptr + batch * first_v_row + group * D, d, in_d, cos, sin, P, ROTATE).to(kept)",
        ),
    ),
    "the rows of a segment are exchanged": (
        *("attention.window_twin", "SEGMENT", 1),
        *("        to += 1", "        to -= 1"),
    ),
    "a question keeps its length": (
        *("neural_memory_recall", "STEP", 0),
        *("    r *= scale", "    scale = 1.0"),
    ),
    "hidden units are left out": (
        *("neural_memory_recall", "STEP", 1),
        *("for start in range(0, E, TILE):", "for start in range(0, E // TILE * TILE, TILE):"),
    ),
    "all heads of a gate are normed as one": (
        *("shared.norm_twin", "MEMORY", 0),
        *(
            "m *= tl.rsqrt(tl.sum(m * m, 1) / D + head_eps)[:, None]",
            "m *= tl.rsqrt(tl.sum(m * m) / (H * D) + head_eps)",
        ),
    ),
    "the second part of the inner weights does not learn": (
        *("ttt_linear_twin", "PREFILL", 5),
        *(
            "W_rest = tl.dot(g.to(OPERANDS), tl.trans(k_rest_low), W_rest,",
            "tl.dot(g.to(OPERANDS), tl.trans(k_rest_low),",
        ),
    ),
    "keys of an earlier call are half forgotten": (
        *("ttt_linear_twin", "PREFILL", 5),
        *("mask=old[None, :] & in_r,", "mask=old[None, :] & in_r & (r < 0)[:, None],"),
    ),
    "the last chunk is skipped": (
        *("state_space.ssd_twin", "PREFILL", 1),
        *("for chunk in range(0, tl.cdiv(T, K)):", "for chunk in range(0, T // K):"),
    ),
    "a token does not see itself": (
        *("state_space.ssd_twin", "PREFILL", 1),
        *("tl.where(k[:, None] >= k[None, :], scores", "tl.where(k[:, None] > k[None, :], scores"),
    ),
    "exponents are differences of sums": (
        *("state_space.ssd_twin", "PREFILL", 3),
        *("tl.exp(tl.cumsum(later, 0))", "tl.exp(tl.cumsum(rate, 0)[:, None] - tl.cumsum(rate, 0)[None, :])"),
    ),
    "the limits of dt are forgotten": (
        *("state_space.ssd_twin", "STEP", 1),
        *("dt = tl.minimum(tl.maximum(softplus(dt), low), high)", "dt = softplus(dt)"),
    ),
    "the state of a scan is not written": (
        *("state_space.selective_scan_twin", "STEP", 0),
        *("tl.store(at, h, mask=inside)", "tl.store(at, h, mask=inside & (row < 0))"),
    ),
    "earlier segments do not decay": (
        *("state_space.selective_scan_twin", "PREFILL", 2),
        *("h *= tl.exp(sums[:, None] * A)", "h *= 1.0"),
    ),
    "the last tokens of a segment are skipped": (
        *("state_space.selective_scan_twin", "PREFILL", 1),
        *("tl.minimum(segment_len, T - first)", "tl.minimum(segment_len, (T - first) // 8 * 8)"),
    ),
    "the tail of a convolution stays": (
        *("shared.short_conv_twin", "TWIN", 1),
        *("    tl.store(where, new", "    tl.store(where, old"),
    ),
    "the tail of a convolution is off by one": (
        *("shared.short_conv_twin", "TWIN", 4),
        *("at = s + T - (K - 1)", "at = s + T - K"),
    ),
    "a norm divides by the size of its block": (
        *("shared.norm_twin", "RESIDUAL", 0),
        *("tl.rsqrt(tl.sum(x * x, 0) / D", "tl.rsqrt(tl.sum(x * x, 0) / BD"),
    ),
    "a mean is taken over what is not there": (
        *("shared.norm_twin", "GATED", 2),
        *("y = tl.where(inside, y - tl.sum(y, 0) / D, 0.0)", "y = y - tl.sum(y, 0) / D"),
    ),
    "a key goes to the first place": (
        *("shared.inputs_twin", "KEEP", 1),
        *("place = tl.load(position_ptr)", "place = tl.load(position_ptr) * 0"),
    ),
    "every token is turned as the first": (
        *("shared.inputs_twin", "TTT", 1),
        *("turn = (row % T * P + p) * 2", "turn = p * 2"),
    ),
    "gates of another head": (
        *("shared.inputs_twin", "MEMORY", 0),
        *("row * gates_stride + head * 3,", "row * gates_stride + head,"),
    ),
}
_number = itertools.count()


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[list[str]]:
    """Names of modules that a test makes, which are forgotten after it."""
    names: list[str] = []
    yield names
    for name in names:
        sys.modules.pop(name, None)


def changed(file: str, before: str, after: str, folder: Path, loaded: list[str]) -> ModuleType:
    """The module of a twin with one line changed, and operators of its own."""
    path = Path(importlib.import_module(f"ttbench.kernels.fused.{file}").__file__ or "")
    text, name = path.read_text(), f"fault_{next(_number)}"
    assert text.count(before) == 1, f"{before!r} is not in {file} once"
    text = text.replace(before, after).replace('custom_op("ttbench::', f'custom_op("{name}::')
    (folder / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loaded.append(name)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not interpreted(), reason="kernels are compiled in this process")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_line_is_caught(fault: str, tmp_path: Path, loaded: list[str]) -> None:
    file, attribute, number, before, after = FAULTS[fault]
    twin = getattr(changed(file, before, after, tmp_path, loaded), attribute)
    args, kwargs = twin.cases[number].make(torch.Generator().manual_seed(0), torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        assert error_of(twin, args, kwargs) > 5 * INTERPRETED_BOUND
