"""The product inside SwiGLU: silu(gate) * up. Source: Shazeer 2020, "GLU variants improve Transformer"."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op


@op("swiglu", None)
def swiglu(gate: Float[Tensor, "*S"], up: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """silu(gate) * up, element by element."""
    return F.silu(gate) * up
