"""State space duality as Triton kernels: one token with the step size's softplus and D u, and any number of tokens.

One token (`STEP`). A program has some of the rows of a head's state [P, N], which it advances in place: the step size's
bias, softplus and limits, the decay and D u are in the same kernel. No products of matrices, so nothing but float32.

Any number (`PREFILL`). A program has some rows of a head's state and keeps them in registers, while chunks of K tokens
follow one another in a loop: a masked product of matrices each, as in the op's plain form. The rows of a state do not
mix, so a head with many rows is spread over several programs. The exponent that leads from token r to token t is summed
from the steps between them, never as a difference of two sums, which would lose the digits of small steps.

State and sums are float32; what multiplies in the tensor cores is `operands`: bfloat16, or tf32 for float32.
Letters: B batch, T tokens, H heads, P head dim, G groups, N state size, K tokens of a chunk. BP and BN are block sizes.
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
from ttbench.kernels.fused.operands import dot_constants, label, operands_name
from ttbench.kernels.fused.shared.activations import softplus
from ttbench.kernels.fused.shared.arguments import no_float64, normal, packed

MAX_STATE = 256
CHUNK_LEN = 16  # tokens; at 32 the tiles of B and C leave too few registers for a state of 128


@triton.jit
def _step_kernel(
    x_ptr, dt_ptr, dt_bias_ptr, A_log_ptr, B_ptr, C_ptr, D_ptr, state_ptr, out_ptr,
    H, group_size, low, high, x_row, dt_row, B_row, C_row,
    P: tl.constexpr, N: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    p, n = tl.program_id(2) * BP + tl.arange(0, BP), tl.arange(0, BN)
    in_p, in_n = p < P, n < N
    inside = in_p[:, None] & in_n[None, :]
    dt = tl.load(dt_ptr + row * dt_row + head).to(tl.float32) + tl.load(dt_bias_ptr + head).to(tl.float32)
    dt = tl.minimum(tl.maximum(softplus(dt), low), high)
    decay = tl.exp(-dt * tl.exp(tl.load(A_log_ptr + head).to(tl.float32)))
    x = tl.load(x_ptr + row * x_row + head * P + p, mask=in_p, other=0.0).to(tl.float32)
    shared = head // group_size * N + n
    B = tl.load(B_ptr + row * B_row + shared, mask=in_n, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + row * C_row + shared, mask=in_n, other=0.0).to(tl.float32)
    at = state_ptr + (row * H + head) * P * N + p[:, None] * N + n[None, :]
    h = tl.load(at, mask=inside, other=0.0)
    h = decay * h + (dt * x)[:, None] * B[None, :]
    tl.store(at, h, mask=inside)
    y = tl.sum(h * C[None, :], 1) + tl.load(D_ptr + head).to(tl.float32) * x
    tl.store(out_ptr + (row * H + head) * P + p, y, mask=in_p)


@triton.jit
def _prefill_kernel(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, initial_ptr, y_ptr, final_ptr,
    T, H, group_size, x_batch, x_token, dt_batch, dt_token, B_batch, B_token, C_batch, C_token,
    P: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    p, n = tl.program_id(2) * BP + tl.arange(0, BP), tl.arange(0, BN)
    k = tl.arange(0, K)
    in_p, in_n = p < P, n < N
    A = tl.load(A_ptr + head).to(tl.float32)
    square = (batch * H + head) * P * N + p[:, None] * N + n[None, :]
    in_h = in_p[:, None] & in_n[None, :]
    h = tl.load(initial_ptr + square, mask=in_h, other=0.0)
    # the pointers move from chunk to chunk, so that 32 bits hold what is within one
    x_ptr += batch * x_batch + head * P
    dt_ptr += batch * dt_batch + head
    B_ptr += batch * B_batch + head // group_size * N
    C_ptr += batch * C_batch + head // group_size * N
    y_ptr += (batch * T * H + head) * P
    for chunk in range(0, tl.cdiv(T, K)):
        here = chunk * K + k < T
        in_x, in_B = here[:, None] & in_p[None, :], here[:, None] & in_n[None, :]
        dt = tl.load(dt_ptr + k * dt_token, mask=here, other=0.0).to(tl.float32)
        rate = dt * A
        # [t, r]: of the steps r + 1 .. t
        later = tl.where(k[:, None] > k[None, :], rate[:, None], 0.0)
        C = tl.load(C_ptr + k[:, None] * C_token + n[None, :], mask=in_B, other=0.0).to(tl.float32).to(OPERANDS)
        y = tl.dot(C, tl.trans(h.to(OPERANDS)), input_precision=PRECISION) * tl.exp(tl.cumsum(rate, 0))[:, None]
        B = tl.load(B_ptr + k[:, None] * B_token + n[None, :], mask=in_B, other=0.0).to(tl.float32).to(OPERANDS)
        scores = tl.dot(C, tl.trans(B), input_precision=PRECISION)
        scores = tl.where(k[:, None] >= k[None, :], scores * tl.exp(tl.cumsum(later, 0)), 0.0)
        x = tl.load(x_ptr + k[:, None] * x_token + p[None, :], mask=in_x, other=0.0).to(tl.float32) * dt[:, None]
        y = tl.dot(scores.to(OPERANDS), x.to(OPERANDS), y, input_precision=PRECISION)
        tl.store(y_ptr + k[:, None] * (H * P) + p[None, :], y, mask=in_x)
        left = tl.exp(tl.sum(later, 0))[:, None] * x
        h = h * tl.exp(tl.sum(rate, 0))
        h = tl.dot(tl.trans(left.to(OPERANDS)), B, h, input_precision=PRECISION)
        x_ptr += K * x_token
        dt_ptr += K * dt_token
        B_ptr += K * B_token
        C_ptr += K * C_token
        y_ptr += K * H * P
    tl.store(final_ptr + square, h, mask=in_h)


@torch.library.custom_op("ttbench::ssd_step", mutates_args=("state",))
def _step(
    x: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor,
    low: float, high: float,
) -> Tensor:  # fmt: skip
    batch_size, num_heads, dim, state_size = state.shape
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    x, dt, B, C = packed(x, 2), packed(dt, 1), packed(B, 2), packed(C, 2)
    settings = pick("ssd_step", size=state_size, target=target_of(x.device))
    _step_kernel[(batch_size, num_heads, triton.cdiv(dim, settings.tile))](
        x, dt, dt_bias, A_log, B, C, D, state, out, num_heads, num_heads // B.shape[1], low, high,
        x.stride(0), dt.stride(0), B.stride(0), C.stride(0),
        P=dim, N=state_size, BP=settings.tile, BN=triton.next_power_of_2(state_size), num_warps=settings.num_warps,
    )  # fmt: skip
    return out


@_step.register_fake
def _(x, dt, dt_bias, A_log, B, C, D, state, low, high):
    return torch.empty(x.shape, dtype=torch.float32, device=x.device)


@torch.library.custom_op("ttbench::ssd", mutates_args=())
def _prefill(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial: Tensor, operands: str
) -> tuple[Tensor, Tensor]:
    batch_size, num_tokens, num_heads, dim = x.shape
    state_size = B.shape[3]
    y, final = _read(x, initial)
    x, dt, B, C = packed(x, 2), packed(dt, 1), packed(B, 2), packed(C, 2)
    settings = pick("ssd", size=state_size, target=target_of(x.device))
    _prefill_kernel[(batch_size, num_heads, triton.cdiv(dim, settings.tile))](
        x, dt, A, B, C, initial.contiguous(), y, final, num_tokens, num_heads, num_heads // B.shape[2],
        *x.stride()[:2], *dt.stride()[:2], *B.stride()[:2], *C.stride()[:2],
        **_sizes(dim, state_size, settings.tile), **dot_constants(operands),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    return y, final


def _read(x: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    y = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    return y, torch.empty(initial.shape, dtype=torch.float32, device=x.device)


@_prefill.register_fake
def _(x, dt, A, B, C, initial, operands):
    return _read(x, initial)


def _sizes(dim: int, state_size: int, tile: int) -> dict[str, Any]:
    """Constants of the second kernel."""
    return {"P": dim, "N": state_size, "K": CHUNK_LEN, "BP": tile, "BN": max(16, triton.next_power_of_2(state_size))}


def step(x, dt, dt_bias, A_log, B, C, D, state, *, dt_limit) -> Tensor:
    """As `ssd.gated_step`."""
    return _step(x, dt, dt_bias, A_log, B, C, D, state, *dt_limit)


def prefill(x, dt, A, B, C, initial_state, *, operands=None) -> tuple[Tensor, Tensor]:
    """As `ssd.chunked`."""
    return _prefill(x, dt, A, B, C, initial_state, operands_name(operands or x.dtype))


def _refuses(state: Tensor) -> str | None:
    size = state.shape[-1]
    if size > MAX_STATE:
        return f"state size {size} is over {MAX_STATE}"
    return no_float64(state) or (None if state.is_contiguous() else "a state that does not lie side by side")


def _step_case(*, B: int, H: int, P: int, G: int, N: int, limit: tuple[float, float], large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        mixed, dt, dt_bias, D = normal(generator, device, dtype, (B, H * P + 2 * G * N), (B, H + 1), (H,), (H,))
        A_log = torch.rand(H, generator=generator, dtype=torch.float64).to(device, dtype)
        (state,) = normal(generator, device, torch.float32, (B, H, P, N))
        x, B_, C = mixed.split([H * P, G * N, G * N], -1)
        B_, C = B_.unflatten(-1, (G, N)), C.unflatten(-1, (G, N))
        args = (x.unflatten(-1, (H, P)), dt[:, 1:], dt_bias - 3, A_log, B_, C, D, state)
        return args, {"dt_limit": limit}

    return Case(label=f"B {B}, H {H}, P {P}, G {G}, N {N}, dt {limit[0]:g} to {limit[1]:g}", make=make, large=large)


def _case(*, B: int, T: int, H: int, P: int, G: int, N: int, spike: float = 0.0, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        mixed, state = normal(generator, device, torch.float32, (B, T, H * P + 2 * G * N), (B, H, P, N))
        dt = (torch.rand((B, T, H), generator=generator, dtype=torch.float64) * 0.2).to(device, torch.float32)
        dt[:, 3::16] += spike
        A = -(1 + torch.rand(H, generator=generator, dtype=torch.float64)).to(device, torch.float32)
        x, B_, C = mixed.split([H * P, G * N, G * N], -1)
        args = (x.unflatten(-1, (H, P)), dt, A, B_.unflatten(-1, (G, N)), C.unflatten(-1, (G, N)), state)
        return args, {"operands": dtype}

    shown = f"B {B}, T {T}, H {H}, P {P}, G {G}, N {N}{f', steps of {spike:g}' if spike else ''}"
    return Case(label=shown, make=make, large=large)


def _step_builds(target: str) -> tuple[Build, ...]:
    if target == "sm_80":
        return ()  # without products in tensor cores it is the code of sm_90
    settings = pick("ssd_step", size=128, target=target)
    constants = {"P": 64, "N": 128, "BP": settings.tile, "BN": 128}
    kinds = {"low": "fp32", "high": "fp32", "state_ptr": "*fp32", "out_ptr": "*fp32"}
    return (build_at(_step_kernel, "P 64, N 128, bf16", settings, constants, pointer="*bf16", kinds=kinds),)


def _prefill_builds(target: str) -> tuple[Build, ...]:
    settings = pick("ssd", size=128, target=target)
    found = []
    for operands in ("bf16", "tf32") if target == "sm_90" else ("bf16",):
        constants = _sizes(64, 128, settings.tile) | dot_constants(operands, interpret=False)
        found.append(build_at(_prefill_kernel, f"P 64, N 128, {operands}", settings, constants))
    return tuple(found)


STEP = Twin(
    name="ssd_step",
    plain="ttbench.kernels.ssd:gated_step",
    run=step,
    refuses=lambda *args, **options: _refuses(args[7]),
    label=lambda *args, **options: label("float32"),
    cases=(
        _step_case(B=2, H=4, P=20, G=2, N=5, limit=(0.0, float("inf"))),
        _step_case(B=1, H=3, P=70, G=1, N=16, limit=(0.02, 0.05)),
        _step_case(B=1, H=2, P=64, G=1, N=128, limit=(0.0, float("inf"))),
        _step_case(B=64, H=64, P=64, G=1, N=128, limit=(0.0, float("inf")), large=True),
    ),
    builds=_step_builds,
)
PREFILL = Twin(
    name="ssd",
    plain="ttbench.kernels.ssd:chunked",
    run=prefill,
    refuses=lambda *args, **options: _refuses(args[5]),
    label=lambda x, *args, operands=None: label(operands_name(operands or x.dtype)),
    cases=(
        _case(B=2, T=1, H=4, P=20, G=2, N=5),
        _case(B=1, T=37, H=4, P=20, G=2, N=5),
        _case(B=1, T=100, H=2, P=64, G=1, N=128),
        # large steps, whose exponents must not swallow those of the small ones behind them
        _case(B=1, T=70, H=2, P=16, G=1, N=16, spike=3e4),
        _case(B=4, T=2048, H=64, P=64, G=1, N=128, large=True),
        _case(B=1, T=8201, H=24, P=64, G=1, N=128, large=True),
    ),
    builds=_prefill_builds,
)
