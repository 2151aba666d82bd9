"""One query over a cache whose length only the device knows: split over its keys, merged in a fixed order.

The grid does not depend on the length, so one captured graph serves every length. A program of the first kernel has
one key/value head of a sequence and one of SPLITS equal shares of the keys that exist, rounded up to blocks; all query
heads of the group stand together as rows of one product, so that a key is read once. It leaves the largest score, the
sum of exponentials and the weighted sum of values, also where its share is empty. A program of the second kernel has
one query head and merges the shares from the first to the last: two runs give equal bits.

Scores, sums and maxima are float32; what multiplies in the tensor cores is the dtype of the cache, or tf32 for float32.
Letters: B batch, H heads, G key/value heads, R = H / G, S places, D head dim. BR, BS and BD are block sizes.
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
from ttbench.kernels.fused.operands import dot_constants, label, operands_name
from ttbench.kernels.fused.shared.arguments import no_float64, normal, packed

MAX_DIM, MAX_GROUP = 256, 64
SPLITS = 32  # shares of the keys


@triton.jit
def absorbed(q, k, v, seen, peak, total, out, OPERANDS: tl.constexpr, PRECISION: tl.constexpr):
    """The largest score, the sum of exponentials and the weighted sum of values, with those of a block of keys."""
    scores = tl.dot(q, tl.trans(k.to(OPERANDS)), input_precision=PRECISION)  # [BR, BS]
    scores = tl.where(seen[None, :], scores, float("-inf"))
    higher = tl.maximum(peak, tl.max(scores, 1))
    weights = tl.exp(scores - higher[:, None])
    kept = tl.exp(peak - higher)
    total = total * kept + tl.sum(weights, 1)
    out = out * kept[:, None] + tl.dot(weights.to(OPERANDS), v.to(OPERANDS), input_precision=PRECISION)
    return higher, total, out


@triton.jit
def _split_kernel(
    q_ptr, keys_ptr, values_ptr, position_ptr, peak_ptr, total_ptr, sum_ptr,
    G, scale, q_batch, q_head, keys_batch, keys_head, keys_place, values_batch, values_head, values_place,
    R: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr,
    OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, group = row // G, row % G
    length = tl.load(position_ptr) + 1
    share = tl.cdiv(tl.cdiv(length, SPLITS), BS) * BS
    first = split * share
    stop = tl.minimum(first + share, length)
    r, s, d = tl.arange(0, BR), tl.arange(0, BS).to(tl.int64), tl.arange(0, BD)
    in_q = (r < R)[:, None] & (d < D)[None, :]
    q_at = q_ptr + batch * q_batch + (group * R + r)[:, None] * q_head + d[None, :]
    q = tl.load(q_at, mask=in_q, other=0.0).to(tl.float32) * scale
    q = q.to(OPERANDS)
    keys_ptr += batch * keys_batch + group * keys_head
    values_ptr += batch * values_batch + group * values_head
    peak = tl.full((BR,), float("-inf"), tl.float32)
    total = tl.zeros((BR,), tl.float32)
    out = tl.zeros((BR, BD), tl.float32)
    for start in range(first, stop, BS):
        at = start + s
        seen = at < stop
        mask = seen[:, None] & (d < D)[None, :]
        k = tl.load(keys_ptr + at[:, None] * keys_place + d[None, :], mask=mask, other=0.0).to(tl.float32)
        v = tl.load(values_ptr + at[:, None] * values_place + d[None, :], mask=mask, other=0.0).to(tl.float32)
        peak, total, out = absorbed(q, k, v, seen, peak, total, out, OPERANDS, PRECISION)
    part = (row * SPLITS + split) * R + r
    tl.store(peak_ptr + part, peak, mask=r < R)
    tl.store(total_ptr + part, total, mask=r < R)
    tl.store(sum_ptr + part[:, None] * D + d[None, :], out, mask=in_q)


@triton.jit
def merge_kernel(
    peak_ptr, total_ptr, sum_ptr, out_ptr,
    R: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = tl.arange(0, BD)
    peak = tl.load(peak_ptr + row * SPLITS * R + head)
    total = tl.load(total_ptr + row * SPLITS * R + head)
    out = tl.load(sum_ptr + (row * SPLITS * R + head) * D + d, mask=d < D, other=0.0)
    # the first share always holds a key, so that no maximum below is minus infinity
    for split in range(1, SPLITS):
        part = (row * SPLITS + split) * R + head
        other = tl.load(peak_ptr + part)
        higher = tl.maximum(peak, other)
        kept, added = tl.exp(peak - higher), tl.exp(other - higher)
        total = total * kept + tl.load(total_ptr + part) * added
        out = out * kept + tl.load(sum_ptr + part * D + d, mask=d < D, other=0.0) * added
        peak = higher
    here = (row * R + head) * D + d
    tl.store(out_ptr + here, (out / total).to(out_ptr.dtype.element_ty), mask=d < D)


@torch.library.custom_op("ttbench::cached_attention_step", mutates_args=())
def _attend(q: Tensor, keys: Tensor, values: Tensor, position: Tensor, operands: str) -> Tensor:
    (batch_size, num_heads, _, dim), num_groups = q.shape, keys.shape[1]
    group_size, num_rows = num_heads // num_groups, batch_size * num_groups
    out = torch.empty((batch_size, num_heads, 1, dim), dtype=q.dtype, device=q.device)
    peak, total = (torch.empty((num_rows, SPLITS, group_size), device=q.device) for _ in range(2))
    sums = torch.empty((num_rows, SPLITS, group_size, dim), device=q.device)
    settings = pick("cached_attention_step", size=dim, target=target_of(q.device))
    q = packed(q, 1)
    sizes = {"R": group_size, "D": dim, "SPLITS": SPLITS, "BD": max(16, triton.next_power_of_2(dim))}
    _split_kernel[(num_rows, SPLITS)](
        q, keys, values, position, peak, total, sums, num_groups, dim**-0.5, q.stride(0), q.stride(1),
        *keys.stride()[:3], *values.stride()[:3], **sizes, **dot_constants(operands),
        BR=max(16, triton.next_power_of_2(group_size)), BS=settings.tile,
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip
    merge_kernel[(num_rows, group_size)](peak, total, sums, out, **sizes, num_warps=settings.num_warps)
    return out


@_attend.register_fake
def _(q, keys, values, position, operands):
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def attend(q, keys, values, *, position, seen_len, backend) -> Tensor:
    """As `cached_attention.cached_attention_step`; `seen_len` is not read: the device knows."""
    return _attend(q, keys, values, position, operands_name(q.dtype))


def refuses(q, keys, values, *, position, seen_len, backend) -> str | None:
    """Why the kernels cannot take these arguments; None: they can."""
    group_size = q.shape[1] // keys.shape[1]
    if backend != "sdpa":
        return f"attention {backend} was asked for"
    if q.shape[-1] > MAX_DIM or group_size > MAX_GROUP:
        return f"head dim {q.shape[-1]} with {group_size} queries a key; at most {MAX_DIM} with {MAX_GROUP}"
    if keys.stride(3) != 1 or values.stride(3) != 1:
        return "keys or values that do not lie side by side"
    return no_float64(q)


def _case(*, B: int, H: int, G: int, D: int, S: int, position: int, large: bool = False) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        (q,) = normal(generator, device, dtype, (B, H, 1, D))
        keys, values = (x[:, 1] for x in normal(generator, device, dtype, (B, 2, G, S, D), (B, 2, G, S, D)))
        for kept in (keys, values):
            kept[:, :, position + 1 :] = torch.nan
        place = torch.tensor([position], device=device)
        return (q, keys, values), {"position": place, "seen_len": position + 1, "backend": "sdpa"}

    return Case(label=f"B {B}, H {H}, G {G}, D {D}, S {S}, position {position}", make=make, large=large)


def _builds(target: str) -> tuple[Build, ...]:
    settings, found = pick("cached_attention_step", size=128, target=target), []
    sizes = {"R": 4, "D": 128, "SPLITS": SPLITS, "BD": 128}
    # tf32 takes most registers, and sm_80 has least to spare
    operands, pointer = ("tf32", "*fp32") if target == "sm_80" else ("bf16", "*bf16")
    constants = {**sizes, "BR": 16, "BS": settings.tile, **dot_constants(operands, interpret=False)}
    kinds = dict.fromkeys(("peak_ptr", "total_ptr", "sum_ptr"), "*fp32") | {"position_ptr": "*i64", "scale": "fp32"}
    found.append(build_at(_split_kernel, f"D 128, R 4, {operands}", settings, constants, pointer=pointer, kinds=kinds))
    if target == "sm_90":
        found.append(build_at(merge_kernel, "D 128, R 4", settings, sizes, kinds={"out_ptr": "*bf16"}))
    return tuple(found)


STEP = Twin(
    name="cached_attention_step",
    plain="ttbench.kernels.cached_attention:cached_attention_step",
    run=attend,
    refuses=refuses,
    label=lambda q, *args, **options: label(operands_name(q.dtype)),
    cases=(
        _case(B=1, H=2, G=2, D=8, S=5, position=0),
        _case(B=1, H=4, G=2, D=20, S=50, position=40),
        _case(B=2, H=3, G=1, D=64, S=140, position=139),
        # every share has a key, and the last is not full
        _case(B=1, H=2, G=1, D=16, S=2050, position=2000),
        _case(B=1, H=8, G=2, D=128, S=100, position=77),
        _case(B=16, H=32, G=8, D=128, S=16384, position=16001, large=True),
        _case(B=1, H=24, G=24, D=64, S=131072, position=131071, large=True),
    ),
    builds=_builds,
    launches=2,
)
