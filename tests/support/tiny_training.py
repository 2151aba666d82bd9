"""What recipes of a second or two have in common."""

from __future__ import annotations

from typing import Any

SCHEDULE: dict[str, Any] = {
    "seed": 5,
    "betas": [0.9, 0.95],
    "weight_decay": 0.1,
    "clip": 1.0,
    "warmup": 0.1,
    "final_lr": 0.1,
    "answer_weight": 6.0,
}
