"""What a neural memory answers to one question, which it does not learn from: one Triton kernel.

A program has one head of a sequence: it brings the question to length 1, walks over the weights once, in tiles of
hidden units (two layers) or of rows (one), and norms the answer. Everything is float32.
Letters: B batch, H heads, D head dim, E hidden units, L memory layers; BD is D rounded up to a power of two.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ttbench.kernels.dispatch.twin import Build, Case, Twin
from ttbench.kernels.fused.launch import build_at, pick, target_of
from ttbench.kernels.fused.operands import label
from ttbench.kernels.fused.shared.arguments import as_rows, normal
from ttbench.kernels.fused.shared.inner_models import MAX_DIM
from ttbench.kernels.inner_inputs import NORM_EPS
from ttbench.kernels.neural_memory import layer_shapes

MAX_LAYERS = 2


@triton.jit
def recall_kernel(
    r_ptr, M1_ptr, M2_ptr, weight_ptr, out_ptr, H, E, r_row, M1_head, M2_head, unit_eps, eps,
    D: tl.constexpr, L: tl.constexpr, BD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`.._head`: elements from one head to the next; E is D where there is one layer."""
    row = tl.program_id(0).to(tl.int64)  # sequence and head
    r_ptr += row // H * r_row + row % H * D
    M1_ptr += row * M1_head
    M2_ptr += row * M2_head
    d = tl.arange(0, BD)
    in_d = d < D
    r = tl.load(r_ptr + d, mask=in_d, other=0.0).to(tl.float32)
    scale = 1.0 / tl.maximum(tl.sqrt(tl.sum(r * r, 0)), unit_eps)
    r *= scale
    out = tl.zeros((BD,), tl.float32)
    for start in range(0, E, TILE):
        e = start + tl.arange(0, TILE)
        in_e = e < E
        rows, in_rows = e[:, None] * D + d[None, :], in_e[:, None] & in_d[None, :]
        if L == 1:
            x = tl.load(r_ptr + e, mask=in_e, other=0.0).to(tl.float32) * scale
            out += tl.sum(tl.load(M1_ptr + rows, mask=in_rows, other=0.0) * x[:, None], 0)
        else:
            columns, in_columns = d[:, None] * E + e[None, :], in_d[:, None] & in_e[None, :]
            x = tl.sum(tl.load(M1_ptr + columns, mask=in_columns, other=0.0) * r[:, None], 0)
            x *= 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
            out += tl.sum(tl.load(M2_ptr + rows, mask=in_rows, other=0.0) * x[:, None], 0)
    weight = tl.load(weight_ptr + d, mask=in_d, other=0.0).to(tl.float32)
    out *= tl.rsqrt(tl.sum(out * out, 0) / D + eps) * weight
    tl.store(out_ptr + row * D + d, out.to(out_ptr.dtype.element_ty), mask=in_d)


@torch.library.custom_op("ttbench::memory_recall_step", mutates_args=())
def _recall(r: Tensor, weights: list[Tensor], norm_weight: Tensor, num_heads: int, eps: float) -> Tensor:
    """`weights`: of each layer, [B * H, I * O]; their rows may lie apart."""
    out, dim = torch.empty_like(r, memory_format=torch.contiguous_format), r.shape[-1] // num_heads
    rows, first, last = as_rows(r), weights[0], weights[-1]
    settings = pick("neural_recall", size=dim, target=target_of(r.device))
    recall_kernel[(len(first),)](
        rows, first, last, norm_weight, out, num_heads, first.shape[1] // dim, rows.stride(0), first.stride(0),
        last.stride(0), NORM_EPS, eps, D=dim, L=len(weights), BD=max(16, triton.next_power_of_2(dim)),
        TILE=settings.tile, num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return out


@_recall.register_fake
def _(r, weights, norm_weight, num_heads, eps):
    return torch.empty_like(r, memory_format=torch.contiguous_format)


def recall(r, weights, norm_weight, *, eps) -> Tensor:
    """As `neural_memory.recall_step`."""
    return _recall(r, _flat(weights), norm_weight, weights[0].shape[1], eps)


def _flat(weights: tuple[Tensor, ...]) -> list[Tensor]:
    """Raises RuntimeError: the weights are laid out so that there is no such view."""
    return [weight.view(weight.shape[0] * weight.shape[1], -1) for weight in weights]


def refuses(r, weights, norm_weight, *, eps) -> str | None:
    """Why the kernel cannot take these arguments; None: it can."""
    if len(weights) > MAX_LAYERS:
        return f"a memory of {len(weights)} layers is over {MAX_LAYERS}"
    if len(norm_weight) > MAX_DIM:
        return f"head dim {len(norm_weight)} is over {MAX_DIM}"
    if weights[0].dtype != torch.float32:
        return "no twin for float64"
    try:
        flat = _flat(weights)
    except RuntimeError:
        return "the memory has no flat view"
    return None if all(x.stride(1) == 1 for x in flat) else "the memory has no flat view"


def _case(*, B: int, H: int, D: int, L: int, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        shapes = layer_shapes(D, num_layers=L, expansion=2)
        r, weight = normal(generator, device, dtype, (B, 1, 2 * H * D), (D,))
        # as a layer's state holds them: flat, one behind the other
        sizes = [rows * columns for rows, columns in shapes]
        (flat,) = normal(generator, device, torch.float32, (B, H, sum(sizes)))
        parts = zip((flat * D**-0.5).split(sizes, -1), shapes, strict=True)
        return (r[..., H * D :], tuple(part.unflatten(-1, shape) for part, shape in parts), weight), {"eps": 1e-5}

    return Case(label=f"B {B}, H {H}, D {D}, L {L}", make=make, large=large)


def _builds(target: str) -> tuple[Build, ...]:
    if target != "sm_90":
        return ()
    settings = pick("neural_recall", size=64, target=target)
    constants = {"D": 64, "L": 2, "BD": 64, "TILE": settings.tile}
    kinds = {"r_ptr": "*bf16", "weight_ptr": "*bf16", "out_ptr": "*bf16", "unit_eps": "fp32", "eps": "fp32"}
    return (build_at(recall_kernel, "D 64, L 2, bf16", settings, constants, kinds=kinds),)


STEP = Twin(
    name="memory_recall_step",
    plain="ttbench.kernels.neural_memory:recall_step",
    run=recall,
    refuses=refuses,
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _case(B=2, H=3, D=20, L=1),
        _case(B=2, H=3, D=20, L=2),
        _case(B=1, H=2, D=96, L=2),
        _case(B=64, H=24, D=64, L=2, large=True),
    ),
    builds=_builds,
)
