"""What a fused twin declares: the op it stands for, what it takes, how exact it is, and how it is compiled.

A twin computes what the op's plain torch form computes, from the same arguments. Beside the function it declares

    cases    inputs at which `ttbench kernels verify` holds it against the reference
    builds   shapes at which `ttbench kernels build` compiles it for every target, without a GPU
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Inputs of one call: `make` draws them, tensors on `device` and in a model of `dtype`."""

    label: str  # for example "B 2, T 37, H 3, D 20, C 16, offset 5"
    make: Callable[[torch.Generator, torch.device, torch.dtype], tuple[tuple[Any, ...], dict[str, Any]]]
    large: bool = False  # a published size: too slow for the interpreter


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One compilation: a kernel with the types of its arguments and the values of its constants, at one size."""

    label: str  # for example "D 64, C 16, bfloat16"
    kernel: Any  # a triton.jit function
    signature: Mapping[str, str]  # argument -> "*fp32", "i32", "fp32" ...; constants are left out
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    max_spilled: int | None  # bytes; None: recorded, not gated


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A fused implementation of one op."""

    name: str  # the op, as it stands in kernel_path
    plain: str  # "module:function", the form in plain torch that it stands for
    run: Callable[..., Any]  # as `plain`
    refuses: Callable[..., str | None]  # why these arguments cannot be taken, in a few words; None: they can
    label: Callable[..., str]  # what stands in kernel_path, for example "triton, tf32"
    cases: tuple[Case, ...]
    builds: Callable[[str], tuple[Build, ...]]  # of a target of `build.TARGETS`
    launches: int = 1  # kernels that one call starts


def interpreted() -> bool:
    """Whether this process interprets its kernels: decided when Triton is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"
