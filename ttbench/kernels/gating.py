"""Products of per-token gates inside a chunk, and what momentum and forgetting make of them.

With e_j = eta_1 .. eta_j and B_j = keep_1 .. keep_j, the recurrence S_j = eta_j S_{j-1} - theta_j u_j,
M_j = keep_j M_{j-1} + S_j is

    M_j = B_j M_0 + f_j S_0 - sum_{i <= j} A_ji u_i        S_j = e_j S_0 - sum_{i <= j} (e_j / e_i) theta_i u_i

    f_j = sum_{l <= j} (B_j / B_l) e_l                     A_ji = theta_i sum_{l = i..j} (B_j / B_l) (e_l / e_i)

The ratios are products of gates, made as exponentials of segment sums of their logarithms: nothing is divided, nothing
overflows, and gates of exactly 0 and 1 are exact. Letters: B batch, H heads, N chunks, C tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixes:
    """What the gates of a chunk say about its tokens, apart from any weights. Leading dimensions: B, H, maybe N."""

    A: Float[Tensor, "... J C"]  # of M_j in u_i, for J places j of the chunk: all C, or a step's own
    B: Float[Tensor, "... J 1"]  # of M_j in M_0
    f: Float[Tensor, "... J 1"]  # of M_j in S_0
    last_momentum: Float[Tensor, "... C 1"]  # of S_C in u_i
    last_decay: Float[Tensor, "... 1 1"]  # of S_C in S_0

    def chunk(self, n: int) -> Mixes:
        """The n-th of many chunks, [B, H, N, ...]."""
        return Mixes(
            A=self.A[:, :, n],
            B=self.B[:, :, n],
            f=self.f[:, :, n],
            last_momentum=self.last_momentum[:, :, n],
            last_decay=self.last_decay[:, :, n],
        )


def products(log_gates: Float[Tensor, "... C"]) -> Float[Tensor, "... C C"]:
    """[j, i] = product of the gates i + 1 .. j; 1 on the diagonal, 0 above it. A log of -inf (gate 0) is exact."""
    size = log_gates.shape[-1]
    later = torch.ones(size, size, dtype=torch.bool, device=log_gates.device).tril(-1)
    sums = torch.where(later, log_gates[..., :, None], 0).cumsum(-2)
    return sums.exp().tril()


def mix(gates: Float[Tensor, "... C 3"]) -> Mixes:
    """The coefficients of the closed forms, from the gates of the tokens of a chunk."""
    theta, log_eta, log_keep = gates.unbind(-1)
    momentum, kept = products(log_eta), products(log_keep)
    e = log_eta.cumsum(-1).exp()[..., None]
    return Mixes(
        A=(kept @ momentum) * theta[..., None, :],
        B=log_keep.cumsum(-1).exp()[..., None],
        f=kept @ e,
        last_momentum=(momentum[..., -1, :] * theta)[..., None],
        last_decay=e[..., -1:, :],
    )
