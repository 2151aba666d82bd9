"""The check for NaN and infinite logits, which every engine applies to everything that it returns."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttbench.errors import NotFiniteError

ADVICE = {
    "float16": "use --dtype float32 or bfloat16",
    "bfloat16": "use --dtype float32",
    "float32": "its weights or its code are at fault",
    "float64": "its weights or its code are at fault",
}


def require_finite(values: Tensor, *, dtype: str) -> None:
    """Raise NotFiniteError unless the greatest of `values` (logits, or what was made of them) is a finite number.

    NaN is greater than all in torch, so one reduction finds it. A logit of minus infinity is a token ruled out.
    """
    if values.numel() and not math.isfinite(float(values.amax())):
        raise NotFiniteError(f"the model's logits are not finite in {dtype}; {ADVICE[dtype]}")


class Watch:
    """Checks the logits of steps on an asynchronous device without waiting for it: the check is made in `settle`."""

    def __init__(self, *, dtype: str) -> None:
        self._dtype = dtype
        self._worst: Tensor | None = None

    def see(self, logits: Tensor) -> None:
        """Look at logits: now on a CPU, else when `settle` is called."""
        if logits.device.type == "cpu":
            require_finite(logits, dtype=self._dtype)
            return
        worst = logits.amax()
        self._worst = worst if self._worst is None else torch.maximum(self._worst, worst)

    def settle(self) -> None:
        """Judge what was seen; waits for the device. Raises NotFiniteError."""
        worst, self._worst = self._worst, None
        if worst is not None:
            require_finite(worst, dtype=self._dtype)
