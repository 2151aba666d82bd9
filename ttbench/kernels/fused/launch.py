"""The committed table of launch settings: warps, stages and tiles of every kernel, by target and size.

There is no tuning at run time: it would corrupt states that are written in place (triton issue 6547) and cannot be
captured in a graph (triton issue 10596).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ttbench.kernels.dispatch.twin import Build

# What kernels are compiled for ahead of time, and the shared memory that one program may have there, in bytes.
# Sources: NVIDIA's tuning guides of Ampere and Hopper (163 and 227 KB); AMD CDNA 3 ISA (64 KB of LDS).
SHARED_BYTES: Mapping[str, int] = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
NEWEST = "sm_90"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Settings of one kernel at one size."""

    num_warps: int
    num_stages: int = 2
    tile: int = 0  # rows or keys of a tile; 0 where the kernel has none


# kernel -> target -> largest size (head dim, unless the kernel says otherwise) that the settings are for
Sizes = Mapping[int, Launch]
_TTT_STEP: Sizes = {64: Launch(num_warps=4, tile=32), 128: Launch(num_warps=4, tile=32)}
_TTT_PREFILL: Sizes = {64: Launch(num_warps=4, num_stages=1), 128: Launch(num_warps=8, num_stages=1)}
_MLP_STEP: Sizes = {64: Launch(num_warps=4, tile=32), 128: Launch(num_warps=8, tile=32)}
_MLP_PREFILL: Sizes = {128: Launch(num_warps=8, num_stages=1, tile=64)}
_MEMORY_STEP: Sizes = {128: Launch(num_warps=8, num_stages=1, tile=16)}
_MEMORY_PREFILL: Sizes = {128: Launch(num_warps=8, num_stages=1, tile=32)}
_GATES: Sizes = {64: Launch(num_warps=1, num_stages=1)}  # by chunk
# tile: hidden units of a memory of two layers, rows of a matrix
_RECALL: Sizes = {128: Launch(num_warps=4, num_stages=1, tile=32)}
# of any size: what is read once, element by element, needs no more than a few warps
_ANY = 1 << 30
# tile: keys
_CACHE: Sizes = {64: Launch(num_warps=4, tile=64), _ANY: Launch(num_warps=4, tile=32)}
# with two stages and tf32 a thread spills up to 550 bytes
_RING: Sizes = {_ANY: Launch(num_warps=4, num_stages=1, tile=32)}


def _everywhere(sizes: Sizes) -> Mapping[str, Sizes]:
    """The same settings on every target."""
    return dict.fromkeys(SHARED_BYTES, sizes)


TABLE: Mapping[str, Mapping[str, Sizes]] = {
    "neural_gates": {"sm_80": _GATES, "sm_90": _GATES, "gfx942": _GATES},
    "neural_matrix": {"sm_80": _MEMORY_PREFILL, "sm_90": _MEMORY_PREFILL, "gfx942": _MEMORY_PREFILL},
    "neural_matrix_step": {"sm_80": _MEMORY_STEP, "sm_90": _MEMORY_STEP, "gfx942": _MEMORY_STEP},
    "neural_network": {
        "sm_80": {128: Launch(num_warps=8, num_stages=1, tile=16)},
        "sm_90": _MEMORY_PREFILL,
        "gfx942": {128: Launch(num_warps=4, num_stages=1, tile=16)},
    },
    "neural_recall": _everywhere(_RECALL),
    "neural_network_step": {"sm_80": _MEMORY_STEP, "sm_90": _MEMORY_STEP, "gfx942": _MEMORY_STEP},
    "ttt_linear_step": {"sm_80": _TTT_STEP, "sm_90": _TTT_STEP, "gfx942": _TTT_STEP},
    "ttt_mlp": {
        "sm_80": _MLP_PREFILL,
        "sm_90": _MLP_PREFILL,
        "gfx942": {128: Launch(num_warps=8, num_stages=1, tile=32)},
    },
    "ttt_mlp_step": {"sm_80": _MLP_STEP, "sm_90": _MLP_STEP, "gfx942": _MLP_STEP},
    "ttt_linear": {"sm_80": _TTT_PREFILL, "sm_90": _TTT_PREFILL, "gfx942": _TTT_PREFILL},
    "norm": _everywhere({1024: Launch(num_warps=4), 4096: Launch(num_warps=8), _ANY: Launch(num_warps=16)}),
    "swiglu": _everywhere({_ANY: Launch(num_warps=4, tile=1024)}),
    # size: tokens, 1 or more; tile: tokens
    "short_conv": _everywhere({1: Launch(num_warps=4), _ANY: Launch(num_warps=4, tile=16)}),
    "inputs": _everywhere({_ANY: Launch(num_warps=1)}),
    # size: of the state of a channel or of a row; tile: channels or rows
    "selective_scan_step": _everywhere({16: Launch(num_warps=4, tile=64), _ANY: Launch(num_warps=4, tile=16)}),
    "selective_scan": _everywhere({16: Launch(num_warps=1, tile=16), _ANY: Launch(num_warps=4, tile=16)}),
    "ssd_step": _everywhere({_ANY: Launch(num_warps=4, tile=32)}),
    "ssd": {
        **_everywhere({_ANY: Launch(num_warps=8, tile=32)}),
        "gfx942": {_ANY: Launch(num_warps=4, num_stages=1, tile=32)},
    },
    "cached_attention_step": {
        **_everywhere(_CACHE),
        "sm_80": {64: _CACHE[64], _ANY: Launch(num_warps=4, num_stages=1, tile=32)},
    },
    "segment_attention_step": _everywhere(_RING),
    "window_attention_step": _everywhere(_RING),
}


def build_at(
    kernel: Any,
    label: str,
    settings: Launch,
    constants: Mapping[str, Any],
    *,
    pointer: str = "*fp32",
    kinds: Mapping[str, str] | None = None,
    max_spilled: int = 0,
) -> Build:
    """How a kernel is compiled ahead of time.

    Args:
        kernel: a triton.jit function.
        constants: its constants; those that it does not have are left out.
        pointer: type of its arguments `..._ptr`; all others are whole numbers of 32 bits.
        kinds: types of arguments of another kind.
    """
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {
        name: (kinds or {}).get(name, pointer if name.endswith("_ptr") else "i32")
        for name in kernel.arg_names
        if name not in constants
    }
    return Build(
        label=label,
        kernel=kernel,
        signature=signature,
        constants=constants,
        num_warps=settings.num_warps,
        num_stages=settings.num_stages,
        max_spilled=max_spilled,
    )


def pick(kernel: str, *, size: int, target: str) -> Launch:
    """Settings of `kernel` at `size` on `target`: those of the smallest entry that holds it.

    Raises:
        KeyError: no entry holds it, which the twin's `refuses` must have said before.
    """
    sizes = TABLE[kernel][target]
    return sizes[min(most for most in sizes if most >= size)]


@functools.cache
def target_of(device: torch.device) -> str:
    """The target whose entries serve a device: that of its own generation, or the nearest older one."""
    if device.type != "cuda":
        return NEWEST  # the interpreter: any will do
    if torch.version.hip is not None:
        return "gfx942"
    return "sm_90" if torch.cuda.get_device_capability(device) >= (9, 0) else "sm_80"
