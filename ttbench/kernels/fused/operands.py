"""What multiplies in the tensor cores."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from ttbench.kernels.dispatch.twin import interpreted

_TYPES = {"bf16": tl.bfloat16, "fp16": tl.float16, "tf32": tl.float32}
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "tf32"}


def operands_name(dtype: torch.dtype) -> str:
    """The operands of a model of `dtype`, as an argument of an operator and in kernel_path."""
    return _NAMES[dtype]


def dot_constants(name: str, *, interpret: bool | None = None) -> dict[str, Any]:
    """The constants OPERANDS and PRECISION of a kernel; float32 in the interpreter, whose bfloat16 is not to be used.

    Args:
        name: of `operands_name`.
        interpret: by default whatever this process does.
    """
    if interpreted() if interpret is None else interpret:
        return {"OPERANDS": tl.float32, "PRECISION": "ieee"}
    return {"OPERANDS": _TYPES[name], "PRECISION": "tf32"}


def exact_precision(target: str, *, interpret: bool | None = None) -> str:
    """The precision of a product that is as good as float32: three tf32 products, where the target has them."""
    interpret = interpreted() if interpret is None else interpret
    return "ieee" if interpret or target.startswith("gfx") else "tf32x3"


def label(name: str) -> str:
    """What stands in kernel_path."""
    return f"triton, {'interpreted, float32' if interpreted() else name}"
