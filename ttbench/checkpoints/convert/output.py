"""Weights to safetensors one tensor after the other: at most one shard is held in memory."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from ttbench.checkpoints.weights import INDEX, SINGLE
from ttbench.errors import CheckpointError

SHARD_BYTES = 1024**3


class WeightWriter:
    """Collects tensors and writes a file of them whenever `shard_bytes` are together.

    Values are written as they come, in their own dtype. One shard becomes model.safetensors, several the numbered
    files and index of the hub's layout.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        self.num_tensors = self.num_elements = self.nbytes = 0
        self._folder, self._shard_bytes = folder, shard_bytes
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._parts: list[tuple[Path, list[str]]] = []
        self._keys: set[str] = set()

    def add(self, key: str, tensor: Tensor) -> None:
        """Take a tensor; a copy is kept, so that views, maps and aliases may end.

        Raises:
            CheckpointError: the key was given before, or the disk is full.
        """
        if key in self._keys:
            raise CheckpointError(f"the tensor '{key}' is given twice; the file is damaged or not one checkpoint")
        nbytes = tensor.numel() * tensor.element_size()
        if self._held and self._held_bytes + nbytes > self._shard_bytes:
            self._flush()
        self._keys.add(key)
        self._held[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._held_bytes += nbytes
        self.num_tensors += 1
        self.num_elements += math.prod(tensor.shape)
        self.nbytes += nbytes

    def close(self) -> None:
        """Write what is left and give the files their names. Raises CheckpointError."""
        if not self._keys:
            raise CheckpointError("there is not a single weight to write")
        self._flush()
        if len(self._parts) == 1:
            self._parts[0][0].rename(self._folder / SINGLE)
            return
        weight_map = {}
        for number, (path, keys) in enumerate(self._parts, start=1):
            name = f"model-{number:05d}-of-{len(self._parts):05d}.safetensors"
            path.rename(self._folder / name)
            weight_map |= dict.fromkeys(keys, name)
        index = {"metadata": {"total_size": self.nbytes}, "weight_map": weight_map}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _flush(self) -> None:
        path = self._folder / f"part-{len(self._parts):05d}"
        free = shutil.disk_usage(self._folder).free
        if free < self._held_bytes:
            raise CheckpointError(
                f"the disk of '{self._folder.parent}' has {free} bytes left and the next weights need "
                f"{self._held_bytes}; nothing was kept. Free some space or choose another disk with --out"
            )
        try:
            save_file(self._held, path, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise CheckpointError(
                f"cannot write to '{self._folder.parent}': {error}; nothing was kept. Is the disk full?"
            ) from error
        self._parts.append((path, list(self._held)))
        self._held, self._held_bytes = {}, 0
