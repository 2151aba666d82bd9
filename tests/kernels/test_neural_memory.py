"""Neural memory: the closed forms against the recurrence, and what they become at their limits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import make_fla_titans
from torch import Tensor

from ttbench.kernels import gating
from ttbench.kernels import neural_memory as nm
from ttbench.kernels.neural_memory import MemoryState, layer_shapes

B, H, D = 2, 3, 4
FLA = json.loads(Path(make_fla_titans.__file__).with_name("fla_titans.json").read_text(encoding="utf-8"))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_gates(num_tokens: int, *, seed: int = 3, theta: float = 0.1) -> Tensor:
    raw = normal(B, num_tokens, H, 3, seed=seed)
    logs = torch.nn.functional.logsigmoid(raw[..., 1:] + 1)
    return torch.cat((theta * raw[..., :1].sigmoid(), logs), -1)


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(num_tokens: int) -> Inputs:
    q, k, v = (torch.nn.functional.normalize(normal(B, num_tokens, H, D, seed=i), dim=-1) for i in range(3))
    return q, k, v, make_gates(num_tokens)


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    q, k, v, gates = inputs
    return change(q), change(k), change(v), change(gates)


def make_state(num_layers: int = 2, chunk_size: int = 8, *, scale: float = 0.5) -> MemoryState:
    shapes = layer_shapes(D, num_layers=num_layers, expansion=2)
    weights = [scale * normal(H, *shape, seed=10 + i) for i, shape in enumerate(shapes)]
    return MemoryState.initial(weights, batch_size=B, chunk_size=chunk_size)


def tensors(state: MemoryState) -> list[Tensor]:
    return [*state.M, *state.S, *state.X, *state.D, state.gates]


def own(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.clone() for part in parts)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("read", nm.READS)
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk_size", [1, 5, 8])
def test_closed_forms_equal_the_recurrence_for_every_depth_and_chunk(num_layers, chunk_size, read):
    inputs, state = make_inputs(21), make_state(num_layers, chunk_size)
    expected, last = nm.reference(*inputs, state, offset=0, read=read)
    out, final = nm.chunked(*inputs, state, offset=0, read=read)
    close(out, expected)
    for ours, theirs in zip(tensors(final), tensors(last), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("op", [nm.reference, nm.chunked])
@pytest.mark.parametrize("case", FLA["cases"], ids=lambda case: f"chunk-{case['chunk_size']}")
def test_a_linear_memory_equals_that_of_flash_linear_attention(case: dict[str, Any], op):
    q, k, v, theta, eta, alpha, M = (
        torch.from_numpy(make_fla_titans.array(name).copy()) for name in ("q", "k", "v", "theta", "eta", "alpha", "M")
    )
    gates = torch.cat((theta, eta.log(), torch.log1p(-alpha)), -1)
    start = MemoryState.initial([M[0]], batch_size=len(M), chunk_size=case["chunk_size"])
    out, last = op(*(x.transpose(1, 2) for x in (q, k, v, gates)), start, offset=0, read="token")
    close(
        out[:, list(make_fla_titans.POSITIONS)].transpose(1, 2).reshape(-1, D),
        torch.tensor(case["out"], dtype=torch.float64),
    )
    close(last.M[0].reshape(-1, D), torch.tensor(case["M"], dtype=torch.float64))


@pytest.mark.parametrize("read", nm.READS)
@pytest.mark.parametrize("splits", [(1, 99), (15, 17, 63, 5), (8, 92), (3, 1, 1, 95)], ids=str)
def test_any_split_gives_the_same_result(splits, read):
    inputs, state = make_inputs(100), make_state()
    whole, final = nm.chunked(*inputs, state, offset=0, read=read)
    outs, at = [], 0
    for size in splits:
        out, state = nm.chunked(*each(inputs, itemgetter(np.s_[:, at : at + size])), state, offset=at % 8, read=read)
        outs.append(out)
        at += size
    close(torch.cat(outs, 1), whole)
    for ours, theirs in zip(tensors(state), tensors(final), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("read", nm.READS)
def test_steps_equal_the_recurrence(read):
    inputs, start = make_inputs(21), make_state(3)
    expected, _ = nm.reference(*inputs, start, offset=0, read=read)
    state = MemoryState(M=own(start.M), S=own(start.S), X=own(start.X), D=own(start.D), gates=start.gates.clone())
    outs = [
        nm.step(
            *each(inputs, itemgetter(np.s_[:, t : t + 1])),
            state,
            place=torch.tensor([t % 8]),
            last=t % 8 == 7,
            read=read,
        )
        for t in range(21)
    ]
    close(torch.cat(outs, 1), expected)


def test_a_step_that_reads_the_chunks_start_multiplies_gates_at_the_chunks_end_alone(monkeypatch):
    made: list[int] = []

    def counted(gates: Tensor) -> gating.Mixes:
        made.append(gates.shape[2])
        return gating.mix(gates)

    monkeypatch.setattr(nm, "mix", counted)
    one, state = make_inputs(1), make_state(2)
    state = MemoryState(
        **{name: own(getattr(state, name)) for name in ("M", "S", "X", "D")},
        gates=make_gates(8).transpose(1, 2).clone(),
    )
    for place in (6, 7):
        nm.step(*one, state, place=torch.tensor([place]), last=place == 7, read="chunk")
        assert made == [8] * (place - 6)


def test_gradients_of_the_closed_forms_equal_those_of_the_recurrence():
    leaves = each(make_inputs(13), Tensor.requires_grad_)
    weights = [x.clone().requires_grad_() for x in (normal(H, D, 8, seed=20), normal(H, 8, D, seed=21))]
    found = []
    for op in (nm.reference, nm.chunked):
        state = MemoryState.initial([0.5 * w for w in weights], batch_size=B, chunk_size=5)
        out, final = op(*leaves, state, offset=0, read="token")
        loss = (out * normal(*out.shape, seed=30)).sum() + sum(m.square().sum() for m in (*final.M, *final.S))
        found.append(torch.autograd.grad(loss, [*leaves, *weights]))
    for reference, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-8, atol=1e-9)


def test_hand_made_errors_are_the_gradient_of_the_loss():
    weights = [0.5 * normal(B, H, *shape, seed=i) for i, shape in enumerate(layer_shapes(D, num_layers=4, expansion=2))]
    weights = [w.requires_grad_() for w in weights]
    k, v = normal(B, H, 6, D, seed=8), normal(B, H, 6, D, seed=9)
    grads = torch.autograd.grad((nm.apply(weights, k) - v).square().sum(), weights)
    for grad, x, d in zip(grads, *nm.errors(weights, k, v), strict=True):
        close(x.mT @ d, grad)


def logs(num_tokens: int, *, theta: Tensor | float, eta: float, keep: Tensor | float) -> Tensor:
    """Gates of given values, [B, T, H, 3]; 0 and 1 are exact."""
    parts = [torch.as_tensor(x, dtype=torch.float64).expand(B, num_tokens, H) for x in (theta, eta, keep)]
    return torch.stack((parts[0], parts[1].log(), parts[2].log()), -1)


@pytest.mark.parametrize("gated", [False, True], ids=["delta", "gated-delta"])
def test_without_momentum_and_depth_it_is_the_delta_rule_with_twice_the_step(gated):
    q, k, v, _ = make_inputs(20)
    beta, keep = normal(B, 20, H, seed=4).sigmoid(), normal(B, 20, H, seed=5).sigmoid() if gated else torch.ones(1)
    state = make_state(num_layers=1, chunk_size=1)
    out, _ = nm.chunked(q, k, v, logs(20, theta=beta / 2, eta=0.0, keep=keep), state, offset=0, read="token")

    W = state.M[0].clone()
    keep = keep.expand(B, 20, H)
    for t in range(20):
        k_t, v_t = k[:, t, :, :, None], v[:, t, :, None]  # [B, H, D, 1], [B, H, 1, D]
        W = keep[:, t, :, None, None] * W + beta[:, t, :, None, None] * k_t @ (v_t - k_t.mT @ W)
        close(out[:, t], (q[:, t, :, None] @ W).squeeze(2))


@pytest.mark.parametrize("read", nm.READS)
def test_without_steps_and_forgetting_it_stays_the_initial_memory(read):
    q, k, v, _ = make_inputs(20)
    state = make_state(num_layers=3)
    out, final = nm.chunked(q, k, v, logs(20, theta=0.0, eta=0.5, keep=1.0), state, offset=0, read=read)
    close(out, nm.apply(state.M, q.transpose(1, 2)).transpose(1, 2))
    for ours, start in zip(final.M, state.M, strict=True):
        close(ours, start)


def test_a_token_that_forgets_everything_leaves_nothing_of_the_initial_memory():
    q, k, v, gates = make_inputs(40)
    gates[:, 17, :, 1:] = -math.inf  # eta = keep = 0 inside the third chunk of eight
    gates[:, 17:24, :, 0] = 0  # whose later errors are still taken at its start, so they are not written
    outs = [
        nm.chunked(q, k, v, gates, make_state(num_layers=1, scale=scale), offset=0, read="token")[0]
        for scale in (0.5, 3.0)
    ]
    assert not torch.allclose(outs[0][:, :17], outs[1][:, :17])
    assert torch.equal(outs[0][:, 17:], outs[1][:, 17:])
    assert outs[0][:, 24:].abs().max() > 1e-3


@pytest.mark.parametrize("gate", [1, 2], ids=["eta", "keep"])
def test_gates_of_exactly_zero_and_one_have_finite_gradients_and_are_exact(gate):
    inputs = make_inputs(16)
    gates = inputs[3].clone()
    gates[:, 3, :, gate], gates[:, 5, :, gate] = -math.inf, 0.0
    gates.requires_grad_()
    out, final = nm.chunked(*inputs[:3], gates, make_state(), offset=0, read="token")
    expected, _ = nm.reference(*inputs[:3], gates, make_state(), offset=0, read="token")
    close(out, expected)
    grad = torch.autograd.grad(out.sum() + final.M[0].sum(), gates)[0]
    assert torch.isfinite(grad[..., 0]).all()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("read", nm.READS)
def test_later_tokens_change_no_earlier_output(read):
    inputs, state = make_inputs(30), make_state()
    before, _ = nm.chunked(*inputs, state, offset=0, read=read)
    changed = each(inputs, lambda x: torch.cat((x[:, :20], 0.5 * x[:, 20:]), 1))
    after, _ = nm.chunked(*changed, state, offset=0, read=read)
    assert torch.equal(after[:, :20], before[:, :20])
    assert not torch.allclose(after[:, 20:], before[:, 20:])


def test_sixty_four_thousand_tokens_stay_finite_in_single_precision():
    num_tokens = 65_536
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, num_tokens, 1, D, generator=draw) for _ in range(3))
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    raw = torch.randn(1, num_tokens, 1, 3, generator=draw)
    gates = torch.cat((raw[..., :1].sigmoid() / D / 4, torch.nn.functional.logsigmoid(raw[..., 1:] + 2)), -1)
    weights = [torch.randn(1, *shape, generator=draw) * 0.3 for shape in layer_shapes(D, num_layers=2, expansion=2)]
    state = MemoryState.initial(weights, batch_size=1, chunk_size=64)
    out, final = nm.chunked(q, k, v, gates, state, offset=0, read="token")
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(x).all() for x in tensors(final))
    assert out.abs().max() < 100


def test_products_of_gates_are_those_worked_out_by_hand():
    expected = torch.tensor([[1.0, 0, 0], [3, 1, 0], [15, 5, 1]])
    torch.testing.assert_close(gating.products(torch.tensor([2.0, 3, 5]).log()), expected)


def test_products_of_gates_underflow_to_zero_and_never_divide():
    logs_of_gates = torch.full((64,), -50.0)
    logs_of_gates[10] = -math.inf
    made = gating.products(logs_of_gates)
    assert torch.isfinite(made).all()
    assert torch.equal(made.diagonal(), torch.ones(64))
    assert made[20, 5] == 0
    assert made.triu(1).abs().sum() == 0


def test_work_of_a_token_is_that_counted_by_hand():
    # Two layers of 6 weights, chunks of 4. Forward 2 * 12, errors of the second layer 2 * 6, M and S 2 * 2 * 12: 84.
    # 20 triples j >= l >= i of a triangle times a triangle, 2 * 20 for 4 tokens: 10. A product with M(x): 2 * 12.
    assert nm.flops([(2, 3), (3, 2)], 4, read="chunk") == 84 + 10 + 24
    # Each token's own M: two products, and in each layer 2 * (2 + 3) with the 2.5 tokens of the chunk up to its own.
    assert nm.flops([(2, 3), (3, 2)], 4, read="token") == 84 + 10 + 48 + 50
