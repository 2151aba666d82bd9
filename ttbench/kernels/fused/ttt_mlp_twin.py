"""TTT-MLP's fused twin: the operators around `ttt_mlp_kernels`, their cases and builds.

Letters: B batch, T tokens, H heads, D head dim, C mini-batch.
"""

# Triton reads its functions as text and changes how they are called.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ttbench.kernels.dispatch.twin import Build, Case, Twin
from ttbench.kernels.fused import ttt_mlp_kernels as kernels
from ttbench.kernels.fused.launch import pick, target_of
from ttbench.kernels.fused.operands import dot_constants, exact_precision, label, operands_name
from ttbench.kernels.ttt_linear import EPS
from ttbench.kernels.ttt_mlp import MLPState

MAX_DIM, MAX_MINI_BATCH = 128, 64


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


def refuses(q, k, v, lam, tau, norm_weight, norm_bias, state: MLPState, **rest) -> str | None:
    """Why the kernels cannot take these arguments; None: they can."""
    if state.W1.dtype != torch.float32:
        return f"no twin for {str(state.W1.dtype).removeprefix('torch.')}"
    if q.shape[-1] > MAX_DIM:
        return f"head dim {q.shape[-1]} is over {MAX_DIM}"
    if len(tau) > MAX_MINI_BATCH:
        return f"mini-batch {len(tau)} is over {MAX_MINI_BATCH}"
    return None


def _label(q, *args, operands=None, **rest) -> str:
    return label(operands_name(operands or q.dtype))


def _refuses_prefill(q, k, v, lam, tau, norm_weight, norm_bias, initial_state: MLPState, **rest) -> str | None:
    return refuses(q, k, v, lam, tau, norm_weight, norm_bias, initial_state)


def _refuses_step(q, k, v, lam, tau, norm_weight, norm_bias, state: MLPState, **rest) -> str | None:
    if not all(x.is_contiguous() for x in _fields(state)):
        return "the state is not contiguous"
    return refuses(q, k, v, lam, tau, norm_weight, norm_bias, state)


def draw(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, *,
    B: int, T: int, H: int, D: int, C: int, offset: int,
) -> tuple[tuple[Tensor, ...], MLPState]:  # fmt: skip
    """Inputs of the size that a model gives, and a state of which `offset` tokens are pending and the rest is NaN."""

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(device, torch.float32)

    q, k, v = (normal(B, T, H, D).to(dtype).float() for _ in range(3))
    lam = (0.1 * torch.rand((B, T, H), generator=generator, dtype=torch.float64) / D).to(device, torch.float32)
    tau = (1 / torch.arange(1, C + 1, dtype=torch.float64)).to(device, torch.float32)
    scales = {"K": 1.0, "G1": 0.1 / D, "X2": 0.5, "G2": 0.1 / D}
    shapes = MLPState.shapes(batch_size=B, num_heads=H, dim=D, mini_batch_size=C)
    state = MLPState(**{name: normal(*shape, scale=scales.get(name, 0.1)) for name, shape in shapes.items()})
    for name in scales:
        getattr(state, name)[:, :, offset:] = torch.nan
    return (q, k, v, lam, tau, 1 + normal(H, D, scale=0.1), normal(H, D, scale=0.1)), state


def _case(*, large: bool = False, step: bool = False, **sizes: int) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        inputs, state = draw(generator, device, dtype, **sizes)
        if not step:
            return (*inputs, state), {"offset": sizes["offset"], "operands": dtype}
        place = torch.tensor([sizes["offset"]], device=device)
        last = sizes["offset"] + 1 == sizes["C"]
        return (*inputs, state), {"place": place, "last": last, "operands": dtype}

    shown = {name: size for name, size in sizes.items() if not (step and name == "T")}
    return Case(label=", ".join(f"{name} {size}" for name, size in shown.items()), make=make, large=large)


def _build(name: str, target: str, *, dim: int, operands: str, max_spilled: int) -> Build:
    settings = pick(name, size=dim, target=target)
    constants = _sizes(dim, 16, settings.tile)
    if name == "ttt_mlp_step":
        kernel, constants = kernels.step_kernel, {**constants, "BN": _num_tiles(dim, settings.tile)}
        constants["PRECISION"] = exact_precision(target, interpret=False)
    else:
        kernel, constants = kernels.prefill_kernel, {**constants, **dot_constants(operands, interpret=False)}
    signature = {arg: "*fp32" for arg in kernel.arg_names if arg.endswith("_ptr")}
    signature |= {"place_ptr": "*i64"} if "place_ptr" in kernel.arg_names else {}
    signature |= {arg: "i32" for arg in ("T", "H", "offset") if arg in kernel.arg_names}
    return Build(
        label=f"D {dim}, C 16, {operands}",
        kernel=kernel,
        signature=signature,
        constants=constants,
        num_warps=settings.num_warps,
        num_stages=settings.num_stages,
        max_spilled=max_spilled,
    )


STEP = Twin(
    name="ttt_mlp_step",
    plain="ttbench.kernels.ttt_mlp:step",
    run=step,
    refuses=_refuses_step,
    label=_label,
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
    refuses=_refuses_prefill,
    label=_label,
    cases=(
        _case(B=2, T=1, H=3, D=8, C=4, offset=1),
        _case(B=2, T=37, H=3, D=20, C=7, offset=0),
        _case(B=2, T=11, H=3, D=20, C=7, offset=3),
        _case(B=1, T=3, H=2, D=20, C=7, offset=2),
        _case(B=1, T=64, H=2, D=64, C=16, offset=0),
        _case(B=1, T=37, H=2, D=96, C=16, offset=5),
        _case(large=True, B=16, T=2048, H=24, D=64, C=16, offset=0),
        _case(large=True, B=1, T=2050, H=16, D=96, C=16, offset=7),
    ),
    builds=lambda target: (_build("ttt_mlp", target, dim=64, operands="bf16", max_spilled=256),),
)
