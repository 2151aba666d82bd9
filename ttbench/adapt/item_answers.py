"""What a model makes of items: its answers, and which label it would write after a prompt. Works on any engine.

Letters: B items, T tokens, N labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from ttbench.adapt.domains import Item, pad
from ttbench.engines.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemAnswer:
    """How one item's answer was read. Greedy writing gives the answer exactly when every token is a hit."""

    nats: float  # of the answer's tokens
    num_hits: int  # tokens of the answer that were the likeliest
    num_tokens: int

    @property
    def exact(self) -> bool:
        return self.num_hits == self.num_tokens


def read_answers(engine: Engine, items: Sequence[Item]) -> list[ItemAnswer]:
    """All answers by one stateless pass over prompts and answers side by side."""
    ids = pad([np.concatenate([item.prompt, item.answer]) for item in items])
    logits = engine.logits(ids[:, :-1])
    found = []
    for row, item in zip(logits, items, strict=True):
        first = len(item.prompt) - 1
        mine = row[first : first + len(item.answer)]
        wanted = torch.from_numpy(item.answer).to(mine.device)
        found.append(
            ItemAnswer(
                nats=float(F.cross_entropy(mine, wanted, reduction="sum")),
                num_hits=int((mine.argmax(-1) == wanted).sum()),
                num_tokens=len(item.answer),
            )
        )
    return found


def label_nats(
    engine: Engine, prompt: Int[np.ndarray, "T"], labels: Sequence[Int[np.ndarray, "_"]]
) -> Float[np.ndarray, "N"]:
    """Nats of each label after the prompt; the prompt is read once."""
    engine.reset(1, len(prompt) + max(len(label) for label in labels))
    if len(prompt) > 1:
        engine.prefill(prompt[None, :-1])
    start = engine.snapshot()
    nats = np.zeros(len(labels))
    for place, label in enumerate(labels):
        engine.restore(start)
        inputs = np.concatenate([prompt[-1:], label[:-1]])
        nats[place] = engine.score(inputs[None], label[None]).sum()
    return nats
