"""Short causal convolutions over time, channel by channel, whose last inputs are kept and advanced in place.

    out[t] = sum_j weight[K - 1 - j] * x[t - j],   j = 0 .. K - 1

A layer has up to three of them, on inputs of their own or all on one; they share one buffer for what came before.
Letters: B batch, T tokens, C channels, K kernel size, S = K - 1 tokens kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op


@op("short_conv", None)
def short_conv(
    inputs: Sequence[Float[Tensor, "B T _"]],
    weights: Sequence[Float[Tensor, "_ 1 K"]],
    biases: Sequence[Float[Tensor, "_"]],
    tail: Float[Tensor, "B S _"] | None,
    *,
    silu: bool,
    residual: bool,
) -> tuple[Float[Tensor, "B T _"], ...]:
    """Outputs of all filters; `tail` is CHANGED IN PLACE. Differentiable; outputs alias nothing.

    Args:
        inputs: one for each filter, or a single one that all filters read.
        weights: `[:, 0, -1]` multiplies the current token.
        biases: of each filter, or none at all.
        tail: the last K - 1 inputs, the channels of all `inputs` side by side; None: zeros are before the first token
            and nothing is kept.
        silu: whether SiLU is applied to each output.
        residual: whether the input is added to each output, after it.
    """
    sizes = [x.shape[-1] for x in inputs]
    pasts = [None] * len(inputs) if tail is None else tail.split(sizes, -1)
    outs, lasts = [], []
    for i, weight in enumerate(weights):
        which = i if len(inputs) > 1 else 0
        padded = _padded(inputs[which], pasts[which], weight.shape[-1])
        out = _filtered(padded, weight[:, 0], biases[i] if biases else None)
        out = F.silu(out) if silu else out
        outs.append(inputs[which] + out if residual else out)
        lasts.append(padded[:, inputs[which].shape[1] :])
    if tail is not None:
        tail.copy_(torch.cat(lasts, -1) if len(inputs) > 1 else lasts[0])
    return tuple(outs)


def _padded(x: Tensor, past: Tensor | None, kernel_size: int) -> Tensor:
    """The inputs behind those that came before: a copy, so that the tail may be overwritten."""
    if past is None:
        past = x.new_zeros(x.shape[0], kernel_size - 1, x.shape[2])
    return torch.cat((past.to(x.dtype), x), dim=1)


def _filtered(padded: Tensor, weight: Float[Tensor, "C K"], bias: Tensor | None) -> Tensor:
    """K shifted products: on CPU several times faster than a grouped conv1d, and the same sum order for any T."""
    kernel_size = weight.shape[-1]
    num_tokens = padded.shape[1] - kernel_size + 1
    out = padded[:, kernel_size - 1 :] * weight[:, kernel_size - 1]
    for tap in range(kernel_size - 2, -1, -1):
        out = out + padded[:, tap : tap + num_tokens] * weight[:, tap]
    return out if bias is None else out + bias
