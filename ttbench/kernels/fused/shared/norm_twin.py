"""Norms with their residual or their gate, and SwiGLU's product: one Triton kernel each.

A program has one row, or one group of a row; sums are float32. A row is read once and kept in registers.
Letters: R rows, D width of a row or group.
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
from ttbench.kernels.fused.shared.activations import gelu, silu
from ttbench.kernels.fused.shared.arguments import as_rows, no_float64, normal

MAX_DIM = 16384


@triton.jit
def _residual_norm_kernel(
    x_ptr, delta_ptr, weight_ptr, stream_ptr, out_ptr, x_stride, delta_stride, eps,
    D: tl.constexpr, ADD: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    inside = d < D
    x = tl.load(x_ptr + row * x_stride + d, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(delta_ptr + row * delta_stride + d, mask=inside, other=0.0).to(tl.float32)
        tl.store(stream_ptr + row * D + d, x.to(stream_ptr.dtype.element_ty), mask=inside)
    weight = tl.load(weight_ptr + d, mask=inside, other=0.0).to(tl.float32)
    x = x * tl.rsqrt(tl.sum(x * x, 0) / D + eps) * weight
    tl.store(out_ptr + row * D + d, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated_norm_kernel(
    y_ptr, gate_ptr, weight_ptr, bias_ptr, out_ptr, y_stride, gate_stride, num_weights, eps,
    D: tl.constexpr, LAYER: tl.constexpr, GELU: tl.constexpr, GATE_FIRST: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BD)
    inside, channel = d < D, group * D + d
    y = tl.load(y_ptr + row * y_stride + channel, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_stride + channel, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel % num_weights, mask=inside, other=0.0).to(tl.float32)
    opened = gelu(gate) if GELU else silu(gate)
    if GATE_FIRST:
        y *= opened
    if LAYER:
        y = tl.where(inside, y - tl.sum(y, 0) / D, 0.0)
    y = y * tl.rsqrt(tl.sum(y * y, 0) / D + eps) * weight
    if LAYER:
        y += tl.load(bias_ptr + channel % num_weights, mask=inside, other=0.0).to(tl.float32)
    if not GATE_FIRST:
        y *= opened
    here = row * (tl.num_programs(1) * D) + channel
    tl.store(out_ptr + here, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _memory_gate_kernel(
    m_ptr, y_ptr, head_weight_ptr, weight_ptr, out_ptr, m_stride, y_stride, head_eps, eps,
    H: tl.constexpr, D: tl.constexpr, NORMED: tl.constexpr, BH: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    h, d = tl.arange(0, BH)[:, None], tl.arange(0, BD)[None, :]
    inside, channel = (h < H) & (d < D), h * D + d
    m = tl.load(m_ptr + row * m_stride + channel, mask=inside, other=0.0).to(tl.float32)  # [BH, BD]
    y = tl.load(y_ptr + row * y_stride + channel, mask=inside, other=0.0).to(tl.float32)
    m *= tl.rsqrt(tl.sum(m * m, 1) / D + head_eps)[:, None]
    m *= tl.load(head_weight_ptr + d, mask=d < D, other=0.0).to(tl.float32)
    if NORMED:
        y *= tl.rsqrt(tl.sum(tl.sum(y * y, 1), 0) / (H * D) + eps)
        y *= tl.load(weight_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    here = row * (H * D) + channel
    tl.store(out_ptr + here, (y * silu(m)).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_kernel(gate_ptr, up_ptr, out_ptr, size, BD: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BD + tl.arange(0, BD)
    inside = i < size
    gate = tl.load(gate_ptr + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + i, (silu(gate) * up).to(out_ptr.dtype.element_ty), mask=inside)


@torch.library.custom_op("ttbench::norm", mutates_args=())
def _norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    out = torch.empty(x.shape, dtype=torch.promote_types(weight.dtype, dtype), device=x.device)
    rows = as_rows(x)
    _launch_norm(rows, rows, weight, out, out, eps, add=False)
    return out


@_norm.register_fake
def _(x, weight, eps, dtype):
    return torch.empty(x.shape, dtype=torch.promote_types(weight.dtype, dtype), device=x.device)


@torch.library.custom_op("ttbench::residual_norm", mutates_args=())
def _residual_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    stream = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, delta.dtype), device=x.device)
    out = torch.empty(x.shape, dtype=torch.promote_types(weight.dtype, dtype), device=x.device)
    _launch_norm(as_rows(x), as_rows(delta), weight, stream, out, eps, add=True)
    return stream, out


@_residual_norm.register_fake
def _(x, delta, weight, eps, dtype):
    stream = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, delta.dtype), device=x.device)
    return stream, torch.empty(x.shape, dtype=torch.promote_types(weight.dtype, dtype), device=x.device)


def _launch_norm(
    x: Tensor, delta: Tensor, weight: Tensor, stream: Tensor, out: Tensor, eps: float, *, add: bool
) -> None:
    num_rows, dim = x.shape
    settings = pick("norm", size=dim, target=target_of(x.device))
    _residual_norm_kernel[(num_rows,)](
        x, delta, weight, stream, out, x.stride(0), delta.stride(0), eps,
        D=dim, ADD=add, BD=triton.next_power_of_2(dim), num_warps=settings.num_warps,
    )  # fmt: skip


@torch.library.custom_op("ttbench::gated_norm", mutates_args=())
def _gated_norm(
    y: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, eps: float, num_groups: int,
    layer: bool, gelu: bool, gate_first: bool,
) -> Tensor:  # fmt: skip
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    rows, gates = as_rows(y), as_rows(gate)
    dim = rows.shape[1] // num_groups
    settings = pick("norm", size=dim, target=target_of(y.device))
    _gated_norm_kernel[(len(rows), num_groups)](
        rows, gates, weight, bias, out, rows.stride(0), gates.stride(0), len(weight), eps,
        D=dim, LAYER=layer, GELU=gelu, GATE_FIRST=gate_first, BD=triton.next_power_of_2(dim),
        num_warps=settings.num_warps,
    )  # fmt: skip
    return out


@_gated_norm.register_fake
def _(y, gate, weight, bias, eps, num_groups, layer, gelu, gate_first):
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)


@torch.library.custom_op("ttbench::memory_gate", mutates_args=())
def _memory_gate(
    m: Tensor, y: Tensor, head_weight: Tensor, weight: Tensor, head_eps: float, eps: float, normed: bool
) -> Tensor:
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    num_heads, dim = m.shape[-2:]
    answers, rows = as_rows(m.flatten(-2)), as_rows(y)
    settings = pick("norm", size=num_heads * dim, target=target_of(y.device))
    _memory_gate_kernel[(len(rows),)](
        answers, rows, head_weight, weight, out, answers.stride(0), rows.stride(0), head_eps, eps,
        H=num_heads, D=dim, NORMED=normed, BH=triton.next_power_of_2(num_heads), BD=triton.next_power_of_2(dim),
        num_warps=settings.num_warps,
    )  # fmt: skip
    return out


@_memory_gate.register_fake
def _(m, y, head_weight, weight, head_eps, eps, normed):
    return torch.empty(y.shape, dtype=y.dtype, device=y.device)


@torch.library.custom_op("ttbench::swiglu", mutates_args=())
def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    out = torch.empty_like(gate)
    settings = pick("swiglu", size=0, target=target_of(gate.device))
    grid = (triton.cdiv(gate.numel(), settings.tile),)
    _swiglu_kernel[grid](gate, up, out, gate.numel(), BD=settings.tile, num_warps=settings.num_warps)
    return out


@_swiglu.register_fake
def _(gate, up):
    return torch.empty_like(gate)


def residual_norm(x, delta, weight, *, eps: float, narrow: bool) -> tuple[Tensor, Tensor]:
    """As `norm.residual_norm`; the norm reads the sum in float32, whatever `narrow` says."""
    dtype = weight.dtype if narrow else x.dtype
    return (x, _norm(x, weight, eps, dtype)) if delta is None else _residual_norm(x, delta, weight, eps, dtype)


def gated_norm(y, gate, weight, bias, *, eps, num_groups, kind, activation, gate_first, narrow) -> Tensor:
    """As `norm.gated_norm`; norm and gate meet in float32, whatever `narrow` says."""
    bias = weight if bias is None else bias
    return _gated_norm(y, gate, weight, bias, eps, num_groups, kind == "layer", activation == "gelu", gate_first)


def memory_gate(m, y, head_weight, weight, *, head_eps, eps) -> Tensor:
    """As `norm.memory_gate`."""
    normed = weight is not None
    return _memory_gate(m, y, head_weight, weight if normed else head_weight, head_eps, eps, normed)


def swiglu(gate, up) -> Tensor:
    """As `swiglu.swiglu`."""
    return _swiglu(gate.contiguous(), up.contiguous())


def _wide(dim: int) -> str | None:
    return f"width {dim} is over {MAX_DIM}" if dim > MAX_DIM else None


def _norm_case(*, rows: tuple[int, ...], dim: int, add: bool, wide: bool = False, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        x, delta, weight = normal(generator, device, dtype, (*rows, dim), (*rows, dim), (dim,))
        x = x.float() if wide else x
        return (x, delta if add else None, weight), {"eps": 1e-5, "narrow": True}

    what = f"rows {'x'.join(map(str, rows))}, D {dim}{', added' if add else ''}{', float32 stream' if wide else ''}"
    return Case(label=what, make=make, large=large)


def _gated_case(*, rows: int, dim: int, groups: int, large: bool = False, shared: bool = False, **choice: Any) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        width = dim if shared else groups * dim
        shapes = (rows, 1, groups * dim), (rows, 1, 2 * groups * dim), (width,), (width,)
        y, gate, weight, bias = normal(generator, device, dtype, *shapes)
        args = (y.float(), gate[..., groups * dim :], weight, bias if choice["kind"] == "layer" else None)
        return args, {"eps": 1e-5, "num_groups": groups, "narrow": False, **choice}

    shown = ", ".join(f"{name} {value}" for name, value in choice.items())
    return Case(label=f"rows {rows}, D {dim}, groups {groups}, {shown}", make=make, large=large)


def _memory_case(*, B: int, T: int, H: int, D: int, normed: bool, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        # the last tokens of more, as those behind persistent vectors are
        m, y, head_weight, weight = normal(generator, device, dtype, (B, T + 2, H, D), (B, T, H * D), (D,), (H * D,))
        args = (m.float()[:, 2:], y, head_weight, weight if normed else None)
        return args, {"head_eps": 1e-5, "eps": 1e-6 if normed else 0.0}

    return Case(label=f"B {B}, T {T}, H {H}, D {D}{', normed' if normed else ''}", make=make, large=large)


def _swiglu_case(*shape: int, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        return tuple(normal(generator, device, dtype, shape, shape)), {}

    return Case(label="x".join(map(str, shape)), make=make, large=large)


def _builds(
    kernel: Any, target: str, size: int, constants: dict[str, Any], table: str, shown: str
) -> tuple[Build, ...]:
    if target != "sm_90":
        return ()  # the simplest of kernels: one target shows that they compile
    settings, kinds = pick(table, size=size, target=target), {"eps": "fp32", "head_eps": "fp32", "m_ptr": "*fp32"}
    return (build_at(kernel, f"{shown}, bf16", settings, constants, pointer="*bf16", kinds=kinds),)


RESIDUAL = Twin(
    name="residual_norm",
    plain="ttbench.kernels.norm:residual_norm",
    run=residual_norm,
    refuses=lambda x, delta, weight, **rest: no_float64(x) or _wide(x.shape[-1]),
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _norm_case(rows=(3, 1), dim=20, add=False),
        _norm_case(rows=(2, 5), dim=100, add=True),
        _norm_case(rows=(2, 1), dim=64, add=True, wide=True),
        _norm_case(rows=(64, 1), dim=2048, add=True, large=True),
        _norm_case(rows=(4, 2048), dim=1536, add=True, large=True),
    ),
    builds=lambda target: _builds(
        _residual_norm_kernel, target, 2048, {"D": 2048, "ADD": True, "BD": 2048}, "norm", "D 2048"
    ),
)
GATED = Twin(
    name="gated_norm",
    plain="ttbench.kernels.norm:gated_norm",
    run=gated_norm,
    refuses=lambda y, gate, *rest, num_groups, **options: no_float64(y) or _wide(y.shape[-1] // num_groups),
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _gated_case(rows=3, dim=20, groups=2, kind="rms", activation="silu", gate_first=True),
        _gated_case(rows=2, dim=24, groups=3, kind="rms", activation="silu", gate_first=False, shared=True),
        _gated_case(rows=2, dim=100, groups=1, kind="layer", activation="gelu", gate_first=False),
        _gated_case(rows=64, dim=4096, groups=1, kind="rms", activation="silu", gate_first=True, large=True),
        _gated_case(rows=64, dim=2048, groups=1, kind="layer", activation="gelu", gate_first=False, large=True),
    ),
    builds=lambda target: _builds(
        _gated_norm_kernel, target, 4096,
        {"D": 4096, "LAYER": False, "GELU": False, "GATE_FIRST": True, "BD": 4096}, "norm", "D 4096",
    ),
)  # fmt: skip
MEMORY = Twin(
    name="memory_gate",
    plain="ttbench.kernels.norm:memory_gate",
    run=memory_gate,
    refuses=lambda m, y, *rest, **options: no_float64(y) or _wide(y.shape[-1]),
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _memory_case(B=2, T=1, H=3, D=20, normed=True),
        _memory_case(B=1, T=3, H=5, D=8, normed=False),
        _memory_case(B=64, T=1, H=24, D=64, normed=True, large=True),
    ),
    builds=lambda target: _builds(
        _memory_gate_kernel, target, 2048, {"H": 32, "D": 64, "NORMED": True, "BH": 32, "BD": 64}, "norm", "H 32, D 64"
    ),
)
SWIGLU = Twin(
    name="swiglu",
    plain="ttbench.kernels.swiglu:swiglu",
    run=swiglu,
    refuses=lambda gate, up: no_float64(gate),
    label=lambda *args, **kwargs: label("float32"),
    cases=(_swiglu_case(3, 1, 37), _swiglu_case(2, 1, 1100), _swiglu_case(64, 1, 5632, large=True)),
    builds=lambda target: _builds(_swiglu_kernel, target, 0, {"BD": 1024}, "swiglu", "tile 1024"),
)
