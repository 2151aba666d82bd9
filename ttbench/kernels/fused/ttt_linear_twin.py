"""TTT-Linear as two Triton kernels: one token, and any number of tokens. One program for each sequence and head.

One token (`STEP`). W1 is read from global memory in tiles of rows, so that it never stands in registers whole; the
layer norms, the gradient and the sum over the pending tokens of the mini-batch follow in the same kernel. Whether the
token is the last of its mini-batch, whose write changes W1, is decided on the device from `place`: one captured graph
serves every token. The current token's key and gradient are taken from registers, never read back.

Any number (`PREFILL`). W1 stays in registers, transposed, so that the output dimension is the M of every product and
Hopper's warp-group instructions apply at a mini-batch of 16; mini-batches follow one another in a loop. A mini-batch
that an earlier call began enters through the pending keys and gradients, one that is not full leaves the same way.
At a head dim of at most three quarters of a power of two, such as 96, W1 stands in two parts by its input dimension, 64
and 32: padded to 128 it alone would take a third more registers than it has numbers, and on Hopper some would spill.

State, norms and sums are float32. What multiplies in the tensor cores is `operands`: bfloat16, or tf32 for float32;
the write of one token uses three tf32 products, which is float32 for all that matters here.

Letters: B batch, T tokens, H heads, D head dim, C mini-batch. BD and BC are D and C rounded up to a power of two, BI
and BR the input dims of the two parts of W1; BR is 0 where there is but one.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttbench.kernels.dispatch.twin import Build, Twin
from ttbench.kernels.fused.launch import build_at, pick, target_of
from ttbench.kernels.fused.operands import dot_constants, exact_precision, operands_name
from ttbench.kernels.fused.shared.inner_models import (
    draw_ttt,
    inner_case,
    operands_label,
    refuses_ttt,
    refuses_ttt_step,
)
from ttbench.kernels.ttt_linear import EPS, LinearState


@triton.jit
def _normalised(x, inside, D, eps):
    """Rows of x along axis 0, of which D are `inside`, without mean and scale; and 1 / standard deviation."""
    centred = tl.where(inside, x - tl.sum(x, 0) / D, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0) / D + eps)
    return centred * inverse, inverse


@triton.jit
def _step_kernel(
    q_ptr, k_ptr, v_ptr, lam_ptr, tau_ptr, weight_ptr, bias_ptr, place_ptr,
    W1_ptr, b1_ptr, K_ptr, G_ptr, out_ptr,
    H, D: tl.constexpr, C: tl.constexpr, eps: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)  # sequence and head
    head = row % H
    place = tl.load(place_ptr)
    d, c = tl.arange(0, BD), tl.arange(0, BC)
    in_d, pending = d < D, (c < C) & (c < place)
    q = tl.load(q_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + row * D + d, mask=in_d, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + head * D + d, mask=in_d, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + head * D + d, mask=in_d, other=0.0).to(tl.float32)
    lam = tl.load(lam_ptr + row).to(tl.float32)
    tau = tl.load(tau_ptr + place).to(tl.float32)
    b1 = tl.load(b1_ptr + row * D + d, mask=in_d, other=0.0)
    W1 = W1_ptr + row * D * D
    z, z_bar = b1, b1
    for start in tl.static_range(0, BD, TILE):
        i = start + tl.arange(0, TILE)
        tile = tl.load(W1 + i[:, None] * D + d[None, :], mask=(i < D)[:, None] & in_d[None, :], other=0.0)
        k_i = tl.load(k_ptr + row * D + i, mask=i < D, other=0.0).to(tl.float32)
        q_i = tl.load(q_ptr + row * D + i, mask=i < D, other=0.0).to(tl.float32)
        z += tl.sum(tile * k_i[:, None], 0)
        z_bar += tl.sum(tile * q_i[:, None], 0)
    x_hat, inverse = _normalised(z, in_d, D, eps)
    g = weight * (weight * x_hat + bias - (v - k))
    g = tl.where(in_d, lam * inverse * (g - tl.sum(g, 0) / D - x_hat * (tl.sum(g * x_hat, 0) / D)), 0.0)
    pairs = row * C * D + c[:, None] * D + d[None, :]
    mask = pending[:, None] & in_d[None, :]
    K = tl.load(K_ptr + pairs, mask=mask, other=0.0)
    G = tl.load(G_ptr + pairs, mask=mask, other=0.0)
    scores = tl.where(pending, tl.sum(K * q[None, :], 1) + 1.0, 0.0)
    z_bar -= tau * (tl.sum(scores[:, None] * G, 0) + (tl.sum(q * k, 0) + 1.0) * g)
    x_hat, _ = _normalised(z_bar, in_d, D, eps)
    out = q + x_hat * weight + bias
    tl.store(out_ptr + row * D + d, out.to(out_ptr.dtype.element_ty), mask=in_d)
    here = row * C * D + place * D + d
    tl.store(K_ptr + here, k, mask=in_d)
    tl.store(G_ptr + here, g, mask=in_d)
    if place == C - 1:
        now = (c == place)[:, None]
        step = tl.where(now, g[None, :], G) * tau
        tl.store(b1_ptr + row * D + d, b1 - tl.sum(step, 0), mask=in_d)
        for start in tl.static_range(0, BD, TILE):
            i = start + tl.arange(0, TILE)
            inside = (i < D)[:, None] & in_d[None, :]
            at = W1 + i[:, None] * D + d[None, :]
            earlier = pending[None, :] & (i < D)[:, None]
            keys = tl.load(K_ptr + row * C * D + c[None, :] * D + i[:, None], mask=earlier, other=0.0)
            k_i = tl.load(k_ptr + row * D + i, mask=i < D, other=0.0).to(tl.float32)
            keys = tl.where((c == place)[None, :], k_i[:, None], keys)
            change = tl.dot(keys, step, input_precision=PRECISION)
            tl.store(at, tl.load(at, mask=inside, other=0.0) - change, mask=inside)


@triton.jit
def _prefill_kernel(
    q_ptr, k_ptr, v_ptr, lam_ptr, tau_ptr, weight_ptr, bias_ptr,
    W1_ptr, b1_ptr, K_ptr, G_ptr,
    out_ptr, W1_out_ptr, b1_out_ptr, K_out_ptr, G_out_ptr,
    T, H, offset, D: tl.constexpr, C: tl.constexpr, eps: tl.constexpr,
    BD: tl.constexpr, BC: tl.constexpr, BI: tl.constexpr, BR: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    sequence, head = row // H, row % H
    d, c, i = tl.arange(0, BD), tl.arange(0, BC), tl.arange(0, BI)
    in_d, in_c, in_i = (d < D)[:, None], (c < C)[None, :], (i < D)[:, None]
    weight = tl.load(weight_ptr + head * D + d, mask=d < D, other=0.0).to(tl.float32)[:, None]
    bias = tl.load(bias_ptr + head * D + d, mask=d < D, other=0.0).to(tl.float32)[:, None]
    tau = tl.load(tau_ptr + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    tau_last = tl.load(tau_ptr + C - 1).to(tl.float32)
    square = i[:, None] * D + d[None, :]  # of W1, whose transpose [out d, in i] is kept
    in_W = in_i & (d < D)[None, :]
    W = tl.trans(tl.load(W1_ptr + row * D * D + square, mask=in_W, other=0.0))
    b = tl.load(b1_ptr + row * D + d, mask=d < D, other=0.0)[:, None]
    pairs = c[None, :] * D + d[:, None]  # of pending keys and gradients, transposed
    K_ptr += row * C * D
    G_ptr += row * C * D
    K_out_ptr += row * C * D
    G_out_ptr += row * C * D
    token = c[None, :] * (H * D) + d[:, None]  # within a mini-batch; 32 bits hold it, not the whole address
    pairs_i, token_i = c[None, :] * D + i[:, None], c[None, :] * (H * D) + i[:, None]
    if BR > 0:
        r = BI + tl.arange(0, BR)
        in_r, square_r = (r < D)[:, None], r[:, None] * D + d[None, :]
        in_W_rest = in_r & (d < D)[None, :]
        W_rest = tl.trans(tl.load(W1_ptr + row * D * D + square_r, mask=in_W_rest, other=0.0))
        pairs_r, token_r = c[None, :] * D + r[:, None], c[None, :] * (H * D) + r[:, None]
    for n in range(0, (offset + T + C - 1) // C):
        first = sequence * T + n * C - offset  # token at place 0, of an earlier call when it is negative
        start = (first * H + head) * D
        t = n * C - offset + c
        here = (c < C) & (t >= 0) & (t < T)
        inside = here[None, :] & in_d
        old = c < offset - n * C  # of the first mini-batch: read by an earlier call
        k = tl.load(k_ptr + start + token_i, mask=here[None, :] & in_i, other=0.0).to(tl.float32)
        q = tl.load(q_ptr + start + token_i, mask=here[None, :] & in_i, other=0.0).to(tl.float32)
        if n == 0:
            k += tl.load(K_ptr + pairs_i, mask=old[None, :] & in_i, other=0.0)
        W_low, k_low, q_low = W.to(OPERANDS), k.to(OPERANDS), q.to(OPERANDS)
        z = tl.dot(W_low, k_low, input_precision=PRECISION)
        z_bar = tl.dot(W_low, q_low, input_precision=PRECISION)
        scores = tl.dot(tl.trans(k_low), q_low, input_precision=PRECISION)  # [key s, query t]
        if BR > 0:
            k_rest = tl.load(k_ptr + start + token_r, mask=here[None, :] & in_r, other=0.0).to(tl.float32)
            q_rest = tl.load(q_ptr + start + token_r, mask=here[None, :] & in_r, other=0.0).to(tl.float32)
            if n == 0:
                k_rest += tl.load(K_ptr + pairs_r, mask=old[None, :] & in_r, other=0.0)
            W_rest_low, k_rest_low, q_rest_low = W_rest.to(OPERANDS), k_rest.to(OPERANDS), q_rest.to(OPERANDS)
            z = tl.dot(W_rest_low, k_rest_low, z, input_precision=PRECISION)
            z_bar = tl.dot(W_rest_low, q_rest_low, z_bar, input_precision=PRECISION)
            scores = tl.dot(tl.trans(k_rest_low), q_rest_low, scores, input_precision=PRECISION)
        z += b
        z_bar += b
        scores = tl.where((c[:, None] <= c[None, :]) & in_c, (scores + 1.0) * tau, 0.0)
        lam = tl.load(lam_ptr + first * H + head + c * H, mask=here, other=0.0).to(tl.float32)[None, :]
        x_hat, inverse = _columns_normalised(z, in_d, D, eps)
        # k again rather than kept: registers are what this kernel runs out of
        target = tl.load(v_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
        target -= tl.load(k_ptr + start + token, mask=inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
        g = weight * (weight * x_hat + bias - target)
        mean, along = tl.sum(g, 0)[None, :] / D, tl.sum(g * x_hat, 0)[None, :] / D
        g = tl.where(inside, lam * inverse * (g - mean - x_hat * along), 0.0)
        if n == 0:
            g += tl.load(G_ptr + pairs, mask=old[None, :] & in_d, other=0.0)
        z_bar -= tl.dot(g.to(OPERANDS), scores.to(OPERANDS), input_precision=PRECISION)
        x_hat, _ = _columns_normalised(z_bar, in_d, D, eps)
        out = tl.load(q_ptr + start + token, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
        out += x_hat * weight + bias
        tl.store(out_ptr + start + token, out.to(out_ptr.dtype.element_ty), mask=inside)
        # a mini-batch that is not full leaves its pairs and changes no weight
        full = (n + 1) * C <= offset + T
        if not full:
            keys = tl.load(k_ptr + start + token, mask=inside, other=0.0).to(tl.float32)
            if n == 0:
                keys += tl.load(K_ptr + pairs, mask=old[None, :] & in_d, other=0.0)
            tl.store(K_out_ptr + pairs, keys, mask=in_d & in_c)
            tl.store(G_out_ptr + pairs, g, mask=in_d & in_c)
        g = g * tl.where(full, -tau_last, 0.0)
        W = tl.dot(g.to(OPERANDS), tl.trans(k_low), W, input_precision=PRECISION)
        if BR > 0:
            W_rest = tl.dot(g.to(OPERANDS), tl.trans(k_rest_low), W_rest, input_precision=PRECISION)
        b += tl.sum(g, 1)[:, None]
    if (offset + T) % C == 0:
        nothing = tl.zeros((BD, BC), tl.float32)
        tl.store(K_out_ptr + pairs, nothing, mask=in_d & in_c)
        tl.store(G_out_ptr + pairs, nothing, mask=in_d & in_c)
    tl.store(W1_out_ptr + row * D * D + square, tl.trans(W), mask=in_W)
    if BR > 0:
        tl.store(W1_out_ptr + row * D * D + square_r, tl.trans(W_rest), mask=in_W_rest)
    tl.store(b1_out_ptr + row * D + d[:, None], b, mask=in_d)


@triton.jit
def _columns_normalised(x, inside, D, eps):
    """As `_normalised`, of a matrix whose columns are the vectors."""
    centred = tl.where(inside, x - tl.sum(x, 0)[None, :] / D, 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 0)[None, :] / D + eps)
    return centred * inverse, inverse


@torch.library.custom_op("ttbench::ttt_linear_step", mutates_args=("W1", "b1", "K", "G"))
def _step(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, tau: Tensor, weight: Tensor, bias: Tensor, place: Tensor,
    W1: Tensor, b1: Tensor, K: Tensor, G: Tensor,
) -> Tensor:  # fmt: skip
    batch_size, _, num_heads, dim = q.shape
    target = target_of(q.device)
    settings = pick("ttt_linear_step", size=dim, target=target)
    out = torch.empty_like(q)
    _step_kernel[(batch_size * num_heads,)](
        q, k, v, lam, tau, weight, bias, place, W1, b1, K, G, out,
        num_heads, **_sizes(dim, len(tau)), TILE=settings.tile, PRECISION=exact_precision(target),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return out


@_step.register_fake
def _(q, k, v, lam, tau, weight, bias, place, W1, b1, K, G) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("ttbench::ttt_linear", mutates_args=())
def _prefill(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, tau: Tensor, weight: Tensor, bias: Tensor,
    W1: Tensor, b1: Tensor, K: Tensor, G: Tensor, offset: int, operands: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    batch_size, num_tokens, num_heads, dim = q.shape
    settings = pick("ttt_linear", size=dim, target=target_of(q.device))
    out, state = torch.empty_like(q), [torch.empty_like(x) for x in (W1, b1, K, G)]
    _prefill_kernel[(batch_size * num_heads,)](
        q, k, v, lam, tau, weight, bias, W1, b1, K, G, out, *state,
        num_tokens, num_heads, offset, **_sizes(dim, len(tau)), **_parts(dim), **dot_constants(operands),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    W1_out, b1_out, K_out, G_out = state
    return out, W1_out, b1_out, K_out, G_out


@_prefill.register_fake
def _(q, k, v, lam, tau, weight, bias, W1, b1, K, G, offset, operands):
    return torch.empty_like(q), *(torch.empty_like(x) for x in (W1, b1, K, G))


def _sizes(dim: int, mini_batch_size: int) -> dict[str, Any]:
    """Constants of both kernels."""
    return {
        "D": dim,
        "C": mini_batch_size,
        "eps": EPS,
        "BD": max(16, triton.next_power_of_2(dim)),
        "BC": max(16, triton.next_power_of_2(mini_batch_size)),
    }


def _parts(dim: int) -> dict[str, Any]:
    """Input dims of the parts of W1, as constants of the prefill."""
    whole = max(16, triton.next_power_of_2(dim))
    in_two = whole >= 64 and 4 * dim <= 3 * whole
    return {"BI": whole // 2, "BR": whole // 4} if in_two else {"BI": whole, "BR": 0}


def step(q, k, v, lam, tau, norm_weight, norm_bias, state: LinearState, *, place, last, operands=None) -> Tensor:
    """As `ttt_linear.step`; `last` is not read: the device knows."""
    inputs = (x.contiguous() for x in (q, k, v, lam, tau, norm_weight, norm_bias))
    return _step(*inputs, place, state.W1, state.b1, state.K, state.G)


def prefill(
    q, k, v, lam, tau, norm_weight, norm_bias, initial_state: LinearState, *, offset: int, operands=None
) -> tuple[Tensor, LinearState]:
    """As `ttt_linear.chunked`."""
    before = (x.contiguous() for x in (initial_state.W1, initial_state.b1, initial_state.K, initial_state.G))
    inputs = (x.contiguous() for x in (q, k, v, lam, tau, norm_weight, norm_bias))
    out, W1, b1, K, G = _prefill(*inputs, *before, offset, operands_name(operands or q.dtype))
    return out, LinearState(W1=W1, b1=b1, K=K, G=G)


def draw(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, **sizes: int
) -> tuple[tuple[Tensor, ...], LinearState]:
    """As `draw_ttt`."""
    pending = {"K": 1.0, "G": 1 / sizes["D"]}
    return draw_ttt(generator, device, dtype, state=LinearState, pending=pending, rate=1.0, **sizes)


_case = functools.partial(inner_case, draw)


def _builds(kernel: Any, name: str, target: str) -> tuple[Build, ...]:
    found = []
    for dim in (64, 96):
        for operands in ("bf16", "tf32") if kernel is _prefill_kernel else ("tf32",):
            settings = pick(name, size=dim, target=target)
            constants = _sizes(dim, 16)
            if settings.tile:
                constants |= {"TILE": settings.tile, "PRECISION": exact_precision(target, interpret=False)}
            else:
                constants |= _parts(dim) | dot_constants(operands, interpret=False)
            shown, kinds = f"D {dim}, C 16, {operands}", {"place_ptr": "*i64"}
            found.append(build_at(kernel, shown, settings, constants, kinds=kinds))
    return tuple(found)


STEP = Twin(
    name="ttt_linear_step",
    plain="ttbench.kernels.ttt_linear:step",
    run=step,
    refuses=refuses_ttt_step,
    label=operands_label,
    cases=(
        _case(step=True, B=2, T=1, H=3, D=8, C=4, offset=0),
        _case(step=True, B=2, T=1, H=3, D=20, C=7, offset=3),
        _case(step=True, B=2, T=1, H=3, D=20, C=7, offset=6),
        _case(step=True, B=1, T=1, H=2, D=64, C=16, offset=15),
        _case(step=True, B=1, T=1, H=2, D=96, C=16, offset=15),
        _case(step=True, large=True, B=64, T=1, H=24, D=64, C=16, offset=9),
    ),
    builds=lambda target: _builds(_step_kernel, "ttt_linear_step", target),
)
PREFILL = Twin(
    name="ttt_linear",
    plain="ttbench.kernels.ttt_linear:chunked",
    run=prefill,
    refuses=refuses_ttt,
    label=operands_label,
    cases=(
        _case(B=2, T=1, H=3, D=8, C=4, offset=1),
        _case(B=2, T=37, H=3, D=20, C=7, offset=0),
        _case(B=2, T=11, H=3, D=20, C=7, offset=3),
        _case(B=1, T=3, H=2, D=20, C=7, offset=2),
        _case(B=1, T=64, H=2, D=64, C=16, offset=0),
        _case(B=1, T=9, H=2, D=40, C=7, offset=5),
        _case(B=1, T=37, H=2, D=96, C=16, offset=5),
        _case(large=True, B=16, T=2048, H=24, D=64, C=16, offset=0),
        _case(large=True, B=1, T=2050, H=16, D=96, C=16, offset=7),
    ),
    builds=lambda target: _builds(_prefill_kernel, "ttt_linear", target),
)
