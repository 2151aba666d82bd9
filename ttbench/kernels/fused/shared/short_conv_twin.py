"""Short causal convolutions as one Triton kernel: any number of tokens, up to three filters, the tail kept in place.

A program has a block of tokens and of channels of one filter, or of all filters where they read one input. The only
block of tokens that reads the tail is the first one (a block is at least K - 1 tokens long), so its program may write
the new tail as soon as all its threads have read the old one.
Letters: B batch, T tokens, C channels, K kernel size. BT, BC and BS are sizes of blocks: tokens, channels, tail.
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
from ttbench.kernels.fused.shared.activations import silu as activated
from ttbench.kernels.fused.shared.arguments import no_float64, normal, packed

MAX_FILTERS, MAX_KERNEL = 3, 16


@triton.jit
def _filter(
    x_ptr, weight_ptr, bias_ptr, out_ptr, tail_ptr, T, C, x_batch, x_token, tail_batch, tail_token,
    K: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr, RESIDUAL: tl.constexpr,
    BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    num_blocks = tl.cdiv(T, BT)
    batch = (tl.program_id(0) // num_blocks).to(tl.int64)
    t = (tl.program_id(0) % num_blocks * BT + tl.arange(0, BT)).to(tl.int64)[:, None]
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    inside = (t < T) & (c < C)
    total = tl.zeros((BT, BC), tl.float32)
    current = tl.load(x_ptr + batch * x_batch + t * x_token + c, mask=inside, other=0.0).to(tl.float32)
    for back in tl.static_range(K):
        at = t - back
        value = current
        if back > 0:
            value = tl.load(
                x_ptr + batch * x_batch + at * x_token + c, mask=inside & (at >= 0), other=0.0
            ).to(tl.float32)  # fmt: skip
            value += tl.load(
                tail_ptr + batch * tail_batch + (at + K - 1) * tail_token + c, mask=inside & (at < 0), other=0.0
            ).to(tl.float32)  # fmt: skip
        total += value * tl.load(weight_ptr + c * K + (K - 1 - back), mask=c < C, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias_ptr + c, mask=c < C, other=0.0).to(tl.float32)
    if SILU:
        total = activated(total)
    if RESIDUAL:
        total += current
    tl.store(out_ptr + (batch * T + t) * C + c, total.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _advance(
    x_ptr, tail_ptr, T, C, x_batch, x_token, tail_batch, tail_token,
    K: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    num_blocks = tl.cdiv(T, BT)
    batch = (tl.program_id(0) // num_blocks).to(tl.int64)
    s = tl.arange(0, BS).to(tl.int64)[:, None]
    c = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    first = tl.program_id(0) % num_blocks == 0
    kept = (s < K - 1) & (c < C) & first
    at = s + T - (K - 1)  # token that goes to place s; before the first one, places move up
    new = tl.load(x_ptr + batch * x_batch + at * x_token + c, mask=kept & (at >= 0), other=0.0)
    old = tl.load(tail_ptr + batch * tail_batch + (s + T) * tail_token + c, mask=kept & (at < 0), other=0.0)
    new = tl.where(at >= 0, new.to(tl.float32), old.to(tl.float32))
    # every thread of the program has read the tail, here and in `_filter`, before one overwrites it
    tl.debug_barrier()
    where = tail_ptr + batch * tail_batch + s * tail_token + c
    tl.store(where, new.to(tail_ptr.dtype.element_ty), mask=kept)


@triton.jit
def _short_conv_kernel(
    x0_ptr, x1_ptr, x2_ptr, w0_ptr, w1_ptr, w2_ptr, b0_ptr, b1_ptr, b2_ptr, out0_ptr, out1_ptr, out2_ptr, tail_ptr,
    T, C0, C1, C2, batch0, batch1, batch2, token0, token1, token2, tail_batch, tail_token,
    K: tl.constexpr, SHARED: tl.constexpr, BIAS: tl.constexpr, SILU: tl.constexpr,
    RESIDUAL: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BS: tl.constexpr,
):  # fmt: skip
    which = tl.program_id(2)
    if which == 0:
        _filter(x0_ptr, w0_ptr, b0_ptr, out0_ptr, tail_ptr, T, C0, batch0, token0, tail_batch, tail_token,
                K, BIAS, SILU, RESIDUAL, BT, BC)  # fmt: skip
        if SHARED:
            _filter(x0_ptr, w1_ptr, b1_ptr, out1_ptr, tail_ptr, T, C0, batch0, token0, tail_batch, tail_token,
                    K, BIAS, SILU, RESIDUAL, BT, BC)  # fmt: skip
        _advance(x0_ptr, tail_ptr, T, C0, batch0, token0, tail_batch, tail_token, K, BT, BC, BS)
    if which == 1:
        _filter(x1_ptr, w1_ptr, b1_ptr, out1_ptr, tail_ptr + C0, T, C1, batch1, token1, tail_batch, tail_token,
                K, BIAS, SILU, RESIDUAL, BT, BC)  # fmt: skip
        _advance(x1_ptr, tail_ptr + C0, T, C1, batch1, token1, tail_batch, tail_token, K, BT, BC, BS)
    if which == 2:
        _filter(x2_ptr, w2_ptr, b2_ptr, out2_ptr, tail_ptr + C0 + C1, T, C2, batch2, token2, tail_batch, tail_token,
                K, BIAS, SILU, RESIDUAL, BT, BC)  # fmt: skip
        _advance(x2_ptr, tail_ptr + C0 + C1, T, C2, batch2, token2, tail_batch, tail_token, K, BT, BC, BS)


@torch.library.custom_op("ttbench::short_conv", mutates_args=("tail",))
def _short_conv(
    inputs: list[Tensor], weights: list[Tensor], biases: list[Tensor], tail: Tensor, silu: bool, residual: bool
) -> list[Tensor]:
    kernel_size, (batch_size, num_tokens, _) = weights[0].shape[-1], inputs[0].shape
    outs = _outs(inputs, weights)
    settings = pick("short_conv", size=1 if num_tokens == 1 else 1 << 30, target=target_of(inputs[0].device))
    inputs = [packed(x, 1) for x in inputs]
    xs, ws, bs, ys = (_three(parts) for parts in (inputs, weights, biases or weights, outs))
    tail_block = max(2, triton.next_power_of_2(kernel_size - 1))
    token_block = 1 if num_tokens == 1 else max(settings.tile, tail_block)
    sizes = [x.shape[2] for x in xs]
    grid = (
        batch_size * triton.cdiv(num_tokens, token_block),
        triton.cdiv(max(sizes[: len(inputs)]), CHANNELS),
        len(inputs),
    )
    _short_conv_kernel[grid](
        *xs, *ws, *bs, *ys, tail, num_tokens, *sizes, *(x.stride(0) for x in xs), *(x.stride(1) for x in xs),
        tail.stride(0), tail.stride(1),
        K=kernel_size, SHARED=len(inputs) < len(weights), BIAS=bool(biases), SILU=silu,
        RESIDUAL=residual, BT=token_block, BC=CHANNELS, BS=tail_block, num_warps=settings.num_warps,
    )  # fmt: skip
    return outs


CHANNELS = 128  # of a program


@_short_conv.register_fake
def _(inputs, weights, biases, tail, silu, residual):
    return _outs(inputs, weights)


def _outs(inputs: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    read = inputs if len(inputs) == len(weights) else inputs * len(weights)
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in read]


def _three(parts: list[Tensor]) -> list[Tensor]:
    """Three of them, the last repeated: a kernel has a fixed number of arguments."""
    return [*parts, *parts[-1:] * (MAX_FILTERS - len(parts))]


def short_conv(inputs, weights, biases, tail, *, silu, residual) -> tuple[Tensor, ...]:
    """As `short_conv.short_conv`."""
    if tail is None:
        x = inputs[0]
        tail = x.new_zeros(x.shape[0], weights[0].shape[-1] - 1, sum(x.shape[2] for x in inputs))
    return tuple(_short_conv(list(inputs), list(weights), list(biases), tail, silu, residual))


def refuses(inputs, weights, biases, tail, **rest) -> str | None:
    """Why the kernel cannot take these arguments; None: it can."""
    if len(weights) > MAX_FILTERS:
        return f"{len(weights)} filters are over {MAX_FILTERS}"
    if len(inputs) not in (1, len(weights)) or (len(inputs) == 1 and len(weights) > 2):
        return f"{len(weights)} filters on {len(inputs)} inputs"
    if weights[0].shape[-1] > MAX_KERNEL:
        return f"kernel size {weights[0].shape[-1]} is over {MAX_KERNEL}"
    return no_float64(inputs[0])


def _case(
    *, B: int, T: int, C: tuple[int, ...], K: int, filters: int = 1, bias: bool = False, large: bool = False,
    silu: bool = False, residual: bool = False, no_tail: bool = False,
) -> Case:  # fmt: skip
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        # inputs are slices of something wider, as those of Mamba are
        xs = [x[..., 3:] for x in normal(generator, device, dtype, *((B, T, c + 3) for c in C))]
        channels = list(C) if len(C) > 1 else list(C) * filters
        weights = normal(generator, device, dtype, *((c, 1, K) for c in channels))
        biases = normal(generator, device, dtype, *((c,) for c in channels)) if bias else []
        (tail,) = normal(generator, device, dtype, (B, K - 1, sum(C)))
        return (xs, weights, biases, None if no_tail else tail), {"silu": silu, "residual": residual}

    shown = f"B {B}, T {T}, C {'+'.join(map(str, C))}, K {K}, filters {max(filters, len(C))}"
    return Case(label=shown + (", no tail" if no_tail else ""), make=make, large=large)


def _builds(target: str) -> tuple[Build, ...]:
    if target != "sm_90":
        return ()
    settings = pick("short_conv", size=1, target=target)
    constants = {"K": 4, "SHARED": False, "BIAS": False, "SILU": True, "RESIDUAL": False}
    constants |= {"BT": 1, "BC": CHANNELS, "BS": 4}
    return (build_at(_short_conv_kernel, "step, K 4, 3 filters, bf16", settings, constants, pointer="*bf16"),)


TWIN = Twin(
    name="short_conv",
    plain="ttbench.kernels.short_conv:short_conv",
    run=short_conv,
    refuses=refuses,
    label=lambda *args, **kwargs: label("float32"),
    cases=(
        _case(B=2, T=1, C=(20,), K=4, bias=True, silu=True),
        _case(B=2, T=1, C=(24, 10, 7), K=4, residual=True),
        _case(B=2, T=1, C=(130,), K=3, filters=2, bias=True),
        _case(B=1, T=2, C=(9, 9, 9), K=4, silu=True),
        _case(B=2, T=37, C=(20,), K=4, bias=True),
        _case(B=1, T=37, C=(12,), K=5, filters=2),
        _case(B=1, T=5, C=(20,), K=1),
        _case(B=1, T=20, C=(20,), K=4, silu=True, no_tail=True),
        _case(B=64, T=1, C=(2048, 2048, 2048), K=4, silu=True, large=True),
        _case(B=4, T=2048, C=(4352,), K=4, bias=True, silu=True, large=True),
    ),
    builds=_builds,
)
