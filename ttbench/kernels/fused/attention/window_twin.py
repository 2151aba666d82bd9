"""One query over a ring or a segment of keys, over sinks, and over its own key: rotation, attention and writes in one.

What a token sees is numbered from 0: first the sinks, then the places of the ring or of the segment that hold
something, then the token's new keys, which come from its projections and are rotated here. As in `attention_twin` a
program has one key/value head of a sequence and one of SPLITS equal shares of those numbers, and the grid does not
depend on how many there are, so one captured graph serves every length.

A ring of one block of places, and a segment, which is short, are one share, whose result needs no second kernel. A
ring that is full is written over: the key of position p - N, which the token still sees, makes room for its own. Only
the program whose share has that place reads it, and the same program writes it, behind a barrier.

Scores, sums and maxima are float32; what multiplies in the tensor cores is the dtype of the cache, or tf32 for float32.
Letters: B batch, H heads, G key/value heads, R = H / G, N places, Z sinks, D head dim, P = D / 2 rotated pairs. BR, BS
and BD are block sizes; NEW is the number of new keys, 1 for a ring and 2 for a segment.
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
from ttbench.kernels.fused.attention.attention_twin import (
    MAX_DIM,
    MAX_GROUP,
    SPLITS,
    absorbed,
    merge_kernel,
)
from ttbench.kernels.fused.launch import build_at, pick, target_of
from ttbench.kernels.fused.operands import dot_constants, label, operands_name
from ttbench.kernels.fused.shared.arguments import as_rows, no_float64, normal, packed


@triton.jit
def _turned(pointer, d, mask, cos, sin, P: tl.constexpr, ROTATE: tl.constexpr):
    """Elements d, of pairs (x[p], x[p + P]) that are turned; `sin` is negative for the first of each."""
    x = tl.load(pointer + d, mask=mask, other=0.0).to(tl.float32)
    if ROTATE:
        other = tl.where(d < P, d + P, d - P)
        x = x * cos + tl.load(pointer + other, mask=mask, other=0.0).to(tl.float32) * sin
    return x


@triton.jit
def _kept_kernel(
    q_ptr, k_ptr, v_ptr, first_k_ptr, first_v_ptr, cos_ptr, sin_ptr, position_ptr,
    keys_ptr, values_ptr, sink_keys_ptr, sink_values_ptr, peak_ptr, total_ptr, out_ptr,
    G, N, Z, scale, q_row, k_row, v_row, first_k_row, first_v_row,
    kept_batch, kept_head, kept_place, sinks_batch, sinks_head, sinks_place,
    R: tl.constexpr, D: tl.constexpr, NEW: tl.constexpr, ROTATE: tl.constexpr, SPLITS: tl.constexpr,
    BR: tl.constexpr, BS: tl.constexpr, BD: tl.constexpr, OPERANDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, group = row // G, row % G
    position = tl.load(position_ptr)
    if NEW == 1:
        past, to = tl.minimum(position, N), position % N
    else:
        past = position * NEW
        to = past
    length = Z + past + NEW
    share = tl.cdiv(tl.cdiv(length, SPLITS), BS) * BS
    first = split * share
    stop = tl.minimum(first + share, length)
    r, s, d = tl.arange(0, BR), tl.arange(0, BS).to(tl.int64), tl.arange(0, BD)
    in_d = d < D
    P: tl.constexpr = D // 2
    in_q = (r < R)[:, None] & in_d[None, :]
    cos, sin = tl.full((BD,), 1.0, tl.float32), tl.zeros((BD,), tl.float32)
    if ROTATE:
        cos = tl.load(cos_ptr + d % P, mask=in_d, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + d % P, mask=in_d, other=0.0).to(tl.float32)
        sin = tl.where(d < P, -sin, sin)
    queries = q_ptr + batch * q_row + (group * R + r)[:, None] * D
    q = _turned(queries, d[None, :], in_q, cos[None, :], sin[None, :], P, ROTATE) * scale
    q = q.to(OPERANDS)
    # in the dtype that they are kept in, as later tokens will see them
    kept = keys_ptr.dtype.element_ty
    new_k = _turned(k_ptr + batch * k_row + group * D, d, in_d, cos, sin, P, ROTATE).to(kept)
    new_v = tl.load(v_ptr + batch * v_row + group * D + d, mask=in_d, other=0.0).to(kept)
    if NEW == 2:
        first_k = _turned(first_k_ptr + batch * first_k_row + group * D, d, in_d, cos, sin, P, ROTATE).to(kept)
        first_v = tl.load(first_v_ptr + batch * first_v_row + group * D + d, mask=in_d, other=0.0).to(kept)
    keys_ptr += batch * kept_batch + group * kept_head
    values_ptr += batch * kept_batch + group * kept_head
    sink_keys_ptr += batch * sinks_batch + group * sinks_head
    sink_values_ptr += batch * sinks_batch + group * sinks_head
    peak = tl.full((BR,), float("-inf"), tl.float32)
    total = tl.zeros((BR,), tl.float32)
    out = tl.zeros((BR, BD), tl.float32)
    for start in range(first, stop, BS):
        at = start + s
        seen = at < stop
        in_sinks = (seen & (at < Z))[:, None] & in_d[None, :]
        in_kept = (seen & (at >= Z) & (at < Z + past))[:, None] & in_d[None, :]
        sinks = at[:, None] * sinks_place + d[None, :]
        places = (at - Z)[:, None] * kept_place + d[None, :]
        k = tl.load(sink_keys_ptr + sinks, mask=in_sinks, other=0.0).to(tl.float32)
        k += tl.load(keys_ptr + places, mask=in_kept, other=0.0).to(tl.float32)
        v = tl.load(sink_values_ptr + sinks, mask=in_sinks, other=0.0).to(tl.float32)
        v += tl.load(values_ptr + places, mask=in_kept, other=0.0).to(tl.float32)
        own = (at == length - 1)[:, None]
        k = tl.where(own, new_k.to(tl.float32)[None, :], k)
        v = tl.where(own, new_v.to(tl.float32)[None, :], v)
        if NEW == 2:
            own = (at == length - 2)[:, None]
            k = tl.where(own, first_k.to(tl.float32)[None, :], k)
            v = tl.where(own, first_v.to(tl.float32)[None, :], v)
        peak, total, out = absorbed(q, k, v, seen, peak, total, out, OPERANDS, PRECISION)
    if SPLITS == 1:
        here = (row * R + r)[:, None] * D + d[None, :]
        tl.store(out_ptr + here, (out / total[:, None]).to(out_ptr.dtype.element_ty), mask=in_q)
    else:
        part = (row * SPLITS + split) * R + r
        tl.store(peak_ptr + part, peak, mask=r < R)
        tl.store(total_ptr + part, total, mask=r < R)
        tl.store(out_ptr + part[:, None] * D + d[None, :], out, mask=in_q)
    # every thread of the program has read the key that one now writes over
    tl.debug_barrier()
    mine = in_d & (first <= Z + to) & (Z + to < stop)
    if NEW == 2:
        tl.store(keys_ptr + to * kept_place + d, first_k, mask=mine)
        tl.store(values_ptr + to * kept_place + d, first_v, mask=mine)
        to += 1
    tl.store(keys_ptr + to * kept_place + d, new_k, mask=mine)
    tl.store(values_ptr + to * kept_place + d, new_v, mask=mine)


@torch.library.custom_op("ttbench::window_attention_step", mutates_args=("keys", "values"))
def _window(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, position: Tensor,
    keys: Tensor, values: Tensor, sink_keys: Tensor, sink_values: Tensor, num_sinks: int, rotate: bool,
) -> Tensor:  # fmt: skip
    (batch_size, num_groups, num_places, dim), num_heads = keys.shape, q.shape[-1] // keys.shape[-1]
    group_size, num_rows = num_heads // num_groups, batch_size * num_groups
    settings = pick("window_attention_step", size=dim, target=target_of(q.device))
    # as many shares as a ring that is full has blocks: the ring's size is fixed, what it holds is not
    num_splits = min(SPLITS, -(-(num_sinks + num_places + 1) // settings.tile))
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    peak, total = (torch.empty((num_rows, num_splits, group_size), device=q.device) for _ in range(2))
    sums = out if num_splits == 1 else torch.empty((num_rows, num_splits, group_size, dim), device=q.device)
    rows = [as_rows(x) for x in (q, k, v)]
    _launch(
        "window_attention_step", [*rows, *rows[1:]], (cos, sin, position), (keys, values), (sink_keys, sink_values),
        (peak, total, sums), num_sinks, NEW=1, ROTATE=rotate, SPLITS=num_splits,
    )  # fmt: skip
    if num_splits > 1:
        sizes = {"R": group_size, "D": dim, "SPLITS": num_splits, "BD": _block(dim)}
        merge_kernel[(num_rows, group_size)](peak, total, sums, out, **sizes, num_warps=settings.num_warps)
    return out


@torch.library.custom_op("ttbench::segment_attention_step", mutates_args=("keys", "values"))
def _segment(
    q: Tensor, k: Tensor, v: Tensor, first_k: Tensor, first_v: Tensor, cos: Tensor, sin: Tensor, place: Tensor,
    keys: Tensor, values: Tensor, sink_keys: Tensor, sink_values: Tensor, num_sinks: int,
) -> Tensor:  # fmt: skip
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    rows = [as_rows(x) for x in (q, k, v, first_k, first_v)]
    _launch(
        "segment_attention_step", rows, (cos, sin, place), (keys, values), (sink_keys, sink_values),
        (out, out, out), num_sinks, NEW=2, ROTATE=True, SPLITS=1,
    )  # fmt: skip
    return out


def _launch(
    name: str, rows: list[Tensor], turns: tuple[Tensor, ...], kept: tuple[Tensor, Tensor],
    sinks: tuple[Tensor, Tensor], outs: tuple[Tensor, ...], num_sinks: int, **choice: Any,
) -> None:  # fmt: skip
    """`rows`: q, k, v and the first of two new keys and values; `turns`: cosines, sines and the position."""
    (batch_size, num_groups, num_places, dim), num_heads = kept[0].shape, rows[0].shape[-1] // kept[0].shape[-1]
    settings = pick(name, size=dim, target=target_of(kept[0].device))
    group_size = num_heads // num_groups
    _kept_kernel[(batch_size * num_groups, choice["SPLITS"])](
        *rows, *turns, *kept, *sinks, *outs, num_groups, num_places, num_sinks, dim**-0.5,
        *(x.stride(0) for x in rows), *kept[0].stride()[:3], *sinks[0].stride()[:3],
        R=group_size, D=dim, **choice, BR=max(16, triton.next_power_of_2(group_size)), BS=settings.tile,
        BD=_block(dim), **dot_constants(operands_name(kept[0].dtype)),
        num_warps=settings.num_warps, num_stages=settings.num_stages,
    )  # fmt: skip


def _block(dim: int) -> Any:
    return max(16, triton.next_power_of_2(dim))


@_window.register_fake
def _(q, k, v, cos, sin, position, keys, values, sink_keys, sink_values, num_sinks, rotate):
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@_segment.register_fake
def _(q, k, v, first_k, first_v, cos, sin, place, keys, values, sink_keys, sink_values, num_sinks):
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def window_step(q, k, v, turns, ring, sinks, *, position, seen_len) -> Tensor:
    """As `cached_attention.window_attention_step`; `seen_len` is not read: the device knows."""
    # a kernel has a fixed number of arguments; what stands for none is not read
    cos, sin = (q, q) if turns is None else (packed(turn, 2) for turn in turns)
    return _window(q, k, v, cos, sin, position, *ring, *_sinks(q, sinks), turns is not None)


def segment_step(q, k, v, beside, turns, segment, sinks, *, place) -> Tensor:
    """As `cached_attention.segment_attention_step`."""
    return _segment(q, k, v, *beside, *(packed(turn, 2) for turn in turns), place, *segment, *_sinks(q, sinks))


def _sinks(q: Tensor, sinks: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, int]:
    """Keys, values and how many; where there are none, something else with as many dimensions."""
    if sinks is None or sinks[0].shape[2] == 0:
        return q[:, None], q[:, None], 0
    return *sinks, sinks[0].shape[2]


def _refuses(q: Tensor, turns: Any, *pairs: tuple[Tensor, Tensor] | None) -> str | None:
    kept = pairs[0]
    assert kept is not None
    dim = kept[0].shape[-1]
    group_size = q.shape[-1] // dim // kept[0].shape[1]
    if dim > MAX_DIM or group_size > MAX_GROUP:
        return f"head dim {dim} with {group_size} queries a key; at most {MAX_DIM} with {MAX_GROUP}"
    if turns is not None and dim % 2:
        return f"head dim {dim} is odd"
    for keys, values in (pair for pair in pairs if pair is not None):
        if keys.stride() != values.stride() or keys.stride(3) != 1:
            return "keys and values that do not lie side by side, or not alike"
    return no_float64(q)


def _draw(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, *, kept_len: int, new: int,
    B: int, H: int, G: int, D: int, N: int, Z: int,
) -> tuple[tuple[Tensor, ...], list[Tensor], tuple[Tensor, Tensor], list[Any]]:  # fmt: skip
    """Projections that are slices of one product; new keys and values; cosines and sines; what is kept, and sinks.

    Kept keys are of one layer among several, and NaN from `kept_len` on.
    """
    mixed, *beside = normal(generator, device, dtype, (B, 1, (H + 2 * G) * D), *[(B, 1, G * D)] * (2 * new - 2))
    angles = torch.rand((1, D // 2), generator=generator, dtype=torch.float64)
    turns = angles.cos().to(device, dtype), angles.sin().to(device, dtype)
    pairs = [tuple(x[1] for x in normal(generator, device, dtype, *[(3, B, G, size, D)] * 2)) for size in (N, Z)]
    for kept in pairs[0]:
        kept[:, :, kept_len:] = torch.nan
    return mixed.split([H * D, G * D, G * D], -1), beside, turns, pairs


def _window_case(*, position: int, rotated: bool = True, large: bool = False, **sizes: int) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        inputs, _, turns, (ring, sinks) = _draw(generator, device, dtype, kept_len=position, new=1, **sizes)
        args = (*inputs, turns if rotated else None, ring, sinks if sizes["Z"] else None)
        return args, {"position": torch.tensor([position], device=device), "seen_len": sizes["N"] + 1}

    shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return Case(label=f"{shown}, position {position}{'' if rotated else ', not rotated'}", make=make, large=large)


def _segment_case(*, place: int, large: bool = False, **sizes: int) -> Case:
    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        inputs, beside, turns, (segment, sinks) = _draw(
            generator, device, dtype, kept_len=2 * place, new=2, G=sizes["H"], **sizes
        )
        args = (*inputs, tuple(beside), turns, segment, sinks)
        return args, {"place": torch.tensor([place], device=device)}

    shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return Case(label=f"{shown}, place {place}", make=make, large=large)


def _build(name: str, target: str, *, dim: int, group_size: int, **choice: Any) -> tuple[Build, ...]:
    settings = pick(name, size=dim, target=target)
    constants = {"R": group_size, "D": dim, "ROTATE": True, "BR": 16, "BS": settings.tile, "BD": dim, **choice}
    # tf32, which takes most registers
    constants |= dot_constants("tf32", interpret=False)
    kinds = {"position_ptr": "*i64", "scale": "fp32"}
    return (build_at(_kept_kernel, f"D {dim}, R {group_size}, tf32", settings, constants, kinds=kinds),)


WINDOW = Twin(
    name="window_attention_step",
    plain="ttbench.kernels.cached_attention:window_attention_step",
    run=window_step,
    refuses=lambda q, k, v, turns, ring, sinks, **rest: _refuses(q, turns, ring, sinks),
    label=lambda q, *args, **options: label(operands_name(q.dtype)),
    cases=(
        # two of three shares are empty
        _window_case(B=2, H=3, G=3, D=8, N=70, Z=3, position=0),
        _window_case(B=2, H=4, G=2, D=20, N=11, Z=0, position=7),
        # the ring is full, and the token sees the key that it writes over
        _window_case(B=2, H=2, G=2, D=20, N=11, Z=3, position=29),
        _window_case(B=1, H=4, G=1, D=16, N=9, Z=0, position=9, rotated=False),
        # several shares, of which one writes
        _window_case(B=1, H=2, G=1, D=64, N=140, Z=5, position=1100),
        _window_case(B=16, H=24, G=24, D=64, N=2047, Z=16, position=100_000, large=True),
        _window_case(B=1, H=32, G=8, D=128, N=4095, Z=0, position=4000, large=True),
    ),
    builds=lambda target: _build("window_attention_step", target, dim=128, group_size=4, NEW=1, SPLITS=SPLITS),
    launches=2,
)
SEGMENT = Twin(
    name="segment_attention_step",
    plain="ttbench.kernels.cached_attention:segment_attention_step",
    run=segment_step,
    refuses=lambda q, k, v, beside, turns, segment, sinks, **rest: _refuses(q, turns, segment, sinks),
    label=lambda q, *args, **options: label(operands_name(q.dtype)),
    cases=(
        _segment_case(B=2, H=3, D=8, N=8, Z=3, place=0),
        _segment_case(B=2, H=2, D=20, N=14, Z=0, place=4),
        _segment_case(B=1, H=2, D=64, N=128, Z=5, place=63),
        _segment_case(B=16, H=24, D=64, N=256, Z=16, place=77, large=True),
    ),
    builds=lambda target: (
        _build("segment_attention_step", target, dim=64, group_size=1, NEW=2, SPLITS=1) if target == "sm_90" else ()
    ),
)
