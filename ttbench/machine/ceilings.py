"""The ceilings of a machine: how fast its memory and its arithmetic can be at best, the two lines of a roofline.

    read     bytes/s of a pass over a buffer far larger than any cache: the best of a sum, a maximum and a matrix-vector
             product, since each is held back by something else on some machine
    copy     bytes/s of copying such a buffer, what is read and what is written both counted
    matmul   FLOP/s of a square matrix product in one dtype, the best of some sizes; a multiply-add is two FLOP
    node     s that one kernel costs inside a CUDA graph, with nothing to compute; None on a CPU

A ceiling is the best of many repeats, never a mean. They are measured once for a machine, device, dtype, number of
threads and torch, and kept in the user's cache folder. On a busy machine they come out too low: those that were taken
while other programs ran are taken again in a quieter time, and of both the higher stays.

Source of the model: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttbench.errors import CacheError
from ttbench.machine import measure
from ttbench.machine.devices import torch_device, torch_dtype
from ttbench.machine.user_cache import cache_folder, write_note
from ttbench.types import canonical_json, digest

VERSION = 1  # of how they are measured; bumped when they would come out otherwise
BUFFER_BYTES = {"cpu": 256 * 1024**2, "cuda": 2 * 1024**3}  # several times the largest cache of such a device
MATRIX_DIMS = {"cpu": (512, 1024), "cuda": (4096, 8192)}
CACHED_BYTES = 8 * 1024**2
GRAPH_NODES = 1000
LAUNCHES = 200
BUSY = 0.5  # load average for each core, from which on other programs are in the way


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much is done for one ceiling."""

    seconds: float = 0.15  # repeats go on for so long
    least: int = 4  # repeats
    most: int = 200  # repeats
    buffer_bytes: int | None = None  # None: the device's
    matrix_dims: tuple[int, ...] | None = None  # None: the device's


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What one device can do at best, in one dtype."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    matmul_flops_per_s: float
    graph_node_s: float | None  # None: no CUDA graphs there
    busy: bool  # whether other programs ran meanwhile, so that a quieter time may find more

    def merged(self, other: Ceilings) -> Ceilings:
        """Of both, the higher of each; busy where both were."""
        nodes = [value for value in (self.graph_node_s, other.graph_node_s) if value is not None]
        return Ceilings(
            read_bytes_per_s=max(self.read_bytes_per_s, other.read_bytes_per_s),
            copy_bytes_per_s=max(self.copy_bytes_per_s, other.copy_bytes_per_s),
            matmul_flops_per_s=max(self.matmul_flops_per_s, other.matmul_flops_per_s),
            graph_node_s=min(nodes, default=None),
            busy=self.busy and other.busy,
        )

    def least_s(self, *, flops: float, num_bytes: float) -> float:
        """Seconds below which no implementation can do so many FLOP and move so many bytes."""
        return max(flops / self.matmul_flops_per_s, num_bytes / self.read_bytes_per_s)


def ceilings(*, device: str, dtype: str, threads: int, budget: Budget | None = None) -> Ceilings:
    """The ceilings of a device, from the cache or measured now. Raises UsageError for an unknown device or dtype.

    Threads are part of what is known by; they are not set here.
    """
    key = {
        "version": VERSION,
        "machine": measure.machine_fingerprint(),
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "torch": importlib.metadata.version("torch"),
    }
    note = _place(key)
    kept = None if note is None else _recall(note, key)
    if kept is not None and (not kept.busy or is_busy(device)):
        return kept
    found = measured(device=device, dtype=dtype, budget=budget or Budget())
    found = found if kept is None else found.merged(kept)
    if note is not None:
        write_note(note, {"key": key, "ceilings": dataclasses.asdict(found)})
    return found


def is_busy(device: str) -> bool:
    """Whether other programs are in the way of a measurement on the processor now; a GPU hardly minds them."""
    load = measure.load_average()
    return torch_device(device).type == "cpu" and load is not None and load > BUSY * measure.num_cores()


def measured(*, device: str, dtype: str, budget: Budget) -> Ceilings:
    """The ceilings as they are now. Raises UsageError for an unknown device or dtype."""
    where, kind = torch_device(device), torch_dtype(dtype)
    busy = is_busy(device)
    with torch.inference_mode():
        read, copied = bandwidths(where, budget)
        found = Ceilings(
            read_bytes_per_s=read,
            copy_bytes_per_s=copied,
            matmul_flops_per_s=matmul_rate(where, kind, budget),
            graph_node_s=graph_node_seconds(where) if where.type == "cuda" else None,
            busy=busy or is_busy(device),
        )
    if where.type == "cuda":
        torch.cuda.empty_cache()
    return found


# Measuring


