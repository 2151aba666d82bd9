"""Attention of several tokens to a window whose keys and values lie in a ring: that of position p at p % (window - 1).

One token is `kernels.cached_attention.window_attention_step`. Sinks are keys and values that every token sees besides
its window. Everything is written in place.
Letters: B batch, H heads, G key/value heads, T tokens, N = window - 1 places, S sinks, D head dim.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels import window_attention


def attend(
    q: Float[Tensor, "B H T D"],
    new: tuple[Float[Tensor, "B G T D"], Float[Tensor, "B G T D"]],
    ring: tuple[Float[Tensor, "B G N D"], Float[Tensor, "B G N D"]] | None,
    *,
    position: Int[Tensor, "1"],
    window: int,
    read: int,
    sinks: tuple[Float[Tensor, "B G S D"], Float[Tensor, "B G S D"]] | None = None,
) -> Float[Tensor, "B H T D"]:
    """Attention of T tokens, which follow `read` others; their keys and values are written to the ring.

    Without a ring nothing is before the tokens, and nothing is kept. `position` is `read` on the device: once the ring
    is full, nothing but it knows where the tokens stand, so that a graph can replay the call.
    """
    num_tokens, size, parts = q.shape[2], window - 1, []
    # slots of the tokens before, oldest first, and of the new ones that are kept
    num_past = min(read, size)
    past = (position - num_past + torch.arange(num_past, device=q.device)) % size
    kept = torch.arange(max(0, num_tokens - size), num_tokens, device=q.device)
    for i, part in enumerate(new):
        before = [] if sinks is None else [sinks[i].expand(len(q), -1, -1, -1)]
        if ring is not None:
            before.append(ring[i][:, :, past])
            ring[i].index_copy_(2, (position + kept) % size, part[:, :, kept])
        parts.append(torch.cat((*before, part), 2) if before else part)
    num_sinks = 0 if sinks is None else sinks[0].shape[2]
    return window_attention.chunked(q, *parts, window=window, num_sinks=num_sinks)
