"""Weights written by torch.save (`pytorch_model.bin`, of mamba_ssm and many others): the same keys as safetensors.

Only tensors are unpickled: torch's own loader refuses everything else. Files of today's format are mapped, not read.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttbench.checkpoints.convert.output import WeightWriter
from ttbench.checkpoints.files import MAX_INDEX_BYTES, member, read_json
from ttbench.checkpoints.sources import TORCH_INDEX
from ttbench.errors import CheckpointError, WeightsError

_ZIP = b"PK\x03\x04"


def convert_torch(path: Path, writer: WeightWriter, *, report: Callable[[int, int], None]) -> None:
    """Write every tensor of a file, or of the files that an index names, under its own key.

    A tensor that stands under several keys, as tied ones do, is written under each of them.

    Raises:
        CheckpointError: the file holds something else than tensors by name.
        WeightsError: it is truncated, or index and files disagree.
    """
    files = _shards(path) if path.name == TORCH_INDEX else {path: None}
    total = sum(file.stat().st_size for file in files)
    done = 0
    for file, promised in files.items():
        tensors = _load(file)
        if promised is not None and promised != set(tensors):
            odd = sorted(promised ^ set(tensors))[:4]
            raise WeightsError(f"'{file}' and '{path.name}' disagree about {', '.join(odd)}; download both again")
        before = done
        for key, tensor in tensors.items():
            writer.add(key, tensor)
            done = min(before + file.stat().st_size, done + tensor.numel() * tensor.element_size())
            report(done, total)
        done = before + file.stat().st_size
    report(total, total)


def tensor_names(path: Path) -> set[str]:
    """Keys of a file, or of all files that an index names. Raises as `convert_torch`."""
    return (
        set(_load(path)) if path.name != TORCH_INDEX else {key for keys in _shards(path).values() for key in keys or ()}
    )


def _shards(index: Path) -> dict[Path, set[str] | None]:
    """Files that an index names, each with the keys it must hold."""
    weight_map = read_json(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"'{index}' has no weight_map from tensor names to file names; download it again")
    found: dict[Path, set[str] | None] = {}
    for name in sorted({str(value) for value in weight_map.values()}):
        path = member(index.parent, name)
        if path is None:
            raise WeightsError(f"'{index}' names the file '{name}', which is missing; download it again")
        found[path] = {key for key, value in weight_map.items() if value == name}
    return found


def _load(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        mapped = file.read(4) == _ZIP
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"'{path}' holds more than tensors, and nothing else is unpickled ({reason}); load it with the program "
            "that wrote it and save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"'{path}' is truncated or broken ({reason}); download it again") from error
    if not isinstance(held, dict) or not held:
        raise CheckpointError(f"'{path}' holds a {type(held).__name__}; expected tensors by name")
    for key, value in held.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"'{path}' holds a {type(value).__name__} under {key!r}; expected tensors by name. Save the state_dict "
                "alone"
            )
        if value.is_quantized or value.layout != torch.strided:
            raise CheckpointError(f"'{path}' holds '{key}' quantised or sparse; only dense tensors are converted")
    return held
