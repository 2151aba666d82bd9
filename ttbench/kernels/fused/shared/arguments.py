"""What twins share about their arguments: views as rows, what none of them takes, and draws for their cases."""

from __future__ import annotations

import torch
from torch import Tensor


def no_float64(x: Tensor) -> str | None:
    """Why a kernel cannot take a tensor: kernels compute in float32, and a float64 model asks for more."""
    return "no twin for float64" if x.dtype == torch.float64 else None


def as_rows(x: Tensor) -> Tensor:
    """[R, D] with neighbouring elements in a row: a view where there is one."""
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def packed(x: Tensor, num_dims: int) -> Tensor:
    """`x` with its last `num_dims` dimensions side by side in memory: itself, where they are so already."""
    size = 1
    for dim in range(x.ndim - 1, x.ndim - 1 - num_dims, -1):
        if x.shape[dim] != 1 and x.stride(dim) != size:
            return x.contiguous()
        size *= x.shape[dim]
    return x


def normal(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, *shapes: tuple[int, ...]
) -> list[Tensor]:
    """Normal numbers, the same for every dtype but for rounding."""
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]
