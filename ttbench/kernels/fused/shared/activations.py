"""Activations for kernels, in float32, without libdevice, which the interpreter lacks. Nothing overflows."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    small = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, small) / (1.0 + small)


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def gelu(x):
    """The tanh form: 0.5 x (1 + tanh(u)) = x sigmoid(2 u)."""
    return x * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def softplus(x):
    """max(x, 0) + log(1 + exp(-|x|)), the logarithm as 2 atanh(y / (2 + y)), whose series is exact for small y too."""
    y = tl.exp(-tl.abs(x))
    s = y / (2.0 + y)
    t = s * s
    series = 1.0 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t / 13)))))
    return tl.maximum(x, 0.0) + 2.0 * s * series
