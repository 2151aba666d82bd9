"""TTT-MLP's fused twin: the operators around `ttt_mlp_kernels`, their cases and builds.

Letters: B batch, T tokens, H heads, D head dim, C mini-batch.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from ttbench.kernels.dispatch.twin import Build, Twin
from ttbench.kernels.fused import ttt_mlp_kernels as kernels
from ttbench.kernels.fused.launch import build_at, pick, target_of
from ttbench.kernels.fused.operands import dot_constants, exact_precision, operands_name
from ttbench.kernels.fused.shared.inner_models import (
    draw_ttt,
    inner_case,
    operands_label,
    refuses_ttt,
    refuses_ttt_step,
)
from ttbench.kernels.ttt_linear import EPS
from ttbench.kernels.ttt_mlp import MLPState


@torch.library.custom_op("ttbench::ttt_mlp_step", mutates_args=("W1", "b1", "W2", "b2", "K", "G1", "X2", "G2"))
def _step(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, tau: Tensor, weight: Tensor, bias: Tensor, place: Tensor,
    W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, K: Tensor, G1: Tensor, X2: Tensor, G2: Tensor,
) -> Tensor:  # fmt: skip
    batch_size, _, num_heads, dim = q.shape
    target = target_of(q.device)
    settings = pick("ttt_mlp_step", size=dim, target=target)
    out = torch.empty_like(q)
    kernels.step_kernel[(batch_size * num_heads,)](
        q, k, v, lam, tau, weight, bias, place, W1, b1, W2, b2, K, G1, X2, G2, out,
        num_heads, **_sizes(dim, len(tau), settings.tile), BN=_num_tiles(dim, settings.tile),
        PRECISION=exact_precision(target), num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return out


@_step.register_fake
def _(q, k, v, lam, tau, weight, bias, place, W1, b1, W2, b2, K, G1, X2, G2) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("ttbench::ttt_mlp", mutates_args=())
def _prefill(
    q: Tensor, k: Tensor, v: Tensor, lam: Tensor, tau: Tensor, weight: Tensor, bias: Tensor,
    W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, K: Tensor, G1: Tensor, X2: Tensor, G2: Tensor,
    offset: int, operands: str,
) -> list[Tensor]:  # fmt: skip
    batch_size, num_tokens, num_heads, dim = q.shape
    settings = pick("ttt_mlp", size=dim, target=target_of(q.device))
    out, weights = torch.empty_like(q), [x.clone() for x in (W1, b1, W2, b2)]
    pending = [torch.empty_like(x) for x in (K, G1, X2, G2)]
    kernels.prefill_kernel[(batch_size * num_heads,)](
        q, k, v, lam, tau, weight, bias, K, G1, X2, G2, out, *weights, *pending,
        num_tokens, num_heads, offset, **_sizes(dim, len(tau), settings.tile), **dot_constants(operands),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return [out, *weights, *pending]


@_prefill.register_fake
def _(q, k, v, lam, tau, weight, bias, W1, b1, W2, b2, K, G1, X2, G2, offset, operands):
    return [torch.empty_like(x) for x in (q, W1, b1, W2, b2, K, G1, X2, G2)]


def _sizes(dim: int, mini_batch_size: int, tile: int) -> dict[str, Any]:
    """Constants of both kernels."""
    return {
        "D": dim,
        "E": 4 * dim,
        "C": mini_batch_size,
        "eps": EPS,
        "BD": max(16, triton.next_power_of_2(dim)),
        "BC": max(16, triton.next_power_of_2(mini_batch_size)),
        "TILE": tile,
    }


def _num_tiles(dim: int, tile: int) -> int:
    return 1 << (-(-4 * dim // tile) - 1).bit_length()


def step(q, k, v, lam, tau, norm_weight, norm_bias, state: MLPState, *, place, last, operands=None) -> Tensor:
    """As `ttt_mlp.step`; `last` is not read: the device knows."""
    inputs = (x.contiguous() for x in (q, k, v, lam, tau, norm_weight, norm_bias))
    return _step(*inputs, place, *_fields(state))


def prefill(
    q, k, v, lam, tau, norm_weight, norm_bias, initial_state: MLPState, *, offset: int, operands=None
) -> tuple[Tensor, MLPState]:
    """As `ttt_mlp.chunked`."""
    inputs = (q, k, v, lam, tau, norm_weight, norm_bias, *_fields(initial_state))
    out, W1, b1, W2, b2, K, G1, X2, G2 = _prefill(
        *(x.contiguous() for x in inputs), offset, operands_name(operands or q.dtype)
    )
    return out, MLPState(W1=W1, b1=b1, W2=W2, b2=b2, K=K, G1=G1, X2=X2, G2=G2)


def _fields(state: MLPState) -> tuple[Tensor, ...]:
    return state.W1, state.b1, state.W2, state.b2, state.K, state.G1, state.X2, state.G2


def draw(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, **sizes: int
) -> tuple[tuple[Tensor, ...], MLPState]:
    """As `draw_ttt`."""
    pending = {"K": 1.0, "G1": 0.1 / sizes["D"], "X2": 0.5, "G2": 0.1 / sizes["D"]}
    return draw_ttt(generator, device, dtype, state=MLPState, pending=pending, rate=0.1, **sizes)


_case = functools.partial(inner_case, draw)


def _build(name: str, target: str, *, dim: int, operands: str, max_spilled: int) -> Build:
    settings = pick(name, size=dim, target=target)
    constants = _sizes(dim, 16, settings.tile)
    if name == "ttt_mlp_step":
        kernel, constants = kernels.step_kernel, {**constants, "BN": _num_tiles(dim, settings.tile)}
        constants["PRECISION"] = exact_precision(target, interpret=False)
    else:
        kernel, constants = kernels.prefill_kernel, {**constants, **dot_constants(operands, interpret=False)}
    shown, kinds = f"D {dim}, C 16, {operands}", {"place_ptr": "*i64"}
    return build_at(kernel, shown, settings, constants, kinds=kinds, max_spilled=max_spilled)


STEP = Twin(
    name="ttt_mlp_step",
    plain="ttbench.kernels.ttt_mlp:step",
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
    builds=lambda target: (_build("ttt_mlp_step", target, dim=96, operands="tf32", max_spilled=0),),
)
PREFILL = Twin(
    name="ttt_mlp",
    plain="ttbench.kernels.ttt_mlp:chunked",
    run=prefill,
    refuses=refuses_ttt,
    label=operands_label,
    cases=(
        _case(B=2, T=1, H=3, D=8, C=4, offset=1),
        _case(B=2, T=18, H=2, D=20, C=7, offset=0),
        _case(B=2, T=11, H=3, D=20, C=7, offset=3),
        _case(B=1, T=3, H=2, D=20, C=7, offset=2),
        _case(B=1, T=64, H=2, D=64, C=16, offset=0),
        _case(B=1, T=37, H=2, D=96, C=16, offset=5),
        _case(large=True, B=16, T=2048, H=24, D=64, C=16, offset=0),
        _case(large=True, B=1, T=2050, H=16, D=96, C=16, offset=7),
    ),
    builds=lambda target: (_build("ttt_mlp", target, dim=64, operands="bf16", max_spilled=256),),
)
