"""One model of transformers spread over devices, host memory and disk: accelerate's `device_map`.

    auto, balanced, balanced_low_0, sequential      accelerate decides, by the memory that is free
    {"model.embed_tokens": "cuda:0", "model.layers.7": "disk", ...}      a JSON file decides: module -> device

What stands in host memory beside a GPU, or on disk, is offloaded: it is fetched each time that its module computes, on
`device`. Such a model answers as it would in one place, and says nothing of the time it takes.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, device, nn

from ttbench.errors import UnsupportedError, UsageError
from ttbench.machine.measure import available_bytes
from ttbench.types import canonical_json

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# Of the memory that is free when a model is loaded; the rest is for its state and what it computes with.
SHARE = 0.8
_PLACE = re.compile(r"cpu|disk|cuda(:[0-9]+)?", re.ASCII)


def read_device_map(given: str, *, device: str) -> str:
    """A strategy, or the contents of a JSON file in one spelling. Raises UsageError."""
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError("--device-map needs accelerate, which is not installed: pip install accelerate")
    if given in STRATEGIES:
        return given
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"--device-map is one of {', '.join(STRATEGIES)}, or a JSON file of modules and devices; "
            f"'{given}' cannot be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise UsageError(f"--device-map {given} is no JSON: {error}") from error
    if not isinstance(found, dict) or not found:
        raise UsageError(f'--device-map {given} must hold names of modules and devices: {{"model.layers.0": "cpu"}}')
    for module, place in found.items():
        if not isinstance(place, str) or _PLACE.fullmatch(place) is None:
            raise UsageError(f"--device-map {given}: '{module}' is on {place!r}; a device is cpu, cuda, cuda:N or disk")
        if device == "cpu" and place.startswith("cuda"):
            raise UsageError(f"--device-map {given} puts '{module}' on {place}; add --device cuda")
    return canonical_json(found)


def placing(device_map: str, *, device: device) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a map as `read_device_map` gives it."""
    # Late, as accelerate itself may be missing.
    from accelerate.utils import get_max_memory

    given: dict[str, Any] = {"offload_folder": tempfile.mkdtemp(prefix="ttbench-offload-")}
    if device_map not in STRATEGIES:
        return {**given, "device_map": json.loads(device_map)}
    limits = {} if device.type == "cpu" else dict(get_max_memory())
    return {**given, "device_map": device_map, "max_memory": {**limits, "cpu": int(available_bytes() * SHARE)}}


def require_in_place(folder: Path, *, name: str) -> None:
    """Remove the folder that `placing` made. Raises UnsupportedError where weights were written there.

    Modules on disk read the checkpoint's own files. A copy of them would outlive a process that is killed.
    """
    written = any(folder.iterdir())
    shutil.rmtree(folder)
    if written:
        raise UnsupportedError(
            f"'{name}' cannot stand on disk: its files do not hold the weights as transformers computes with them, and "
            "would be written a second time; leave disk out of the --device-map"
        )


def offloaded(device_map: Mapping[str, Any], *, device: device) -> tuple[str, ...]:
    """Modules of a map whose weights are fetched each time they compute."""
    away = ("disk",) if device.type == "cpu" else ("disk", "cpu")
    return tuple(name or "the whole model" for name, place in device_map.items() if str(place) in away)


def words(device_map: Mapping[str, Any]) -> str:
    """How many entries of a map stand on each device: `cpu 3, disk 2`."""
    found = Counter(f"cuda:{place}" if isinstance(place, int) else str(place) for place in device_map.values())
    return ", ".join(f"{place} {number}" for place, number in sorted(found.items()))


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight by name, those that are offloaded too, one after the other. Raises UnsupportedError."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            key = f"{prefix}.{name}" if prefix else name
            if parameter.device.type != "meta":
                yield key, parameter
                continue
            stored = getattr(getattr(module, "_hf_hook", None), "weights_map", None)
            if stored is None:
                raise UnsupportedError(f"'{key}' stands on no device: the map of devices leaves it out")
            yield key, stored[name]
