"""Rotary position embedding, and what a step of attention does with the rotated: keys and values go to the cache.

Source: Su et al. 2021, RoFormer. Letters: B batch, H heads, G key/value heads, T tokens, S places, D head dim,
R = D / 2 rotated pairs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels.dispatch.choice import op


def rotate_half(
    x: Float[Tensor, "... D"], cos: Float[Tensor, "..."], sin: Float[Tensor, "..."]
) -> Float[Tensor, "... D"]:
    """Rotary embedding on pairs (x[i], x[i + D/2]): the layout of Llama in Hugging Face naming.

    `cos` and `sin` have R = D / 2 numbers in the last dimension and broadcast to the others of `x`.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


@op("rotate_and_keep_step", None)
def rotate_and_keep_step(
    q: Float[Tensor, "B 1 _"],
    k: Float[Tensor, "B 1 _"],
    v: Float[Tensor, "B 1 _"],
    turns: tuple[Float[Tensor, "1 R"], Float[Tensor, "1 R"]] | None,
    keys: Float[Tensor, "B G S D"],
    values: Float[Tensor, "B G S D"],
    *,
    position: Int[Tensor, "1"],
) -> Float[Tensor, "B H 1 D"]:
    """Queries of one token, in heads and rotated; its key and value are WRITTEN into `keys` and `values`.

    Args:
        q, k, v: heads side by side.
        turns: cosines and sines; None: no rotation.
        position: where the key and value go, on the device.
    """
    q, k, v = (x.unflatten(-1, (-1, keys.shape[-1])).transpose(1, 2) for x in (q, k, v))
    if turns is not None:
        q, k = rotate_half(q, *turns), rotate_half(k, *turns)
    keys.index_copy_(2, position, k)
    values.index_copy_(2, position, v)
    return q
