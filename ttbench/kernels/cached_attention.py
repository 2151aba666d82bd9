"""One query over the keys and values of a cache that is filled up to a position which only the device knows.

    out = sum_s softmax_s(q . k[s] / sqrt(D)) v[s],   s <= position

The fused twin reads the length itself, so that one captured graph serves every length. Plain torch reads a bucket of
places and masks those that hold nothing yet.
Letters: B batch, H heads, G key/value heads, S places, D head dim.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.kernels import attention
from ttbench.kernels.dispatch.choice import op


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
