"""Record the goldens of the neural memory of titans-pytorch from the package itself.

    pip install titans-pytorch==0.5.5 torch==2.13.0
    python tests/golden/make_titans_pytorch.py

writes tests/golden/titans_pytorch.json: outputs in float64 under options that
`ttbench.checkpoints.convert.titans_pytorch` maps,
and, for options that it refuses, how far the outputs move when that option alone is changed (of the greatest output).
Weights are not stored: both sides make them with `weight`, from the name and the shape alone.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

OUT = Path(__file__).with_name("titans_pytorch.json")
DIM, NUM_TOKENS, SPLIT = 6, 40, 23
POSITIONS = (0, 1, 6, 7, 8, 15, 16, 22, 23, 39)
FAITHFUL: dict[str, Any] = {
    "dim": DIM,
    "chunk_size": 1,
    "batch_size": 8,
    "activation": "silu",
    "post_rmsnorm": True,
    "mem_model_norm_add_residual": False,
    "default_model_kwargs": {"depth": 2, "expansion_factor": 2.0},
}
CASES: dict[str, dict[str, Any]] = {
    "norm": FAITHFUL,
    "plain": {**FAITHFUL, "pre_rmsnorm": False, "batch_size": 5, "default_step_transform_max_lr": 0.3},
    "deep": {**FAITHFUL, "chunk_size": [1, 1], "default_model_kwargs": {"depth": 3, "expansion_factor": 3.0}},
    "matrix": {**FAITHFUL, "batch_size": 1, "default_model_kwargs": {"depth": 1}},
}
CHANGES: dict[str, Any] = {
    "chunk_size": 8,
    "batch_size": None,
    "heads": 2,
    "activation": None,
    "post_rmsnorm": False,
    "mem_model_norm_add_residual": True,
    "qk_rmsnorm": True,
    "momentum": False,
    "momentum_order": 2,
    "num_kv_per_token": 2,
    "per_parameter_lr_modulation": True,
    "max_grad_norm": 1.0,
    "spectral_norm_surprises": True,
    "gated_transition": True,
}


def weight(name: str, shape: tuple[int, ...], *, centre: float = 0.0) -> torch.Tensor:
    """Numbers within 0.4 of `centre`, float64, from the name and the index alone."""
    size = torch.Size(shape).numel()
    digests = (hashlib.blake2b(f"{name} {i}".encode(), digest_size=6).digest() for i in range(size))
    values = [int.from_bytes(digest, "little") / 2**48 for digest in digests]
    return (torch.tensor(values, dtype=torch.float64) * 0.8 - 0.4 + centre).reshape(shape)


def state_dict(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The weights of a memory; norms around 1."""
    return {
        name: weight(name, tuple(shape), centre=float(name in ("retrieve_norm.weight", "store_norm.weight")))
        for name, shape in shapes.items()
    }


def inputs() -> torch.Tensor:
    """[2, T, D]"""
    return 2.5 * weight("input", (2, NUM_TOKENS, DIM))


def build(options: dict[str, Any]) -> Any:
    """Their memory with weights of ours, float64."""
    from titans_pytorch import NeuralMemory  # pyright: ignore[reportMissingImports]

    given = dict(options)
    given["activation"] = torch.nn.SiLU() if given["activation"] == "silu" else None
    if isinstance(given["chunk_size"], list):
        given["chunk_size"] = tuple(given["chunk_size"])
    if given.get("heads", 1) > 1:
        given["dim_head"] = DIM
    memory = NeuralMemory(**given).double().eval()
    # their norms add the smallest number of the dtype; ours that of float32, whatever the dtype
    for part in memory.modules():
        if isinstance(part, torch.nn.RMSNorm):
            part.eps = torch.finfo(torch.float32).eps
    memory.load_state_dict(state_dict({key: list(value.shape) for key, value in memory.state_dict().items()}))
    return memory


@torch.no_grad()
def run(options: dict[str, Any]) -> torch.Tensor:
    return build(options)(inputs())[0]


def main() -> None:
    cases = {}
    for name, options in CASES.items():
        out = run(options)
        shapes = {key: list(value.shape) for key, value in build(options).state_dict().items()}
        cases[name] = {
            "options": options,
            "shapes": shapes,
            "outputs": [[[float(f"{x:.12g}") for x in row] for row in rows] for rows in out[:, POSITIONS].tolist()],
        }
    whole = run(FAITHFUL)
    moved = {}
    for name, value in CHANGES.items():
        out = run({**FAITHFUL, name: value})
        moved[name] = {"value": value, "moves": float(f"{((out - whole).abs().max() / whole.abs().max()).item():.3g}")}
    document = {
        "source": f"titans-pytorch {version('titans-pytorch')}, torch {version('torch')}",
        "positions": POSITIONS,
        "cases": cases,
        "refused": moved,
    }
    OUT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
