"""Which ops have a fused twin. One line each; nothing here imports Triton before a twin is asked for."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Mapping

from ttbench.kernels.dispatch.twin import Twin

# op, as it stands in kernel_path -> where its twin is
FUSED: Mapping[str, str] = {
    "cached_attention_step": "ttbench.kernels.fused.attention.attention_twin:STEP",
    "gated_norm": "ttbench.kernels.fused.shared.norm_twin:GATED",
    "memory_gate": "ttbench.kernels.fused.shared.norm_twin:MEMORY",
    "memory_inputs": "ttbench.kernels.fused.shared.inputs_twin:MEMORY",
    "memory_recall_step": "ttbench.kernels.fused.neural_memory_recall:STEP",
    "neural_memory": "ttbench.kernels.fused.neural_memory_twin:PREFILL",
    "neural_memory_step": "ttbench.kernels.fused.neural_memory_twin:STEP",
    "residual_norm": "ttbench.kernels.fused.shared.norm_twin:RESIDUAL",
    "rotate_and_keep_step": "ttbench.kernels.fused.shared.inputs_twin:KEEP",
    "segment_attention_step": "ttbench.kernels.fused.attention.window_twin:SEGMENT",
    "selective_scan": "ttbench.kernels.fused.state_space.selective_scan_twin:PREFILL",
    "selective_scan_step": "ttbench.kernels.fused.state_space.selective_scan_twin:STEP",
    "short_conv": "ttbench.kernels.fused.shared.short_conv_twin:TWIN",
    "ssd": "ttbench.kernels.fused.state_space.ssd_twin:PREFILL",
    "ssd_step": "ttbench.kernels.fused.state_space.ssd_twin:STEP",
    "swiglu": "ttbench.kernels.fused.shared.norm_twin:SWIGLU",
    "ttt_inputs": "ttbench.kernels.fused.shared.inputs_twin:TTT",
    "ttt_linear": "ttbench.kernels.fused.ttt_linear_twin:PREFILL",
    "ttt_linear_step": "ttbench.kernels.fused.ttt_linear_twin:STEP",
    "ttt_mlp": "ttbench.kernels.fused.ttt_mlp_twin:PREFILL",
    "ttt_mlp_step": "ttbench.kernels.fused.ttt_mlp_twin:STEP",
    "window_attention_step": "ttbench.kernels.fused.attention.window_twin:WINDOW",
}


@functools.cache
def absent() -> str | None:
    """Why no twin can run on this machine; None where one can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return None


@functools.cache
def load_twin(name: str) -> Twin:
    """The twin of an op of `FUSED`; imports Triton."""
    module, _, attribute = FUSED[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
