"""What every op in `ttbench.kernels` must do: the fast form equals the reference, in value and in gradient.

A new op gives its inputs to `OPS`; for what it has not added, a test fails or a line is printed.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ttbench.kernels
from ttbench.kernels import lsh_attention, neural_memory
from ttbench.kernels.favor import FavorState
from ttbench.kernels.lsh_attention import LSHState
from ttbench.kernels.ttt_linear import LinearState
from ttbench.kernels.ttt_mlp import MLPState

LENGTHS = (1, 15, 17, 63, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """How to call one op at some length: leaves to differentiate by, and a call that makes a tuple of outputs."""

    leaves: Callable[[int, torch.dtype], list[Tensor]]
    call: Callable[[Callable[..., Any], list[Tensor]], tuple[Tensor, ...]]


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _attention_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    past = 7
    sizes = (num_tokens, num_tokens + past, num_tokens + past)
    return [_normal(2, 3, size, 8, seed=i).to(dtype) for i, size in enumerate(sizes)]


def _ttt_leaves(state: type[Any]) -> Callable[[int, torch.dtype], list[Tensor]]:
    def leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
        heads, dim, size = 2, 8, 16
        q, k, v = (_normal(2, num_tokens, heads, dim, seed=i) for i in range(3))
        lam = _normal(2, num_tokens, heads, seed=3).sigmoid() / dim
        tau = (1 / torch.arange(1, size + 1) + 0.05 * _normal(size, seed=4)).clamp_min(0)
        norm = [1 + 0.2 * _normal(heads, dim, seed=5), 0.2 * _normal(heads, dim, seed=6)]
        shapes = state.shapes(batch_size=2, num_heads=heads, dim=dim, mini_batch_size=size).values()
        past = [0.2 * _normal(*shape, seed=7 + i) for i, shape in enumerate(shapes)]
        return [x.to(dtype) for x in (q, k, v, lam, tau, *norm, *past)]

    return leaves


def _ttt_call(state: type[Any]) -> Callable[..., tuple[Tensor, ...]]:
    names = [field.name for field in dataclasses.fields(state)]

    def call(op: Callable[..., Any], leaves: list[Tensor]) -> tuple[Tensor, ...]:
        out, final = op(*leaves[:7], state(**dict(zip(names, leaves[7:], strict=True))), offset=3)
        return out, *(getattr(final, name) for name in names)

    return call


def _s4d_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    channels, states = 5, 3
    dt = (_normal(channels, seed=1) - 3).exp()
    A = torch.stack((-_normal(channels, states, seed=2).exp(), 10 * _normal(channels, states, seed=3)), -1)
    past = _normal(2, channels, states, 2, seed=6)
    leaves = (_normal(2, num_tokens, channels, seed=0), dt, A, _normal(channels, states, 2, seed=4))
    return [leaf.to(dtype) for leaf in (*leaves, _normal(channels, seed=5), past)]


def _selective_scan_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    channels, size = 6, 4
    u, dt = (_normal(2, num_tokens, channels, seed=i) for i in range(2))
    A = -_normal(channels, size, seed=2).exp()
    B, C = (_normal(2, num_tokens, size, seed=i) for i in (3, 4))
    # step sizes from 1e-3 to 20: some forget at once
    return [x.to(dtype) for x in (u, (2 * dt - 1).exp(), A, B, C, _normal(2, channels, size, seed=5))]


def _ssd_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    heads, dim, groups, size = 4, 6, 2, 5
    x, dt = _normal(2, num_tokens, heads, dim, seed=0), _normal(2, num_tokens, heads, seed=1)
    A = -_normal(heads, seed=2).exp()
    B, C = (_normal(2, num_tokens, groups, size, seed=i) for i in (3, 4))
    return [x.to(dtype) for x in (x, (2 * dt - 1).exp(), A, B, C, _normal(2, heads, dim, size, seed=5))]


def _memory_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    heads, dim, size = 2, 4, 16
    q, k, v = (F.normalize(_normal(2, num_tokens, heads, dim, seed=i), dim=-1) for i in range(3))
    gates = _normal(2, num_tokens, heads, 3, seed=3)
    gates = torch.cat((0.1 * gates[..., :1].sigmoid(), F.logsigmoid(gates[..., 1:] + 1)), -1)
    shapes = neural_memory.layer_shapes(dim, num_layers=2, expansion=2)
    past = [0.5 * _normal(2, heads, *shape, seed=4 + i) for i, shape in enumerate(shapes)]
    past += [0.1 * _normal(2, heads, *shape, seed=6 + i) for i, shape in enumerate(shapes)]
    past += [0.3 * _normal(2, heads, size, width, seed=8 + i) for i, shape in enumerate(shapes) for width in shape]
    past.append(torch.cat((past[0].new_full((2, heads, size, 1), 0.05), _log_gates(2, heads, size, 2)), -1))
    return [x.to(dtype) for x in (q, k, v, gates, *past)]


def _log_gates(*shape: int) -> Tensor:
    return F.logsigmoid(_normal(*shape, seed=20))


def _memory_call(op: Callable[..., Any], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    M, S, (x1, d1, x2, d2), pending = leaves[4:6], leaves[6:8], leaves[8:12], leaves[12]
    state = neural_memory.MemoryState(M=tuple(M), S=tuple(S), X=(x1, x2), D=(d1, d2), gates=pending)
    out, final = op(*leaves[:4], state, offset=3, read="token")
    return out, *final.M, *final.S, *final.X, *final.D, final.gates


def _favor_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    heads, dim, num_features = 2, 4, 7
    q, k, v = (_normal(2, num_tokens, heads, dim, seed=i) for i in range(3))
    # the row of eps included; the last column counts, so it is positive
    sums = torch.cat((_normal(2, heads, num_features + 1, dim, seed=4), torch.ones(2, heads, num_features + 1, 1)), -1)
    peak = _normal(2, heads, num_features + 1, seed=5)
    return [x.to(dtype) for x in (q, 2 * k, v, _normal(num_features, dim, seed=3), sums, peak)]


def _favor_call(op: Callable[..., Any], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    out, final = op(*leaves[:4], FavorState(sums=leaves[4], peak=leaves[5]), eps=1e-2)
    return out, final.sums, final.peak


def _nystrom_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    return [_normal(2, 3, num_tokens, 8, seed=i).to(dtype) for i in range(3)]


def _nystrom_call(op: Callable[..., Any], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    # every third of the queries and keys
    places = torch.arange(0, 2 * leaves[0].shape[2], 3)
    return (op(*leaves, places, ridge=0.1, steps=6),)


def _lsh_leaves(num_tokens: int, dtype: torch.dtype) -> list[Tensor]:
    heads, dim, slots = 3, 8, 4 * 5
    past = [_normal(2, heads, 2, slots, dim, seed=i) for i in (2, 3)]
    return [x.to(dtype) for x in (*(_normal(2, heads, num_tokens, dim, seed=i) for i in (0, 1)), *past)]


def _lsh_call(op: Callable[..., Any], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    # two rounds of four buckets, some of which hold what 30 tokens left, others nothing
    batch_size, heads, num_tokens, _ = leaves[0].shape
    draw = torch.Generator().manual_seed(9)
    before, now = torch.randint(4, (batch_size, heads, 2, 30 + num_tokens), generator=draw).split([30, num_tokens], 3)
    shapes = LSHState.shapes(num_heads=heads, num_rounds=2, num_buckets=4, num_kept=5, dim=8)
    empty = {name: torch.zeros(batch_size, *shape, dtype=torch.float64) for name, shape in shapes.items()}
    empty |= {name: empty[name].long() for name in LSHState.WHOLE}
    x = torch.zeros(batch_size, heads, 30, 8, dtype=torch.float64)
    _, left = lsh_attention.reference(x, x, before.clamp_min(1), LSHState.of(empty))
    past = dataclasses.replace(left, K=leaves[2], V=leaves[3])
    out, final = op(*leaves[:2], now, past)
    return out, final.K, final.V, final.codes.double(), final.counts.double()


OPS: dict[str, Op] = {
    "favor": Op(leaves=_favor_leaves, call=_favor_call),
    "gaussian_attention": Op(leaves=_attention_leaves, call=lambda op, leaves: (op(*leaves, normalisation="none"),)),
    "nystrom_attention": Op(leaves=_nystrom_leaves, call=_nystrom_call),
    "window_attention": Op(leaves=_attention_leaves, call=lambda op, leaves: (op(*leaves, window=9),)),
    "selective_scan": Op(leaves=_selective_scan_leaves, call=lambda op, leaves: op(*leaves)),
    "ssd": Op(leaves=_ssd_leaves, call=lambda op, leaves: op(*leaves)),
    "lsh_attention": Op(leaves=_lsh_leaves, call=_lsh_call),
    "attention": Op(leaves=_attention_leaves, call=lambda op, leaves: (op(*leaves),)),
    "s4d": Op(leaves=_s4d_leaves, call=lambda op, leaves: op(*leaves)),
    "neural_memory": Op(leaves=_memory_leaves, call=_memory_call),
    "ttt_linear": Op(leaves=_ttt_leaves(LinearState), call=_ttt_call(LinearState)),
    "ttt_mlp": Op(leaves=_ttt_leaves(MLPState), call=_ttt_call(MLPState)),
}


def _op_names() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(ttbench.kernels.__path__)]
    modules = {name: importlib.import_module(f"ttbench.kernels.{name}") for name in names}
    return [name for name, module in modules.items() if hasattr(module, "chunked")]


def test_every_op_has_inputs_here():
    assert sorted(_op_names()) == sorted(OPS)


@pytest.mark.parametrize("num_tokens", [*LENGTHS, 16, 48])
@pytest.mark.parametrize("name", _op_names())
def test_reference_equals_chunked_in_value_and_gradient(name, num_tokens):
    module, results = importlib.import_module(f"ttbench.kernels.{name}"), []
    for op in (module.reference, module.chunked):
        leaves = [leaf.requires_grad_() for leaf in OPS[name].leaves(num_tokens, torch.float64)]
        outs = OPS[name].call(op, leaves)
        loss = sum((out * _normal(*out.shape, seed=i)).sum() for i, out in enumerate(outs))
        assert isinstance(loss, Tensor)
        results.append((*outs, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("num_tokens", [17, 100])
@pytest.mark.parametrize("name", _op_names())
def test_chunked_in_float32_is_as_exact_as_the_reference_in_float32(name, num_tokens):
    module = importlib.import_module(f"ttbench.kernels.{name}")
    exact = OPS[name].call(module.reference, OPS[name].leaves(num_tokens, torch.float64))
    ours, theirs = (
        OPS[name].call(op, OPS[name].leaves(num_tokens, torch.float32)) for op in (module.chunked, module.reference)
    )
    for truth, actual, reference in zip(exact, ours, theirs, strict=True):
        error, allowed = ((x.double() - truth).square().mean().sqrt() for x in (actual, reference))
        assert error <= 2 * allowed + 1e-7 * truth.abs().max()


@pytest.mark.parametrize("name", _op_names())
def test_the_fast_form_is_called_as_its_reference_is(name):
    module = importlib.import_module(f"ttbench.kernels.{name}")
    # annotations may differ: only some fast forms take fewer key/value heads than queries
    reference, chunked = (
        [
            (each.name, each.kind, each.default)
            for each in inspect.signature(op).parameters.values()
            # what a fused kernel multiplies in is no part of the mathematics
            if each.name != "operands"
        ]
        for op in (module.reference, module.chunked)
    )
    assert chunked == reference
