"""Causal attention whose weights are a Gaussian kernel of queries and keys instead of a softmax of their products.

    C[t, s] = exp(-|q[t] - k[s]|^2 / (2 sqrt(D)))          out[t] = sum_s C[t, s] v[s] / Z[t],   s <= P + t

for the T newest of P + T keys. Z is the `normalisation`:

    none    1, the paper's: the kernel is at most 1 by itself. The sum grows with the keys that are near, so its bound
            is the number of keys times the largest value
    mean    the number of keys that t sees, P + t + 1: bounded by the largest value at any context, and a query that is
            far from all keys still reads next to nothing, but so does one key alone among many
    rows    sum_s C[t, s]: a weighted mean of the values, bounded by the largest. The query's factor exp(-|q|^2 / ...)
            cancels; what is left is softmax attention whose scores are (q . k - |k|^2 / 2) / sqrt(D)

All distances of a block are one product of lifted vectors, [q, -|q|^2/2, 1] . [k, 1, -|k|^2/2], in float32 or better.
`none` and `mean` go through blocks of queries and of keys, so that without gradients memory does not grow with T * S;
`rows` runs on torch's fused softmax attention over the lifted keys, which cannot divide by a sum that has underflowed.
Source: Chen et al. 2021, Skyformer, arXiv 2111.00035, equation 3; there not causal. Letters: B batch, H heads,
T queries, S keys, P past tokens, D head dim, E = D + 2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ttbench.kernels import attention
from ttbench.kernels.dispatch.choice import op

NORMALISATIONS = ("none", "mean", "rows")
# A block of the kernel matrix: 2 MiB a head in float32.
BLOCK_QUERIES, BLOCK_KEYS = 256, 2048


def reference(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S D"], *, normalisation: str
) -> Float[Tensor, "B H T D"]:
    """Token by token, as the formula above; q holds the last T of the S positions."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    outs = []
    for t in range(num_queries):
        seen = num_keys - num_queries + t + 1
        exponents = -(q[:, :, t, None] - k[:, :, :seen]).square().sum(-1) / (2 * math.sqrt(q.shape[-1]))
        weights = exponents.softmax(-1) if normalisation == "rows" else exponents.exp()
        if normalisation == "mean":
            weights = weights / seen
        outs.append(torch.einsum("bhs,bhsd->bhd", weights, v[:, :, :seen]))
    return torch.stack(outs, 2)


@op("gaussian_attention", "chunked")
def chunked(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S D"], *, normalisation: str
) -> Float[Tensor, "B H T D"]:
    """As `reference`, block by block."""
    if normalisation == "rows":
        return attention.chunked(*_as_softmax(q, k, v))[..., : v.shape[-1]].to(q.dtype)
    num_queries, num_past, dtype = q.shape[2], k.shape[2] - q.shape[2], q.dtype
    left, right = lift(q, k)
    v, outs = v.to(left.dtype), []
    for start in range(0, num_queries, BLOCK_QUERIES):
        stop = min(start + BLOCK_QUERIES, num_queries)
        rows, own = left[:, :, start:stop], slice(num_past + start, num_past + stop)
        out = (rows @ right[:, :, own].mT).exp().tril() @ v[:, :, own]
        for first in range(0, own.start, BLOCK_KEYS):
            before = slice(first, min(first + BLOCK_KEYS, own.start))
            out = out + (rows @ right[:, :, before].mT).exp() @ v[:, :, before]
        outs.append(out)
    out = torch.cat(outs, 2)
    if normalisation == "mean":
        out = out / torch.arange(num_past + 1, k.shape[2] + 1, device=q.device)[:, None]
    return out.to(dtype)


@op("gaussian_attention_step", "step")
def step(
    q: Float[Tensor, "B H 1 D"],
    k: Float[Tensor, "B H S D"],
    v: Float[Tensor, "B H S D"],
    seen: Bool[Tensor, "1 1 1 S"],
    *,
    normalisation: str,
) -> Float[Tensor, "B H 1 D"]:
    """One query over a buffer of which only the keys marked in the boolean mask `seen` exist; no copy of the keys."""
    dtype, exact = q.dtype, torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(exact), k.to(exact), v.to(exact)
    half_q, half_k = (torch.linalg.vector_norm(x, dim=-1).square() / 2 for x in (q, k))
    exponents = (q @ k.mT - half_q[..., None] - half_k[..., None, :]) / math.sqrt(q.shape[-1])
    exponents = exponents.masked_fill(~seen, -math.inf)
    weights = exponents.softmax(-1) if normalisation == "rows" else exponents.exp()
    if normalisation == "mean":
        weights = weights / seen.sum()
    return (weights @ v).to(dtype)


def lift(
    x: Float[Tensor, "... T D"], y: Float[Tensor, "... S D"]
) -> tuple[Float[Tensor, "... T E"], Float[Tensor, "... S E"]]:
    """Vectors whose products are the exponents -|x - y|^2 / (2 sqrt(D)), in float32 or better."""
    exact = torch.promote_types(x.dtype, torch.float32)
    x, y = (each.to(exact) * x.shape[-1] ** -0.25 for each in (x, y))
    half_x, half_y = (each.square().sum(-1, keepdim=True) / -2 for each in (x, y))
    return torch.cat((x, half_x, torch.ones_like(half_x)), -1), torch.cat((y, torch.ones_like(half_y), half_y), -1)


def _as_softmax(
    q: Float[Tensor, "B H T D"], k: Float[Tensor, "B H S D"], v: Float[Tensor, "B H S D"]
) -> tuple[Float[Tensor, "B H T E"], Float[Tensor, "B H S E"], Float[Tensor, "B H S E"]]:
    """Queries, keys and values, as wide as each other, whose softmax attention is Gaussian attention by rows.

    |q|^2 is the same for every key of a row, so it is left out: it would only cost digits.
    """
    left, right = lift(q, k)
    dim = v.shape[-1]
    left = torch.cat((left[..., :dim], torch.zeros_like(left[..., :1]), left[..., dim + 1 :]), -1)
    return left * math.sqrt(left.shape[-1]), right, F.pad(v.to(left.dtype), (0, right.shape[-1] - dim))
