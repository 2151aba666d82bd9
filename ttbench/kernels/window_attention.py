"""Causal softmax attention over the last W tokens only, the query's own among them.

    out[t] = sum_s softmax_s(q[t] . k[s] / sqrt(D)) v[s],   P + t - W < s <= P + t

for the T newest of P + T keys. `num_sinks` keys may stand before them, which every query sees besides its window, as
Titans' persistent memory is seen (the name is from Xiao et al. 2023, arXiv 2309.17453). The fast form takes queries by
blocks of about W, so that work and memory grow with T W and not with T (P + T). The window counts as in Mistral (Jiang
et al. 2023, arXiv 2310.06825, section 2) and in transformers' `sliding_window`.
Letters: B batch, H heads, T queries, S keys, P past tokens, D head dim, W window.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels import attention
from ttbench.kernels.dispatch.choice import op

# Queries of a block: fewer than this are not worth a call of their own.
LEAST_QUERIES = 64


def reference(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    *,
    window: int,
    num_sinks: int = 0,
) -> Float[Tensor, "B H T D"]:
    """Token by token, as the formula above; q holds the last T of the S positions, sinks the first ones."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    outs = []
    for t in range(num_queries):
        stop = num_keys - num_queries + t + 1
        seen = [*range(num_sinks), *range(max(num_sinks, stop - window), stop)]
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, seen]) / math.sqrt(q.shape[-1])
        outs.append(torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v[:, :, seen]))
    return torch.stack(outs, 2)


@op("window_attention", "chunked")
def chunked(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    *,
    window: int,
    num_sinks: int = 0,
) -> Float[Tensor, "B H T D"]:
    """As `reference`, fused; k and v may have fewer heads G (grouped queries, H a multiple of G)."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_keys - num_sinks <= window:
        return attention.chunked(q, k, v)
    num_past, block_len, outs = num_keys - num_queries, max(window, LEAST_QUERIES), []
    for start in range(0, num_queries, block_len):
        stop = min(start + block_len, num_queries)
        first, last = max(num_sinks, num_past + start + 1 - window), num_past + stop
        queries, keys = torch.arange(num_past + start, last, device=q.device), torch.arange(last, device=q.device)
        keys = torch.cat((keys[:num_sinks], keys[first:]))
        distance = queries[:, None] - keys
        near = (distance >= 0) & (distance < window)
        parts = [x[:, :, first:last] for x in (k, v)]
        if num_sinks:
            parts = [torch.cat((x[:, :, :num_sinks], part), 2) for x, part in zip((k, v), parts, strict=True)]
        outs.append(attention.masked("attention", q[:, :, start:stop], parts[0], parts[1], near | (keys < num_sinks)))
    return torch.cat(outs, 2)
