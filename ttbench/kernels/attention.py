"""Causal softmax attention over a past and a present.

    out[t] = sum_s softmax_s(q[t] . k[s] / sqrt(D)) v[s],   s <= P + t

for the T newest of P + T keys. The fast form attends to the past and to the present apart, each by
scaled_dot_product_attention, and merges the two by their log-sum-exps, so that no [T, P + T] mask exists.
Letters: B batch, H heads, T queries, S keys, P past tokens, D head dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def reference(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S D"]
) -> Float[Tensor, "B H T D"]:
    """Token by token, as the formula above; q holds the last T of the S positions."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    out = torch.empty_like(q)
    for t in range(num_queries):
        seen = num_keys - num_queries + t + 1
        scores = torch.einsum("bhd,bhsd->bhs", q[:, :, t], k[:, :, :seen]) / math.sqrt(q.shape[-1])
        out[:, :, t] = torch.einsum("bhs,bhsd->bhd", scores.softmax(-1), v[:, :, :seen])
    return out


def chunked(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B G S D"], v: Float[Tensor, "B G S D"]
) -> Float[Tensor, "B H T D"]:
    """As `reference`, fused; k and v may have fewer heads G (grouped queries, H a multiple of G)."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    grouped = k.shape[1] != q.shape[1]
    if num_queries == num_keys:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    if num_queries == 1:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
    num_past = num_keys - num_queries
    if q.device.type != "cpu" or torch.is_grad_enabled():
        order = torch.arange(num_keys, device=q.device)
        mask = order <= order[num_past:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    if grouped:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    past, past_lse = flash(q, k[:, :, :num_past], v[:, :, :num_past])
    present, present_lse = flash(q, k[:, :, num_past:], v[:, :, num_past:], is_causal=True)
    # softmax over two sets = their own softmaxes, weighted by each set's share of the normaliser
    share = torch.sigmoid(past_lse - present_lse)[..., None].to(q.dtype)
    return past * share + present * (1 - share)


def step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B G S D"],
    v: Float[Tensor, "B G S D"],
    seen: Float[Tensor, "1 1 1 S"],
) -> Float[Tensor, "B H 1 D"]:
    """One query over a buffer of which only the keys marked in the boolean mask `seen` exist."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=k.shape[1] != q.shape[1])
