"""Record the goldens of the linear neural memory from flash-linear-attention.

    pip install flash-linear-attention==0.6.0 fla-core==0.6.0 triton==3.7.0 torch==2.13.0 numpy
    PYTHONPATH=tests python -m golden.make_fla_titans

writes tests/golden/fla_titans.json: its token loop, `fla.ops.titans.naive.titans_linear`, in float64. That op has a
LayerNorm in its loss and another on its output, which the paper does not. Both vanish at a limit that floating point
reaches: weight R = 2^20, eps R^2, steps divided by R D, and a memory and targets whose rows have mean zero. Then its
loss is |k M - (v - k)|^2 and its output 2 q M. Inputs are not stored: both sides make them with `array`.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from golden.make_ttt import uniform

OUT = Path(__file__).with_name("fla_titans.json")
BATCH, HEADS, NUM_TOKENS, DIM = 2, 2, 40, 4
POSITIONS = (0, 1, 7, 8, 15, 16, 39)
CHUNKS = (1, 5, 8)  # each ends with the last token
RANGES = {"theta": (0.0, 0.2), "eta": (0.4, 0.95), "alpha": (0.0, 0.3)}
LIMIT = 2.0**20  # R


def array(name: str) -> np.ndarray:
    """q, k, v [B, H, T, D], gates theta, eta, alpha [B, H, T, 1] or the initial memory M [B, H, D, D], float64."""
    if name in RANGES:
        low, high = RANGES[name]
        return low + (high - low) * (uniform(f"fla {name}", (BATCH, HEADS, NUM_TOKENS, 1)) + 1) / 2
    if name == "M":
        found = np.broadcast_to(uniform("fla M", (HEADS, DIM, DIM)), (BATCH, HEADS, DIM, DIM))
    else:
        found = uniform(f"fla {name}", (BATCH, HEADS, NUM_TOKENS, DIM))
    return found - found.mean(-1, keepdims=True) if name in ("v", "M") else found


def record(chunk_size: int) -> dict[str, Any]:
    """Run flash-linear-attention with one chunk size."""
    import torch
    from fla.ops.titans.naive import titans_linear  # pyright: ignore[reportMissingImports]

    q, k, v, theta, eta, alpha, M = (torch.from_numpy(array(x).copy()) for x in ("q", "k", "v", *RANGES, "M"))
    scale = torch.full((HEADS, DIM), LIMIT, dtype=torch.float64)
    steps = theta / (LIMIT * DIM)
    twice, last = titans_linear(
        q, k, v + k, scale, 0 * scale, steps, alpha, eta, LIMIT**2, chunk_size, M, output_final_state=True
    )
    rows = (twice[:, :, list(POSITIONS)] / 2).reshape(-1, DIM).tolist()
    return {
        "chunk_size": chunk_size,
        "out": [[float(f"{value:.12g}") for value in row] for row in rows],
        "M": [[float(f"{value:.12g}") for value in row] for row in last.reshape(-1, DIM).tolist()],
    }


def main() -> None:
    packages = ("flash-linear-attention", "torch")
    source = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    cases = ",\n".join(json.dumps(record(chunk_size)) for chunk_size in CHUNKS)
    OUT.write_text(f'{{"source": "{source}", "cases": [\n{cases}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
