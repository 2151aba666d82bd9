"""Names of devices and dtypes as torch's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ttbench.errors import UsageError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def torch_dtype(name: str) -> torch.dtype:
    """Raises UsageError on a dtype that engines do not run in."""
    if name not in DTYPES:
        raise UsageError(f"unknown dtype '{name}'; available: {', '.join(DTYPES)}")
    return DTYPES[name]


def torch_device(name: str) -> torch.device:
    """Raises UsageError on a device that is unknown or not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'; available: cpu, cuda, cuda:<index>") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported; available: cpu, cuda, cuda:<index>")
    if device.type == "cuda":
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= num_devices:
            raise UsageError(
                f"device '{name}' is not there: torch {torch.__version__} sees {num_devices} CUDA devices; "
                "use cpu, or a machine with a GPU and a CUDA build of torch (make setup TORCH=cuda)"
            )
    return device


def placed(ids: Any, device: str) -> Tensor:
    """Ids as an int64 tensor on a device, so that a clock that starts now counts no copy to it. Raises UsageError."""
    return torch.as_tensor(ids, dtype=torch.int64).to(torch_device(device))
