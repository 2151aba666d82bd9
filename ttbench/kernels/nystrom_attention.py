"""Gaussian-kernel attention between all tokens of a text, by a few landmarks: not causal.

    B = kernel of the 2 T points [Q; K] with themselves, positive definite      L = the landmarks, M of the points
    out = B[Q, L] (B[L, L] + ridge)^-1 B[L, K] v

which is the block [Q, K] of Nystroem's approximation of B, in time and memory that grow with T M. The kernel matrix of
queries and keys alone is not symmetric; as a block of B it inherits the bound of the symmetric case. With every point a
landmark it is exact, but for the ridge (an error of at most `ridge` in the spectral norm) and the inverse.

The inverse is a fixed number of steps of Newton-Schulz kind, matrix products only,

    V <- V (13 - K V (15 - K V (7 - K V))) / 4,     K = d (B[L, L] + ridge) d,   d = its row sums to the power -1/2

K has eigenvalues in (0, 1], so it starts from V = K. Each step brings an eigenvalue that is still far from inverted
nearer by a factor of 13/4: few steps are one more regulariser.

Source: Chen et al. 2021, Skyformer, arXiv 2111.00035, equations 4 to 6 and section 4.4; the steps are those of the
authors' code (github.com/pkuzengqi/Skyformer, 1a677cb), which takes 6 and a ridge of 0.1. Departure: that code starts
from K over the largest column sum of the whole batch, so its rows depend on their neighbours; ours do not.
Letters: B batch, H heads, T tokens, D head dim, M landmarks.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels.dispatch.choice import op
from ttbench.kernels.gaussian_attention import lift


def reference(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    landmarks: Int[Tensor, "M"],
    *,
    ridge: float,
    steps: int,
) -> Float[Tensor, "B H T D"]:
    """With the matrix of all 2 T points written out; `landmarks` are places in [Q; K]."""
    num_tokens, points = q.shape[2], torch.cat((q, k), 2)
    squares = (points[:, :, :, None] - points[:, :, None]).square().sum(-1)
    kernel = (-squares / (2 * math.sqrt(q.shape[-1]))).exp()  # [B, H, 2 T, 2 T]
    columns = kernel[..., landmarks]
    found = columns @ inverse(columns[:, :, landmarks], ridge=ridge, steps=steps) @ columns.mT
    return found[:, :, :num_tokens, num_tokens:] @ v


@op("nystrom_attention", "chunked")
def chunked(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B H T D"],
    v: Float[Tensor, "B H T D"],
    landmarks: Int[Tensor, "M"],
    *,
    ridge: float,
    steps: int,
) -> Float[Tensor, "B H T D"]:
    """As `reference`, in float32 or better, from the right to the left: nothing is wider than T * M."""
    dtype, points = q.dtype, torch.cat((q, k), 2)[:, :, landmarks]
    of_landmarks, of_queries, of_keys = (_gaussian(x, points) for x in (points, q, k))
    inverted = inverse(of_landmarks, ridge=ridge, steps=steps)
    return (of_queries @ (inverted @ (of_keys.mT @ v.to(inverted.dtype)))).to(dtype)


def inverse(kernel: Float[Tensor, "... M M"], *, ridge: float, steps: int) -> Float[Tensor, "... M M"]:
    """Approximate inverse of `kernel` + ridge, for a positive semidefinite matrix of positive numbers."""
    one = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    kernel = kernel + ridge * one
    d = kernel.sum(-1, keepdim=True).rsqrt()
    K = d * kernel * d.mT
    V = K
    for _ in range(steps):
        KV = K @ V
        V = V @ (13 * one - KV @ (15 * one - KV @ (7 * one - KV))) / 4
    return d * V * d.mT


def _gaussian(x: Float[Tensor, "... T D"], y: Float[Tensor, "... M D"]) -> Float[Tensor, "... T M"]:
    left, right = lift(x, y)
    return (left @ right.mT).exp()
