"""Singular value fine-tuning: one number per singular value of a matrix.

    W = U diag(S) V^T        r = min(m, n) singular values
    W' = U diag(S * z) V^T   z [r], the expert's

Two forms of the same idea, told apart everywhere:

    paper        z is what is trained, 1 at the start. Sun, Cetin and Tang 2025 (arXiv 2501.06252), section 3.
                 Departure: their list of settings starts z at 0.1, which would be a tenth of W; it fits p below.
    repository   p is what is trained, 0.1 at the start; z = sigmoid(p), and W' is rescaled by sum(S) / sum(S * z), so
                 that the nuclear norm stays that of W. SakanaAI/self-adaptive-llms at its last commit, 30 Jan 2025;
                 the paper mentions neither. Departure: p starts without the authors' noise of 0.01.

Letters: M rows, N columns, R = min(M, N).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Form = Literal["paper", "repository"]
FORMS: tuple[Form, ...] = ("paper", "repository")
# What is trained starts here, in every entry.
START: dict[Form, float] = {"paper": 1.0, "repository": 0.1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """W = U diag(S) Vt."""

    U: Float[Tensor, "M R"]
    S: Float[Tensor, "R"]  # descending, not negative
    Vt: Float[Tensor, "R N"]

    @property
    def nbytes(self) -> int:
        return self.U.nbytes + self.S.nbytes + self.Vt.nbytes


def decompose(weight: Float[Tensor, "M N"], *, dtype: torch.dtype) -> Decomposition:
    """The thin singular value decomposition, computed in float32 or better and held in `dtype`."""
    wide = weight.detach().to(torch.promote_types(dtype, torch.float32))
    U, S, Vt = torch.linalg.svd(wide, full_matrices=False)
    return Decomposition(U=U.to(dtype).contiguous(), S=S.to(dtype), Vt=Vt.to(dtype).contiguous())


def activate(trained: Float[Tensor, "R"], form: Form) -> Float[Tensor, "R"]:
    """z of what is trained; mixtures are taken of these."""
    return torch.sigmoid(trained) if form == "repository" else trained


def recompose(parts: Decomposition, z: Float[Tensor, "R"], form: Form) -> Float[Tensor, "M N"]:
    """W' of z, differentiable; in the repository's form with the nuclear norm of W. Raises nothing; z is not copied."""
    scaled = parts.S * z.to(parts.S.dtype)
    if form == "repository":
        scaled = scaled * (parts.S.sum() / scaled.sum())
    return (parts.U * scaled) @ parts.Vt
