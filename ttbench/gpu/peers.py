"""The stage of peers: one layer's operation as others wrote it, at the sizes of 1.3B models, where it is installed.

    torch                     scaled_dot_product_attention under each of its back ends, decode and prefill
    fla                       fused_chunk_ttt_linear, prefill of TTT-Linear
    mamba_ssm                 selective_state_update and mamba_chunk_scan_combined: its Triton files alone, since the
                              package itself imports a compiled extension, which need not be there

Nothing is fetched. The TTT authors' own Triton decode is in no package, so it is told as absent.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ttbench.gpu.lines import Lines
from ttbench.gpu.stage import Subject
from ttbench.machine.ceilings import Budget, best_seconds
from ttbench.machine.devices import torch_device, torch_dtype

BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
# Heads and their width in a layer of a 1.3B model; of a test on a CPU.
_HEADS, _DIM = {"cuda": 32, "cpu": 2}, {"cuda": 64, "cpu": 16}
_TOKENS = {"cuda": 8192, "cpu": 32}
_STATE, _CHUNK = 128, 256

Operation = tuple[str, dict[str, Any], Callable[[], object]]


def peers(subject: Subject, lines: Lines) -> None:
    """Time every operation that is there."""
    device, dtype = torch_device(subject.device), torch_dtype(subject.dtype)
    budget = Budget(seconds=0.3) if device.type == "cuda" else Budget(seconds=0.01, least=2)
    makers = (attention, ttt_linear, selective_scan, ssd)
    for make in makers:
        if lines.left <= 0:
            return
        try:
            operations = list(make(device, dtype))
        except (ImportError, AttributeError) as error:
            lines.write("absent", make.__name__, why=f"{type(error).__name__}: {error}")
            continue
        for name, shape, call in operations:
            try:
                with torch.inference_mode():
                    lines.write("measured", "peer", name=name, seconds=best_seconds(call, device, budget), **shape)
            # Whatever other people's kernels raise, on shapes that they may not take, is their answer.
            except Exception as error:
                lines.failed("peer", error, name=name, **shape)
    lines.write("absent", "TTT authors' Triton decode", why="it is in no package")


def attention(device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """Softmax attention of torch: one query over a cache, and a causal prompt."""
    heads, dim, length = _HEADS[device.type], _DIM[device.type], _TOKENS[device.type]
    for phase, num_queries in (("decode", 1), ("prefill", length)):
        q = torch.randn(1, heads, num_queries, dim, device=device, dtype=dtype)
        k, v = (torch.randn(1, heads, length, dim, device=device, dtype=dtype) for _ in range(2))
        for backend in BACKENDS:
            shape = {"heads": heads, "head_dim": dim, "tokens": length, "phase": phase}
            yield f"torch sdpa {backend.name}", shape, _attend(q, k, v, backend, causal=phase == "prefill")


def _attend(q: Tensor, k: Tensor, v: Tensor, backend: SDPBackend, *, causal: bool) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return call


def ttt_linear(device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """flash-linear-attention's TTT-Linear, prefill. Raises ImportError."""
    fused = importlib.import_module("fla.ops.ttt").fused_chunk_ttt_linear
    heads, dim, length = _HEADS[device.type], _DIM[device.type], _TOKENS[device.type]
    q, k, v = (torch.randn(1, length, heads, dim, device=device, dtype=dtype) for _ in range(3))
    weight = torch.ones(heads, dim, device=device, dtype=dtype)
    bias, eta = torch.zeros_like(weight), torch.full((1, length, heads, 1), 1 / dim, device=device, dtype=dtype)
    shape = {"heads": heads, "head_dim": dim, "tokens": length, "phase": "prefill"}
    yield "fla fused_chunk_ttt_linear", shape, lambda: fused(q, k, v, weight, bias, eta, chunk_size=16)


def selective_scan(device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """mamba_ssm's decoding step of Mamba-2, one token. Raises ImportError."""
    update = _mamba_ops("mamba_ssm.ops.triton.selective_state_update").selective_state_update
    heads, dim = 2 * _HEADS[device.type], _DIM[device.type]
    for batch_size in (1, 64):
        state = torch.zeros(batch_size, heads, dim, _STATE, device=device)
        x, dt = (torch.randn(batch_size, heads, dim, device=device, dtype=dtype) for _ in range(2))
        a = -torch.ones(heads, dim, _STATE, device=device)
        b, c = (torch.randn(batch_size, 1, _STATE, device=device, dtype=dtype) for _ in range(2))
        shape = {"heads": heads, "head_dim": dim, "batch_size": batch_size, "phase": "decode"}
        yield "mamba_ssm selective_state_update", shape, _step(update, state, x, dt, a, b, c)


def _step(update: Callable[..., object], *tensors: Tensor) -> Callable[[], object]:
    return lambda: update(*tensors, dt_softplus=True)


def ssd(device: torch.device, dtype: torch.dtype) -> Iterator[Operation]:
    """mamba_ssm's scan of Mamba-2 over a prompt. Raises ImportError."""
    scan = _mamba_ops("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    heads, dim, length = 2 * _HEADS[device.type], _DIM[device.type], _TOKENS[device.type]
    x = torch.randn(1, length, heads, dim, device=device, dtype=dtype)
    dt, a = torch.rand(1, length, heads, device=device), -torch.ones(heads, device=device)
    b, c = (torch.randn(1, length, 1, _STATE, device=device, dtype=dtype) for _ in range(2))
    shape = {"heads": heads, "head_dim": dim, "tokens": length, "phase": "prefill"}
    yield "mamba_ssm mamba_chunk_scan_combined", shape, lambda: scan(x, dt, a, b, c, _CHUNK)


def _mamba_ops(module: str) -> ModuleType:
    """A module of mamba_ssm without the package's own imports. Raises ImportError."""
    spec = importlib.util.find_spec("mamba_ssm")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("mamba_ssm is not installed")
    if "mamba_ssm" not in sys.modules:
        empty = ModuleType("mamba_ssm")
        empty.__path__ = list(spec.submodule_search_locations)
        sys.modules["mamba_ssm"] = empty
    return importlib.import_module(module)
