"""What the twins of inner models share: ops that read tokens in mini-batches or chunks, of which some may be pending.

Letters: B batch, T tokens, H heads, D head dim, C mini-batch or chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ttbench.kernels.dispatch.trees import tensors
from ttbench.kernels.dispatch.twin import Case
from ttbench.kernels.fused.operands import label, operands_name

MAX_DIM, MAX_CHUNK = 128, 64


def operands_label(q, *args, operands=None, **rest) -> str:
    """What stands in kernel_path for an op whose operands are those of its model, or of its first argument."""
    return label(operands_name(operands or q.dtype))


def too_large(q: Tensor, state: Any, *, chunk_len: int, noun: str) -> str | None:
    """Why kernels cannot take inputs [..., D] with such a state and so many tokens to a chunk; None: they can."""
    dtype = next(tensors(state)).dtype
    if dtype != torch.float32:
        return f"no twin for {str(dtype).removeprefix('torch.')}"
    if q.shape[-1] > MAX_DIM:
        return f"head dim {q.shape[-1]} is over {MAX_DIM}"
    if chunk_len > MAX_CHUNK:
        return f"{noun} {chunk_len} is over {MAX_CHUNK}"
    return None


def refuses_ttt(q, k, v, lam, tau, norm_weight, norm_bias, initial_state, **rest) -> str | None:
    """Why the kernels of TTT cannot take these arguments; None: they can."""
    return too_large(q, initial_state, chunk_len=len(tau), noun="mini-batch")


def refuses_ttt_step(q, k, v, lam, tau, norm_weight, norm_bias, state, **rest) -> str | None:
    """As `refuses_ttt`, of one token, which is written into the state where it lies."""
    if not all(x.is_contiguous() for x in tensors(state)):
        return "the state is not contiguous"
    return refuses_ttt(q, k, v, lam, tau, norm_weight, norm_bias, state)


def scaled_normal(generator: torch.Generator, device: torch.device) -> Callable[..., Tensor]:
    """Draws float32 tensors of a shape and a `scale`."""

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(device, torch.float32)

    return normal


def draw_ttt(
    generator: torch.Generator, device: torch.device, dtype: torch.dtype, *, state: type[Any],
    pending: Mapping[str, float], rate: float, B: int, T: int, H: int, D: int, C: int, offset: int,
) -> tuple[tuple[Tensor, ...], Any]:  # fmt: skip
    """Inputs of TTT of the size that a model gives, and a state of which `offset` tokens are pending, the rest NaN.

    Args:
        state: class of the op's state.
        pending: its fields that hold a row for each token, and the size of their values.
        rate: the largest step size, times D.
    """
    normal = scaled_normal(generator, device)
    q, k, v = (normal(B, T, H, D).to(dtype).float() for _ in range(3))
    lam = (rate * torch.rand((B, T, H), generator=generator, dtype=torch.float64) / D).to(device, torch.float32)
    tau = (1 / torch.arange(1, C + 1, dtype=torch.float64)).to(device, torch.float32)
    shapes = state.shapes(batch_size=B, num_heads=H, dim=D, mini_batch_size=C)
    drawn = state(**{name: normal(*shape, scale=pending.get(name, 0.1)) for name, shape in shapes.items()})
    for name in pending:
        getattr(drawn, name)[:, :, offset:] = torch.nan
    return (q, k, v, lam, tau, 1 + normal(H, D, scale=0.1), normal(H, D, scale=0.1)), drawn


def inner_case(
    draw: Callable[..., tuple[tuple[Tensor, ...], Any]], *, large: bool = False, step: bool = False,
    options: Mapping[str, Any] | None = None, **sizes: int,
) -> Case:  # fmt: skip
    """Of one token (`step`) or more: inputs and a state that `draw` gives at `sizes`, and `options` of the op."""
    options = options or {}

    def make(generator: torch.Generator, device: torch.device, dtype: torch.dtype):
        inputs, state = draw(generator, device, dtype, **sizes)
        offset = sizes["offset"]
        place = {"place": torch.tensor([offset], device=device), "last": offset + 1 == sizes["C"]}
        return (*inputs, state), {**(place if step else {"offset": offset}), **options, "operands": dtype}

    shown = {**{name: size for name, size in sizes.items() if not (step and name == "T")}, **options}
    return Case(label=", ".join(f"{name} {value}" for name, value in shown.items()), make=make, large=large)
