"""A stand-in for titans-pytorch: the calls that the plug-in of docs/check-a-foreign-model.md makes, in a small model.

Attention sees its own segment, or a window. The fault: after a prompt the cache holds its last tokens, as many as a
segment has, whether or not a segment ended among them. `FAULTY = False` mends it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

FAULTY = True


class Places(nn.Module):
    """What the plug-in asks of positions; nothing here has any."""

    def maybe_derive_outer_dim(self, num_tokens: int, dims: tuple[int, ...]) -> tuple[int, ...]:
        return (-(-num_tokens // dims[0]), *dims)

    def forward(self, dims: tuple[int, ...], *, return_factorized: bool) -> tuple[int, ...]:
        assert return_factorized
        return dims


class MemoryAsContextTransformer(nn.Module):
    """Embedding, one layer of attention, head."""

    def __init__(
        self,
        *,
        num_tokens: int,
        dim: int,
        segment_len: int,
        sliding_window_attn: bool = False,
        num_persist_mem_tokens: int = 0,
        **sizes: Any,
    ) -> None:
        super().__init__()
        del sizes
        self.segment_len = self.neural_memory_segment_len = segment_len
        self.sliding = sliding_window_attn
        self.axial_pos_emb = Places()
        self.embed, self.head = nn.Embedding(num_tokens, dim), nn.Linear(dim, num_tokens, bias=False)
        self.layers = nn.ModuleList([nn.Linear(dim, 3 * dim, bias=False)])
        self.persistent = nn.Parameter(torch.zeros(num_persist_mem_tokens, dim))

    def seq_len_with_longterm_mem(self, num_tokens: int) -> int:
        return num_tokens

    def forward(
        self,
        ids: Tensor,
        *,
        cache: Any = None,
        return_cache: bool = False,
        disable_flex_attn: bool = False,
        factorized_pos_emb: Any = None,
    ) -> Any:
        begin, kept = (
            (0, self.embed.weight.new_zeros(len(ids), 0, self.embed.embedding_dim)) if cache is None else cache
        )
        new = self.embed(ids[:, begin:])
        x = torch.cat((kept, new), 1)
        q, k, v = self.layers[0](x).chunk(3, -1)
        place = torch.arange(begin - kept.shape[1], begin + new.shape[1])
        seen = place <= place[:, None]
        if self.sliding:
            seen &= place > place[:, None] - self.segment_len
        elif cache is None or not FAULTY:
            seen &= place // self.segment_len == place[:, None] // self.segment_len
        out = (q @ k.mT).masked_fill(~seen, -torch.inf).softmax(-1) @ v
        logits = self.head(out[:, kept.shape[1] :])
        end = begin + new.shape[1]
        # A segment that is full is done with; FAULTY keeps the last tokens of a prompt even if one ended among them.
        full = x.shape[1] >= self.segment_len and (end if not FAULTY else x.shape[1]) % self.segment_len == 0
        x = x[:, :0] if full and not self.sliding else x[:, -self.segment_len :]
        return (logits, (end, x)) if return_cache else logits
