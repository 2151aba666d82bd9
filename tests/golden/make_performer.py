"""Record the goldens of FAVOR+ attention from performer-pytorch.

    pip install --no-deps performer-pytorch==1.1.4 local-attention axial-positional-embedding hyper-connections
    pip install torch numpy einops
    PYTHONPATH=tests python -m golden.make_performer

writes tests/golden/performer_<case>.json: its causal attention (`softmax_kernel`, `causal_linear_attention_noncuda`) in
float64. Inputs are not stored: both sides make them with `array`, from the name and the shape alone. Its second floor,
on the sums of keys, is set to 0, and each output is that of the last token of an input that ends there, so that its
stabiliser, a maximum over all positions, sees what a causal one sees. How far outputs move when the input does go on is
recorded as `look_ahead`.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
from golden.make_ttt import uniform

BATCH, HEADS, NUM_TOKENS, DIM, NUM_FEATURES = 2, 2, 40, 8, 20
POSITIONS = (0, 1, 7, 20, 39)
CASES: dict[str, float] = {"no_floor": 0.0, "floor": 1e-4, "high_floor": 1e-2}  # eps


def array(name: str) -> np.ndarray:
    """q, k, v [B, H, T, D] or features [F, D]. Keys grow, so that the stabiliser goes on moving."""
    if name == "features":
        return 3**0.5 * uniform("performer features", (NUM_FEATURES, DIM))
    found = 1.5 * uniform(f"performer {name}", (BATCH, HEADS, NUM_TOKENS, DIM))
    return found * (1 + np.arange(NUM_TOKENS)[:, None] / 20) if name == "k" else found


def record(eps: float) -> dict[str, Any]:
    """Run performer-pytorch at one floor."""
    import torch
    from performer_pytorch import performer_pytorch as published  # pyright: ignore[reportMissingImports]

    q, k, v, features = (torch.from_numpy(array(name)) for name in ("q", "k", "v", "features"))

    def attend(num_tokens: int) -> torch.Tensor:
        phi_q, phi_k = (
            published.softmax_kernel(x[:, :, :num_tokens], projection_matrix=features, is_query=is_query, eps=eps)
            for x, is_query in ((q, True), (k, False))
        )
        return published.causal_linear_attention_noncuda(phi_q, phi_k, v[:, :, :num_tokens], eps=0.0)

    ends = torch.stack([attend(position + 1)[:, :, -1] for position in POSITIONS], 2)
    moved = (attend(NUM_TOKENS)[:, :, list(POSITIONS)] - ends).abs().max() / ends.abs().max()
    return {
        "made_by": "tests/golden/make_performer.py",
        "source": "performer-pytorch",
        "performer-pytorch": importlib.metadata.version("performer-pytorch"),
        "torch": torch.__version__,
        "eps": eps,
        "positions": list(POSITIONS),
        "look_ahead": float(f"{float(moved):.2g}"),
        "out": [[float(f"{value:.10g}") for value in row] for row in ends.reshape(-1, DIM).tolist()],
    }


def main() -> None:
    for case, eps in CASES.items():
        path = Path(__file__).with_name(f"performer_{case}.json")
        found = record(eps)
        rows = ",\n".join(f"    {json.dumps(row)}" for row in found.pop("out"))
        head = json.dumps(found, indent=2)[:-2]
        path.write_text(f'{head},\n  "out": [\n{rows}\n  ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
