"""What stands between projections and an op: rotations, the cache's writes, step sizes, gates. One Triton kernel each.

A program has one head of one token. Everything is computed in float32.
Letters: B batch, T tokens, H heads, G key/value heads, D head dim, P = D / 2 rotated pairs, C mini-batch.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttbench.kernels.dispatch.twin import Build, Case, Twin
from ttbench.kernels.fused.launch import build_at, pick, target_of
from ttbench.kernels.fused.operands import label
from ttbench.kernels.fused.shared.activations import sigmoid, softplus
from ttbench.kernels.fused.shared.arguments import as_rows, no_float64, normal, packed
from ttbench.kernels.inner_inputs import NORM_EPS

MAX_DIM, MAX_MINI_BATCH = 512, 256


@triton.jit
def _halves(x_ptr, out_ptr, x_row, out_row, p, cos, sin, inside, P: tl.constexpr):
    """The pairs (x[p], x[p + P]), turned."""
    first = tl.load(x_ptr + x_row + p, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_ptr + x_row + P + p, mask=inside, other=0.0).to(tl.float32)
    to = out_ptr + out_row + p
    tl.store(to, (first * cos - second * sin).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(to + P, (second * cos + first * sin).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _rotate_and_keep_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, position_ptr, out_ptr, keys_ptr, values_ptr,
    H, G, q_stride, k_stride, v_stride, keys_batch, keys_head, keys_place, values_batch, values_head, values_place,
    P: tl.constexpr, ROTATE: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    batch, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    place = tl.load(position_ptr)
    p = tl.arange(0, BP)
    inside = p < P
    cos, sin = tl.full((BP,), 1.0, tl.float32), tl.zeros((BP,), tl.float32)
    if ROTATE:
        cos = tl.load(cos_ptr + p, mask=inside, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + p, mask=inside, other=0.0).to(tl.float32)
    if part < H:
        _halves(q_ptr, out_ptr, batch * q_stride + part * 2 * P, (batch * H + part) * 2 * P, p, cos, sin, inside, P)
    elif part < H + G:
        to = batch * keys_batch + (part - H) * keys_head + place * keys_place
        _halves(k_ptr, keys_ptr, batch * k_stride + (part - H) * 2 * P, to, p, cos, sin, inside, P)
    else:
        part -= H + G
        to = batch * values_batch + part * values_head + place * values_place
        _halves(v_ptr, values_ptr, batch * v_stride + part * 2 * P, to, p, cos * 0 + 1, sin * 0, inside, P)


@triton.jit
def _turn(x_ptr, out_ptr, x_row, out_row, p, cos, sin, inside):
    """Neighbours (x[2p], x[2p + 1]) as a complex number, turned."""
    real = tl.load(x_ptr + x_row + 2 * p, mask=inside, other=0.0).to(tl.float32)
    imaginary = tl.load(x_ptr + x_row + 2 * p + 1, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + out_row + 2 * p, real * cos - imaginary * sin, mask=inside)
    tl.store(out_ptr + out_row + 2 * p + 1, real * sin + imaginary * cos, mask=inside)


@triton.jit
def _ttt_inputs_kernel(
    q_ptr, k_ptr, v_ptr, rate_ptr, turns_ptr, learnable_ptr, weight_ptr, bias_ptr,
    q_out_ptr, k_out_ptr, v_out_ptr, lam_ptr, tau_ptr, weight_out_ptr, bias_out_ptr,
    T, H, q_stride, k_stride, v_stride, rate_stride, scale,
    P: tl.constexpr, C: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    p = tl.arange(0, BP)
    inside = p < P
    turn = (row % T * P + p) * 2
    cos = tl.load(turns_ptr + turn, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(turns_ptr + turn + 1, mask=inside, other=0.0).to(tl.float32)
    here, start = (row * H + head) * 2 * P, head * 2 * P
    _turn(q_ptr, q_out_ptr, row * q_stride + start, here, p, cos, sin, inside)
    _turn(k_ptr, k_out_ptr, row * k_stride + start, here, p, cos, sin, inside)
    _turn(v_ptr, v_out_ptr, row * v_stride + start, here, p, cos * 0 + 1, sin * 0, inside)
    rate = tl.load(rate_ptr + row * rate_stride + head).to(tl.float32)
    tl.store(lam_ptr + row * H + head, sigmoid(rate) * scale)
    if row == 0:
        # what does not depend on the token is written once
        _turn(weight_ptr, weight_out_ptr, start, start, p, cos * 0 + 1, sin * 0, inside)
        _turn(bias_ptr, bias_out_ptr, start, start, p, cos * 0 + 1, sin * 0, inside)
        if head == 0:
            c = tl.arange(0, BC)
            learnable = tl.load(learnable_ptr + c, mask=c < C, other=0.0).to(tl.float32)
            tl.store(tau_ptr + c, tl.maximum(1.0 / (c + 1.0) + learnable, 0.0), mask=c < C)


@triton.jit
def _unit(x_ptr, out_ptr, x_row, out_row, d, inside, eps, UNIT: tl.constexpr):
    x = tl.load(x_ptr + x_row + d, mask=inside, other=0.0).to(tl.float32)
    if UNIT:
        x = x / tl.maximum(tl.sqrt(tl.sum(x * x, 0)), eps)
    tl.store(out_ptr + out_row + d, x, mask=inside)


@triton.jit
def _memory_inputs_kernel(
    q_ptr, k_ptr, v_ptr, gates_ptr, q_out_ptr, k_out_ptr, v_out_ptr, gates_out_ptr,
    H, q_stride, k_stride, v_stride, gates_stride, scale, eps,
    D: tl.constexpr, UNIT_Q: tl.constexpr, UNIT_K: tl.constexpr, UNIT_V: tl.constexpr, DAMPED: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    d = tl.arange(0, BD)
    inside = d < D
    here = (row * H + head) * D
    _unit(q_ptr, q_out_ptr, row * q_stride + head * D, here, d, inside, eps, UNIT_Q)
    _unit(k_ptr, k_out_ptr, row * k_stride + head * D, here, d, inside, eps, UNIT_K)
    _unit(v_ptr, v_out_ptr, row * v_stride + head * D, here, d, inside, eps, UNIT_V)
    raw, to = gates_ptr + row * gates_stride + head * 3, gates_out_ptr + (row * H + head) * 3
    eta = tl.load(raw + 1).to(tl.float32)
    theta = scale * sigmoid(tl.load(raw).to(tl.float32))
    if DAMPED:
        theta *= sigmoid(-eta)
    tl.store(to, theta)
    # log sigmoid(x) = -softplus(-x)
    tl.store(to + 1, -softplus(-eta))
    tl.store(to + 2, -softplus(-tl.load(raw + 2).to(tl.float32)))


@torch.library.custom_op("ttbench::rotate_and_keep_step", mutates_args=("keys", "values"))
def _rotate_and_keep(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, position: Tensor,
    rotate: bool,
) -> Tensor:  # fmt: skip
    batch_size, num_kv_heads, _, dim = keys.shape
    out = _heads(q, dim)
    rows = [as_rows(x) for x in (q, k, v)]
    settings = pick("inputs", size=dim, target=target_of(q.device))
    _rotate_and_keep_kernel[(batch_size, out.shape[1] + 2 * num_kv_heads)](
        *rows, cos, sin, position, out, keys, values, out.shape[1], num_kv_heads, *(x.stride(0) for x in rows),
        *keys.stride()[:3], *values.stride()[:3],
        P=dim // 2, ROTATE=rotate, BP=triton.next_power_of_2(dim // 2), num_warps=settings.num_warps,
    )  # fmt: skip
    return out


def _heads(q: Tensor, dim: int) -> Tensor:
    return torch.empty((q.shape[0], q.shape[2] // dim, 1, dim), dtype=q.dtype, device=q.device)


@_rotate_and_keep.register_fake
def _(q, k, v, cos, sin, keys, values, position, rotate):
    return _heads(q, keys.shape[-1])


@torch.library.custom_op("ttbench::ttt_inputs", mutates_args=())
def _ttt_inputs(
    q: Tensor, k: Tensor, v: Tensor, rate: Tensor, turns: Tensor, learnable_tau: Tensor, weight: Tensor, bias: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    outs = _ttt_outs(q, rate, learnable_tau, weight, bias)
    rows = [as_rows(x) for x in (q, k, v, rate)]
    num_heads, dim = weight.shape
    settings = pick("inputs", size=dim, target=target_of(q.device))
    _ttt_inputs_kernel[(len(rows[0]), num_heads)](
        *rows, turns, learnable_tau, weight, bias, *outs, q.shape[1], num_heads, *(x.stride(0) for x in rows), scale,
        P=dim // 2, C=len(learnable_tau), BP=triton.next_power_of_2(dim // 2),
        BC=triton.next_power_of_2(len(learnable_tau)), num_warps=settings.num_warps,
    )  # fmt: skip
    return outs


def _ttt_outs(q: Tensor, rate: Tensor, tau: Tensor, weight: Tensor, bias: Tensor) -> tuple[Any, ...]:
    heads = (*q.shape[:2], *weight.shape)
    shapes = (heads, heads, heads, rate.shape, tau.shape, weight.shape, bias.shape)
    return tuple(torch.empty(shape, dtype=torch.float32, device=q.device) for shape in shapes)


@_ttt_inputs.register_fake
def _(q, k, v, rate, turns, learnable_tau, weight, bias, scale):
    return _ttt_outs(q, rate, learnable_tau, weight, bias)


@torch.library.custom_op("ttbench::memory_inputs", mutates_args=())
def _memory_inputs(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, num_heads: int, unit_norm: str, step_scale: float, damped: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outs = _memory_outs(q, num_heads)
    rows = [as_rows(x) for x in (q, k, v, gates)]
    dim = q.shape[-1] // num_heads
    settings = pick("inputs", size=dim, target=target_of(q.device))
    _memory_inputs_kernel[(len(rows[0]), num_heads)](
        *rows, *outs, num_heads, *(x.stride(0) for x in rows), step_scale, NORM_EPS,
        D=dim, UNIT_Q="q" in unit_norm, UNIT_K="k" in unit_norm, UNIT_V="v" in unit_norm, DAMPED=damped,
        BD=triton.next_power_of_2(dim), num_warps=settings.num_warps,
    )  # fmt: skip
    return outs


def _memory_outs(q: Tensor, num_heads: int) -> tuple[Any, ...]:
    heads = (*q.shape[:2], num_heads)
    dims = (q.shape[-1] // num_heads,) * 3 + (3,)
    return tuple(torch.empty((*heads, dim), dtype=torch.float32, device=q.device) for dim in dims)


@_memory_inputs.register_fake
def _(q, k, v, gates, num_heads, unit_norm, step_scale, damped):
    return _memory_outs(q, num_heads)


def rotate_and_keep_step(q, k, v, turns, keys, values, *, position) -> Tensor:
    """As `rotary.rotate_and_keep_step`."""
    cos, sin = (q, q) if turns is None else (packed(turn, 2) for turn in turns)
    return _rotate_and_keep(q, k, v, cos, sin, keys, values, position, turns is not None)


def ttt_inputs(q, k, v, rate, turns, learnable_tau, norm_weight, norm_bias, *, rate_scale) -> tuple[Tensor, ...]:
    """As `inner_inputs.ttt_inputs`."""
    return _ttt_inputs(q, k, v, rate, packed(turns, 4), learnable_tau, norm_weight, norm_bias, rate_scale)


def memory_inputs(q, k, v, gates, *, num_heads, unit_norm, step_scale, damped_step) -> tuple[Tensor, ...]:
    """As `inner_inputs.memory_inputs`."""
    return _memory_inputs(q, k, v, gates, num_heads, unit_norm, step_scale, damped_step)


def _too_wide(dim: int) -> str | None:
    return f"head dim {dim} is over {MAX_DIM}" if dim > MAX_DIM else None


def _refuses_keep(q, k, v, turns, keys, values, **rest) -> str | None:
    dim = keys.shape[-1]
    if dim % 2 or keys.stride(3) != 1 or values.stride(3) != 1:
        return f"head dim {dim} is odd" if dim % 2 else "keys or values that do not lie side by side"
    return no_float64(q) or _too_wide(dim)


def _refuses_ttt(q, k, v, rate, turns, learnable_tau, norm_weight, *rest, **options) -> str | None:
    if len(learnable_tau) > MAX_MINI_BATCH:
        return f"mini-batch {len(learnable_tau)} is over {MAX_MINI_BATCH}"
    return no_float64(q) or _too_wide(norm_weight.shape[1])


def _keep_case(*, B: int, H: int, G: int, D: int, S: int, position: int, rotated: bool = True, large: bool = False):
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        q, mixed = normal(generator, device, dtype, (B, 1, H * D), (B, 1, 2 * G * D))
        angles = torch.rand((1, D // 2), generator=generator, dtype=torch.float64)
        turns = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
        # of one layer among several, and full of what must stay
        keys, values = (x[:, 1] for x in normal(generator, device, dtype, (B, 3, G, S, D), (B, 3, G, S, D)))
        args = (q, mixed[..., : G * D], mixed[..., G * D :], turns if rotated else None, keys, values)
        return args, {"position": torch.tensor([position], device=device)}

    shown = f"B {B}, H {H}, G {G}, D {D}, S {S}, position {position}{'' if rotated else ', not rotated'}"
    return Case(label=shown, make=make, large=large)


def _ttt_case(*, B: int, T: int, H: int, D: int, C: int, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        q, v, rate, tau, weight, bias = normal(
            generator, device, dtype, (B, T, 2 * H * D), (B, T, H * D), (B, T, H), (C,), (H, D), (H, D)
        )
        angles = torch.rand((T, 1, D // 2), generator=generator, dtype=torch.float64)
        turns = torch.stack((angles.cos(), angles.sin()), -1).to(device, torch.float32)
        return (q[..., : H * D], q[..., H * D :], v, rate, turns, 0.1 * tau, weight, bias), {"rate_scale": 1 / D}

    return Case(label=f"B {B}, T {T}, H {H}, D {D}, C {C}", make=make, large=large)


def _memory_case(*, B: int, T: int, H: int, D: int, unit: str, damped: bool, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        q, k, v, gates = normal(generator, device, dtype, *[(B, T, H * D)] * 3, (B, T, 3 * H))
        gates[..., 2::3] += 8.0  # as the bias that keeps nearly everything
        return (q, k, v, gates), {"num_heads": H, "unit_norm": unit, "step_scale": 0.25 / 16, "damped_step": damped}

    return Case(label=f"B {B}, T {T}, H {H}, D {D}, unit {unit}{', damped' if damped else ''}", make=make, large=large)


def _build(kernel: Any, target: str, shown: str, constants: dict[str, Any]) -> tuple[Build, ...]:
    if target != "sm_90":
        return ()
    settings = pick("inputs", size=64, target=target)
    floats = dict.fromkeys(("scale", "eps"), "fp32")
    kinds = {"position_ptr": "*i64"} | {name: "*fp32" for name in kernel.arg_names if "_out_" in name} | floats
    return (build_at(kernel, f"{shown}, bf16", settings, constants, pointer="*bf16", kinds=kinds),)


KEEP = Twin(
    name="rotate_and_keep_step",
    plain="ttbench.kernels.rotary:rotate_and_keep_step",
    run=rotate_and_keep_step,
    refuses=_refuses_keep,
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _keep_case(B=2, H=4, G=2, D=20, S=9, position=0),
        _keep_case(B=2, H=3, G=3, D=8, S=5, position=4),
        _keep_case(B=1, H=4, G=1, D=64, S=7, position=3, rotated=False),
        _keep_case(B=64, H=24, G=8, D=128, S=8192, position=8000, large=True),
    ),
    builds=lambda target: _build(_rotate_and_keep_kernel, target, "D 128", {"P": 64, "ROTATE": True, "BP": 64}),
)
TTT = Twin(
    name="ttt_inputs",
    plain="ttbench.kernels.inner_inputs:ttt_inputs",
    run=ttt_inputs,
    refuses=_refuses_ttt,
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _ttt_case(B=2, T=1, H=3, D=20, C=7),
        _ttt_case(B=2, T=5, H=2, D=8, C=16),
        _ttt_case(B=64, T=1, H=32, D=64, C=16, large=True),
        _ttt_case(B=4, T=2048, H=24, D=64, C=16, large=True),
    ),
    builds=lambda target: _build(_ttt_inputs_kernel, target, "D 64", {"P": 32, "C": 16, "BP": 32, "BC": 16}),
)
MEMORY = Twin(
    name="memory_inputs",
    plain="ttbench.kernels.inner_inputs:memory_inputs",
    run=memory_inputs,
    refuses=lambda q, k, v, gates, *, num_heads, **rest: no_float64(q) or _too_wide(q.shape[-1] // num_heads),
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _memory_case(B=2, T=1, H=3, D=20, unit="qkv", damped=True),
        _memory_case(B=1, T=3, H=2, D=8, unit="qk", damped=False),
        _memory_case(B=64, T=1, H=16, D=64, unit="qkv", damped=True, large=True),
    ),
    builds=lambda target: _build(
        _memory_inputs_kernel, target, "D 64",
        {"D": 64, "UNIT_Q": True, "UNIT_K": True, "UNIT_V": True, "DAMPED": True, "BD": 64},
    ),
)  # fmt: skip
