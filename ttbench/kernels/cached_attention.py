"""One query over keys and values that are kept up to a position which only the device knows.

    out = sum_s softmax_s(q . k[s] / sqrt(D)) v[s]

    cached_attention_step    all places of a cache up to the position
    window_attention_step    a ring of the N = window - 1 tokens before, that of position p at p % N; sinks; its own key
    segment_attention_step   the places of a segment so far; sinks; its own key and one beside it

Sinks are keys and values that every token sees besides, as Titans' persistent memory is. The last two rotate queries
and keys themselves, and write the new keys and values where they belong.

The fused twins read the position themselves, so that one captured graph serves every length. Plain torch reads a bucket
of places and masks those that hold nothing yet.
Letters: B batch, H heads, G key/value heads, S places, N places of a ring or of a segment, Z sinks, D head dim,
R = D / 2 rotated pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels import attention
from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.rotary import rotate_half


@op("cached_attention_step", None)
def cached_attention_step(
    q: Float[Tensor, "B H 1 D"],
    keys: Float[Tensor, "B G S D"],
    values: Float[Tensor, "B G S D"],
    *,
    position: Int[Tensor, "1"],
    seen_len: int,
    backend: str,
) -> Float[Tensor, "B H 1 D"]:
    """Attention of the token at `position`, whose own key and value are in the cache already.

    Args:
        position: the last place that holds something, on the device.
        seen_len: places that plain torch looks at, at least position + 1; more than there are: all.
        backend: of `attention.BACKENDS`; where it takes no mask, `seen_len` must be position + 1.
    """
    seen_len = min(seen_len, keys.shape[2])
    seen = (torch.arange(seen_len, device=q.device) <= position)[None, None, None]
    return attention.BACKENDS[backend].step(q, keys[:, :, :seen_len], values[:, :, :seen_len], seen)


@op("window_attention_step", None)
def window_attention_step(
    q: Float[Tensor, "B 1 _"],
    k: Float[Tensor, "B 1 _"],
    v: Float[Tensor, "B 1 _"],
    turns: tuple[Float[Tensor, "1 R"], Float[Tensor, "1 R"]] | None,
    ring: tuple[Float[Tensor, "B G N D"], Float[Tensor, "B G N D"]],
    sinks: tuple[Float[Tensor, "B G Z D"], Float[Tensor, "B G Z D"]] | None,
    *,
    position: Int[Tensor, "1"],
    seen_len: int,
) -> Float[Tensor, "B 1 _"]:
    """Attention to a window; the token's key and value are WRITTEN into the ring, over the oldest where it is full.

    Args:
        q, k, v: heads side by side, not rotated.
        turns: cosines and sines; None: no rotation.
        ring: keys and values of the tokens before.
        sinks: keys, as they are, and values; None: there are none.
        position: of the token, on the device.
        seen_len: places of the ring that plain torch looks at, at least min(position, N); more than there are: all.
    """
    dim = ring[0].shape[-1]
    q, new = _in_heads(q, turns, dim=dim), (_in_heads(k, turns, dim=dim), _in_heads(v, None, dim=dim))
    seen_len = min(seen_len, ring[0].shape[2])
    # places that no token has filled yet are not seen; sinks and the token's own key come last
    num_always = 1 if sinks is None else 1 + sinks[0].shape[2]
    places = torch.arange(seen_len + num_always, device=q.device)
    seen = ((places < position) | (places >= seen_len))[None, None, None]
    parts: list[Tensor] = []
    for i, part in enumerate(new):
        always = [part] if sinks is None else [sinks[i], part]
        parts.append(torch.cat((ring[i][:, :, :seen_len], *always), 2))
    out = attention.step(q, parts[0], parts[1], seen)
    for held, part in zip(ring, new, strict=True):
        held.index_copy_(2, position % held.shape[2], part)
    return out.transpose(1, 2).flatten(-2)


@op("segment_attention_step", None)
def segment_attention_step(
    q: Float[Tensor, "B 1 _"],
    k: Float[Tensor, "B 1 _"],
    v: Float[Tensor, "B 1 _"],
    beside: tuple[Float[Tensor, "B 1 _"], Float[Tensor, "B 1 _"]],
    turns: tuple[Float[Tensor, "1 R"], Float[Tensor, "1 R"]],
    segment: tuple[Float[Tensor, "B G N D"], Float[Tensor, "B G N D"]],
    sinks: tuple[Float[Tensor, "B G Z D"], Float[Tensor, "B G Z D"]],
    *,
    place: Int[Tensor, "1"],
) -> Float[Tensor, "B 1 _"]:
    """Attention inside a segment of N / 2 tokens, each of which has two keys; both are WRITTEN into the segment.

    Args:
        q, k, v: heads side by side, not rotated.
        beside: key and value of what stands beside the token, at its position and before it in the segment.
        turns: cosines and sines.
        segment: keys and values; what it holds from `2 * place` on is not read.
        sinks: keys, as they are, and values.
        place: of the token in its segment, on the device.
    """
    dim = segment[0].shape[-1]
    keys = [_in_heads(x, turns, dim=dim) for x in (beside[0], k)]
    values = [_in_heads(x, None, dim=dim) for x in (beside[1], v)]
    rows = torch.cat((2 * place, 2 * place + 1))
    parts: list[Tensor] = []
    for held, sink, pair in zip(segment, sinks, (keys, values), strict=True):
        held.index_copy_(2, rows, torch.cat(pair, 2))
        parts.append(torch.cat((sink, held), 2))
    # rows of the segment before are finite, and not seen
    seen = torch.arange(parts[0].shape[2], device=q.device) < sinks[0].shape[2] + 2 * (place + 1)
    out = attention.step(_in_heads(q, turns, dim=dim), parts[0], parts[1], seen[None, None, None])
    return out.transpose(1, 2).flatten(-2)


def _in_heads(
    x: Float[Tensor, "B 1 _"], turns: tuple[Float[Tensor, "1 R"], Float[Tensor, "1 R"]] | None, *, dim: int
) -> Float[Tensor, "B _ 1 D"]:
    """In heads, and rotated where there is something to rotate by."""
    x = x.unflatten(-1, (-1, dim)).transpose(1, 2)
    return x if turns is None else rotate_half(x, *turns)
