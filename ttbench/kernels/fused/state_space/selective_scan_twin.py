"""The selective scan as Triton kernels: one token with all that is element by element around it, and any number.

One token (`STEP`). A program has some channels of a sequence, with their N numbers of state. The step size's bias and
softplus, the rates -exp(A_log), D u and the gate silu(z) are in the same kernel; the state is advanced in place.

Any number (`PREFILL`). The recurrence runs token by token in registers, so one sequence alone would keep few programs
busy for long. The text is cut into segments: a first kernel finds what each leaves behind if it starts from zero, and
the sum of its step sizes, which is all that its decay depends on; a second one takes these from the segments before,
in order, to make its own start, and reads its tokens. Decays are only ever multiplied, so no size of dt A overflows.

Letters: B batch, T tokens, E channels, N state size. BE and BN are block sizes: channels, and N as a power of two.
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
from ttbench.kernels.fused.shared.activations import silu, softplus
from ttbench.kernels.fused.shared.arguments import no_float64, normal, packed

MAX_STATE = 256
SEGMENT, MOST_SEGMENTS = 128, 64  # tokens of a segment at least; segments of a text


@triton.jit
def _step_kernel(
    u_ptr, dt_ptr, dt_bias_ptr, A_log_ptr, B_ptr, C_ptr, D_ptr, z_ptr, state_ptr, out_ptr,
    E, u_row, dt_row, B_row, C_row, z_row,
    N: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    e, n = tl.program_id(1).to(tl.int64) * BE + tl.arange(0, BE), tl.arange(0, BN)
    in_e, in_n = e < E, n < N
    inside = in_e[:, None] & in_n[None, :]
    u = tl.load(u_ptr + row * u_row + e, mask=in_e, other=0.0).to(tl.float32)
    z = tl.load(z_ptr + row * z_row + e, mask=in_e, other=0.0).to(tl.float32)
    D = tl.load(D_ptr + e, mask=in_e, other=0.0).to(tl.float32)
    dt = tl.load(dt_ptr + row * dt_row + e, mask=in_e, other=0.0).to(tl.float32)
    dt = softplus(dt + tl.load(dt_bias_ptr + e, mask=in_e, other=0.0).to(tl.float32))
    B = tl.load(B_ptr + row * B_row + n, mask=in_n, other=0.0).to(tl.float32)
    C = tl.load(C_ptr + row * C_row + n, mask=in_n, other=0.0).to(tl.float32)
    A = -tl.exp(tl.load(A_log_ptr + e[:, None] * N + n[None, :], mask=inside, other=0.0).to(tl.float32))
    at = state_ptr + (row * E + e)[:, None] * N + n[None, :]
    h = tl.load(at, mask=inside, other=0.0)
    h = h * tl.exp(dt[:, None] * A) + (dt * u)[:, None] * B[None, :]
    tl.store(at, h, mask=inside)
    y = (tl.sum(h * C[None, :], 1) + D * u) * silu(z)
    tl.store(out_ptr + row * E + e, y.to(out_ptr.dtype.element_ty), mask=in_e)


@triton.jit
def _segment_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, initial_ptr, left_ptr, sums_ptr, y_ptr, final_ptr,
    T, E, segment_len, num_segments, u_batch, u_token, dt_batch, dt_token, B_batch, B_token, C_batch, C_token,
    N: tl.constexpr, READ: tl.constexpr, BE: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    batch, segment = tl.program_id(0).to(tl.int64), tl.program_id(2)
    e, n = tl.program_id(1).to(tl.int64) * BE + tl.arange(0, BE), tl.arange(0, BN)
    in_e, in_n = e < E, n < N
    inside = in_e[:, None] & in_n[None, :]
    A = tl.load(A_ptr + e[:, None] * N + n[None, :], mask=inside, other=0.0).to(tl.float32)
    square = e[:, None] * N + n[None, :]  # of a state
    h = tl.zeros((BE, BN), tl.float32)
    if READ:
        h += tl.load(initial_ptr + batch * E * N + square, mask=inside, other=0.0)
        for before in range(0, segment):
            which = batch * num_segments + before
            sums = tl.load(sums_ptr + which * E + e, mask=in_e, other=0.0)
            h *= tl.exp(sums[:, None] * A)
            h += tl.load(left_ptr + which * E * N + square, mask=inside, other=0.0)
    sums = tl.zeros((BE,), tl.float32)
    first = segment.to(tl.int64) * segment_len
    u_ptr += batch * u_batch + first * u_token
    dt_ptr += batch * dt_batch + first * dt_token
    B_ptr += batch * B_batch + first * B_token
    C_ptr += batch * C_batch + first * C_token
    y_ptr += (batch * T + first) * E
    # loads of later tokens are under way while a token is computed
    for t in tl.range(0, tl.minimum(segment_len, T - first), num_stages=4):
        u = tl.load(u_ptr + t * u_token + e, mask=in_e, other=0.0).to(tl.float32)
        dt = tl.load(dt_ptr + t * dt_token + e, mask=in_e, other=0.0).to(tl.float32)
        B = tl.load(B_ptr + t * B_token + n, mask=in_n, other=0.0).to(tl.float32)
        h = h * tl.exp(dt[:, None] * A) + (dt * u)[:, None] * B[None, :]
        if READ:
            C = tl.load(C_ptr + t * C_token + n, mask=in_n, other=0.0).to(tl.float32)
            tl.store(y_ptr + t * E + e, tl.sum(h * C[None, :], 1), mask=in_e)
        else:
            sums += dt
    if READ:
        tl.store(final_ptr + batch * E * N + square, h, mask=inside & (segment == num_segments - 1))
    else:
        which = batch * num_segments + segment
        tl.store(left_ptr + which * E * N + square, h, mask=inside)
        tl.store(sums_ptr + which * E + e, sums, mask=in_e)


@torch.library.custom_op("ttbench::selective_scan_step", mutates_args=("state",))
def _step(
    u: Tensor, dt: Tensor, dt_bias: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, state: Tensor
) -> Tensor:
    batch_size, num_channels, state_size = state.shape
    out = torch.empty(u.shape, dtype=z.dtype, device=u.device)
    u, dt, B, C, z = (packed(x, 1) for x in (u, dt, B, C, z))
    settings = pick("selective_scan_step", size=state_size, target=target_of(u.device))
    _step_kernel[(batch_size, triton.cdiv(num_channels, settings.tile))](
        u, dt, dt_bias, A_log, B, C, D, z, state, out, num_channels,
        u.stride(0), dt.stride(0), B.stride(0), C.stride(0), z.stride(0),
        N=state_size, BE=settings.tile, BN=triton.next_power_of_2(state_size), num_warps=settings.num_warps,
    )  # fmt: skip
    return out


@_step.register_fake
def _(u, dt, dt_bias, A_log, B, C, D, z, state):
    return torch.empty(u.shape, dtype=z.dtype, device=u.device)


@torch.library.custom_op("ttbench::selective_scan", mutates_args=())
def _scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    batch_size, num_tokens, num_channels = u.shape
    state_size = A.shape[1]
    y, final = _scanned(u, initial)
    segment_len = max(SEGMENT, -(-num_tokens // MOST_SEGMENTS))
    num_segments = -(-num_tokens // segment_len)
    left = torch.empty((batch_size, num_segments, num_channels, state_size), dtype=torch.float32, device=u.device)
    sums = torch.empty((batch_size, num_segments, num_channels), dtype=torch.float32, device=u.device)
    settings = pick("selective_scan", size=state_size, target=target_of(u.device))
    u, dt, B, C = (packed(x, 1) for x in (u, dt, B, C))
    # of the last segment, nobody asks what it leaves behind
    for read, segments in ((False, num_segments - 1), (True, num_segments)):
        if segments == 0:
            continue
        _segment_kernel[(batch_size, triton.cdiv(num_channels, settings.tile), segments)](
            u, dt, A.contiguous(), B, C, initial.contiguous(), left, sums, y, final,
            num_tokens, num_channels, segment_len, num_segments, *u.stride()[:2], *dt.stride()[:2], *B.stride()[:2],
            *C.stride()[:2], N=state_size, READ=read, BE=settings.tile, BN=triton.next_power_of_2(state_size),
            num_warps=settings.num_warps,
        )  # fmt: skip
    return y, final


def _scanned(u: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(u.shape, dtype=torch.float32, device=u.device), torch.empty(
        initial.shape, dtype=torch.float32, device=u.device
    )


@_scan.register_fake
def _(u, dt, A, B, C, initial):
    return _scanned(u, initial)


def step(u, dt, dt_bias, A_log, B, C, D, z, state) -> Tensor:
    """As `selective_scan.gated_step`."""
    return _step(u, dt, dt_bias, A_log, B, C, D, z, state)


def prefill(u, dt, A, B, C, initial_state) -> tuple[Tensor, Tensor]:
    """As `selective_scan.chunked`."""
    return _scan(u, dt, A, B, C, initial_state)


def _refuses(state: Tensor) -> str | None:
    size = state.shape[-1]
    if size > MAX_STATE:
        return f"state size {size} is over {MAX_STATE}"
    return no_float64(state) or (None if state.is_contiguous() else "a state that does not lie side by side")


def _step_case(*, B: int, E: int, N: int, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        # slices, as the projections of a model give them
        uz, mixed, dt = normal(generator, device, dtype, (B, 2 * E), (B, 2 * N + 3), (B, E))
        dt_bias, D = normal(generator, device, dtype, (E,), (E,))
        A_log = torch.rand((E, N), generator=generator, dtype=torch.float64).to(device, dtype)
        (state,) = normal(generator, device, torch.float32, (B, E, N))
        B_, C = mixed[:, 3 : 3 + N], mixed[:, 3 + N :]
        return (uz[:, :E], dt, dt_bias - 4, A_log, B_, C, D, uz[:, E:], state), {}

    return Case(label=f"B {B}, E {E}, N {N}", make=make, large=large)


def _case(*, B: int, T: int, E: int, N: int, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        u, mixed, state = normal(generator, device, torch.float32, (B, T, E), (B, T, 2 * N + 3), (B, E, N))
        dt = (torch.rand((B, T, E), generator=generator, dtype=torch.float64) * 0.3).to(device, torch.float32)
        A = -torch.rand((E, N), generator=generator, dtype=torch.float64).exp().to(device, torch.float32)
        return (u, dt, A, mixed[..., 3 : 3 + N], mixed[..., 3 + N :], state), {}

    return Case(label=f"B {B}, T {T}, E {E}, N {N}", make=make, large=large)


def _build(kernel: Any, name: str, target: str, dtype: str, **more: Any) -> tuple[Build, ...]:
    if target == "sm_80":
        return ()  # without products in tensor cores it is the code of sm_90
    settings = pick(name, size=16, target=target)
    constants = {"N": 16, "BE": settings.tile, "BN": 16, **more}
    shown, kinds = f"N 16, {'float32' if dtype == 'fp32' else 'bf16'}", {"state_ptr": "*fp32"}
    return (build_at(kernel, shown, settings, constants, pointer=f"*{dtype}", kinds=kinds),)


STEP = Twin(
    name="selective_scan_step",
    plain="ttbench.kernels.selective_scan:gated_step",
    run=step,
    refuses=lambda *args: _refuses(args[-1]),
    label=lambda *args: label("float32"),
    cases=(
        _step_case(B=2, E=20, N=4),
        _step_case(B=3, E=37, N=5),
        _step_case(B=1, E=70, N=16),
        _step_case(B=64, E=4096, N=16, large=True),
    ),
    builds=lambda target: _build(_step_kernel, "selective_scan_step", target, "bf16"),
)
PREFILL = Twin(
    name="selective_scan",
    plain="ttbench.kernels.selective_scan:chunked",
    run=prefill,
    refuses=lambda *args: _refuses(args[-1]),
    label=lambda *args: label("float32"),
    cases=(
        _case(B=2, T=1, E=5, N=3),
        _case(B=1, T=37, E=20, N=4),
        _case(B=1, T=130, E=6, N=16),
        _case(B=4, T=2048, E=3072, N=16, large=True),
        _case(B=1, T=9001, E=1536, N=16, large=True),
    ),
    builds=lambda target: _build(_segment_kernel, "selective_scan", target, "fp32", READ=True),
    launches=2,
)
