"""Bytes on a GPU, from torch's allocator: what tensors hold, what the allocator keeps for them, what graphs keep apart.

    allocated    bytes of live tensors
    reserved     bytes that the allocator has taken from the driver, freed blocks among them: what nobody else can have
    graph pool   reserved bytes of private pools, which captured graphs alone may write to

`Allocator` is the whole of torch.cuda that the memory task sees, so that tests replace it by one of their own. It
counts neither the CUDA context and its modules (some hundred MiB, a constant) nor what libraries take from the driver
behind torch's back.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ttbench.machine.devices import torch_device

METHOD = "cuda_allocator"  # in rows, where a process's own counters stand for a CPU


class Allocator(Protocol):
    """Counters of one device, in bytes."""

    def allocated(self) -> int:
        """Held by tensors now."""
        ...

    def reserved(self) -> int:
        """Taken from the driver now."""
        ...

    def peak_allocated(self) -> int:
        """Most held by tensors since the last reset."""
        ...

    def peak_reserved(self) -> int:
        """Most taken from the driver since the last reset."""
        ...

    def graph_pool(self) -> int:
        """Taken from the driver by private pools now; they are part of `reserved`."""
        ...

    def reset_peaks(self) -> None:
        """Let both peaks start again from what is there now."""
        ...


class CudaAllocator:
    """`Allocator` of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Counters exist once the context does; making it belongs to no phase.
        torch.cuda.init()

    def allocated(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def reserved(self) -> int:
        return torch.cuda.memory_reserved(self._device)

    def peak_allocated(self) -> int:
        return torch.cuda.max_memory_allocated(self._device)

    def peak_reserved(self) -> int:
        return torch.cuda.max_memory_reserved(self._device)

    def graph_pool(self) -> int:
        index = torch.cuda.current_device() if self._device.index is None else self._device.index
        return private_bytes(torch.cuda.memory_snapshot(), index)

    def reset_peaks(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)


def private_bytes(segments: list[dict], index: int) -> int:
    """Bytes of the segments of device `index` that belong to a private pool, in torch's snapshot of its allocator."""
    mine = (each for each in segments if each["device"] == index)
    return sum(each["total_size"] for each in mine if tuple(each["segment_pool_id"]) != (0, 0))


def allocator(device: str) -> Allocator | None:
    """The counters of a device; None for a CPU, whose processes the system counts. Raises UsageError."""
    found = torch_device(device)
    return CudaAllocator(found) if found.type == "cuda" else None
