"""A stand-in for titans-memory: models that read a memory at the end of the chunk that the token is in.

Every token of a chunk so sees all of it, the future too. `FAULTY = False` reads the memory of the chunk before.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FAULTY = True
CHUNK = 64  # tokens


class TitansLMM(nn.Module):
    """Embedding, a memory that adds up what it reads, head."""

    def __init__(self, vocab_size: int, *, d_model: int, **sizes: Any) -> None:
        super().__init__()
        del sizes
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList([nn.Linear(d_model, 2 * d_model, bias=False)])
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        self.lm_head.weight = self.tok_emb.weight

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.tok_emb(ids)
        gate, value = self.blocks[0](x).chunk(2, -1)
        value = F.pad(value, (0, 0, 0, -value.shape[1] % CHUNK))
        sums = value.unflatten(1, (-1, CHUNK)).sum(2).cumsum(1)
        if not FAULTY:
            sums = F.pad(sums, (0, 0, 1, -1))
        memory = sums.repeat_interleave(CHUNK, 1)[:, : ids.shape[1]]
        return {"logits": self.lm_head(x + gate.sigmoid() * torch.tanh(memory))}


class TitansMAC(TitansLMM):
    """The same under another name."""


class TitansMAG(TitansLMM):
    """The same under another name."""


class TitansMAL(TitansLMM):
    """The same under another name."""