def best_seconds(call: Callable[[], object], device: torch.device, budget: Budget) -> float:
    """Wall seconds of the quickest of many calls, after one that is not counted; a GPU's own clock on a GPU."""
    call()
    _finish(device)
    timed = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    found: list[float] = []
    until = time.perf_counter() + budget.seconds
    while len(found) < budget.least or (len(found) < budget.most and time.perf_counter() < until):
        found.append(timed(call))
    return min(found)


def _cpu_seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _cuda_seconds(call: Callable[[], object]) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    call()
    ended.record()
    ended.synchronize()
    return began.elapsed_time(ended) / 1e3


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidths(device: torch.device, budget: Budget) -> tuple[float, float]:
    """Bytes/s of reading, and of copying, a buffer that no cache holds."""
    num_bytes = budget.buffer_bytes or min(BUFFER_BYTES[device.type], free_bytes(device) // 4)
    width = 4096
    source = torch.ones(num_bytes // 4 // width, width, device=device)
    size = source.numel() * source.element_size()
    vector = torch.ones(width, device=device)
    reads: tuple[Callable[[], Tensor], ...] = (source.sum, source.max, lambda: torch.mv(source, vector))
    read = size / min(best_seconds(call, device, budget) for call in reads)
    target = torch.empty_like(source)
    copied = 2 * size / best_seconds(lambda: target.copy_(source), device, budget)
    return read, copied


def free_bytes(device: torch.device) -> int:
    """Memory of the device that can still be taken."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else measure.available_bytes()


def matmul_rate(device: torch.device, dtype: torch.dtype, budget: Budget) -> float:
    """FLOP/s of the best square product, under the settings of torch that models run with (no TF32 by default)."""
    best = 0.0
    for dim in budget.matrix_dims or MATRIX_DIMS[device.type]:
        seconds = _product_seconds(dim, device, dtype, budget)
        best = max(best, 2 * dim**3 / seconds)
        if seconds > budget.seconds:
            # a dtype without units of its own, of which a larger product would take minutes
            break
    return best


def _product_seconds(dim: int, device: torch.device, dtype: torch.dtype, budget: Budget) -> float:
    # Random numbers: products of zeros draw less power, which lets a GPU run at a clock that no model sees.
    a, b = (torch.randn(dim, dim, device=device).to(dtype) for _ in range(2))
    out = torch.empty(dim, dim, device=device, dtype=dtype)
    return best_seconds(lambda: torch.mm(a, b, out=out), device, budget)


def by_dtype(device: str, budget: Budget) -> Iterator[tuple[str, float]]:
    """FLOP/s of a matrix product in each dtype that models run in. Raises UsageError for an unknown device."""
    where = torch_device(device)
    with torch.inference_mode():
        for name in ("bfloat16", "float16", "float32"):
            yield name, matmul_rate(where, torch_dtype(name), budget)


def cached_read_rate(device: torch.device, budget: Budget) -> float:
    """Bytes/s of reading a buffer of 8 MiB again and again, which the last cache of a GPU holds."""
    source = torch.ones(CACHED_BYTES // 4, device=device)
    out = torch.empty((), device=device)
    return CACHED_BYTES / best_seconds(lambda: torch.sum(source, dim=0, out=out), device, budget)


def launch_seconds(device: torch.device, budget: Budget) -> float:
    """Seconds for each of many small operations that are called one after another, as an eager step calls them."""
    one = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(LAUNCHES):
            one.add_(1)

    return best_seconds(launch, device, budget) / LAUNCHES


def graph_node_seconds(device: torch.device) -> float:
    """Seconds for each of many kernels in one CUDA graph that do next to nothing."""
    one = torch.zeros(1, device=device)
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        one.add_(1)
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_NODES):
            one.add_(1)
    return best_seconds(graph.replay, device, Budget()) / GRAPH_NODES


# What a call has to move


def streamed_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers that a step reads whole: all but tables of which it looks up a row or so.

    A table that is the output head too, as where both are tied, is read whole.
    """
    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    read = {
        id(tensor)
        for each in model.modules()
        if not isinstance(each, nn.Embedding)
        for tensor in (*each.parameters(recurse=False), *each.buffers(recurse=False))
    }
    held = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.nbytes for key, tensor in held.items() if key in read or key not in tables)


# Keeping


def _place(key: dict[str, Any]) -> Path | None:
    """Where ceilings are kept; None where there is no place to."""
    try:
        return cache_folder() / "ceilings" / f"{digest(canonical_json(key))}.json"
    except CacheError:
        return None


def _recall(note: Path, key: dict[str, Any]) -> Ceilings | None:
    """What a note says; None when there is none, or it is damaged or of something else."""
    try:
        data = json.loads(note.read_bytes())
        return Ceilings(**data["ceilings"]) if data["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
