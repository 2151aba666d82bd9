"""Titans: language models with a neural long-term memory that learns while it reads.

    titans-lmm    o = W_o (m * silu(W_g x))       m = M([P, x])                      the memory alone

m, the memory's normed output, is dropped at the places of P: N_p learned vectors in front of the input of every layer,
the persistent memory (equation 19), which are written to the memory like tokens.

Source: Behrouz et al., arXiv 2501.00663v1, sections 3 and 4. There is no official code and there are no published
weights. The paper prints no widths, depths, chunk or segment sizes, N_p, kernel sizes, bounds of theta or activation of
the memory, so all of these are fields of `TitansConfig` or are named in `models.memory_layer`, and no number from here
is "Titans as published". A SwiGLU after the mixer follows the models that the paper compares with.

State per layer, elements: H (2 P + C E + 3 C) with P the weights of the memory and E the widths in and out of all its
layers, constant in the context, and K - 1 inputs of the convolutions.
Letters: B batch, T tokens, H heads, D head dim, W width, C chunk, K conv kernel, L layers, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.models.memory_layer import MemoryLayer
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, Work, own_dialect
from ttbench.models.titans_config import TitansConfig


class TitansMixer(Mixer):
    """A memory, and the persistent vectors that every layer reads first. Subclasses say what is done with both."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        rows = torch.randn(config.num_persistent, config.hidden_size)
        self.persistent = nn.Parameter(rows) if len(rows) else None
        self.memory = MemoryLayer(config)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    @classmethod
    def slots(cls, config: TitansConfig) -> dict[str, Slot]:
        return MemoryLayer.slots(config)

    def start_weights_(self) -> None:
        self.memory.reset_gates_()

    def start_state(self, part: Part) -> None:
        self.memory.start_state(part)
        if self.persistent is not None:
            self.memory(self.persistent[None], part, offset=0)

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        if part is not None or self.persistent is None:
            return self.mix(x, part, at=at, offset=0 if part is None else self.place(read))
        prefix = self.persistent.expand(len(x), -1, -1)
        return self.mix(torch.cat((prefix, x), 1), None, at=at, offset=0)[:, len(self.persistent) :]

    @abstractmethod
    def mix(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, offset: int) -> Float[Tensor, "B T W"]:
        """Mix `x`; without `part` it begins with the persistent vectors."""

    def place(self, read: int) -> int:
        """Tokens in the current chunk after `read` tokens, the persistent vectors included."""
        return (read + self.config.num_persistent) % self.config.chunk_size


class LMMMixer(TitansMixer):
    """The memory alone, gated by a linear map of its input (section 4.4)."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.g_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    @classmethod
    def work(cls, config: TitansConfig) -> Work:
        return Work(flops=MemoryLayer.flops(config) + 2 * 2 * config.hidden_size**2)

    def mix(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, offset: int) -> Float[Tensor, "B T W"]:
        return self.o_proj(self.memory(x, part, offset=offset) * F.silu(self.g_proj(x)))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        place = (at.positions + self.config.num_persistent) % self.config.chunk_size
        m = self.memory.step(x, part, place=place, last=bool(variant))
        return self.o_proj(m * F.silu(self.g_proj(x)))


MEMORY_KEYS = (
    *(f"{part}_proj.weight" for part in "qkv"),
    *(f"convs.{part}.weight" for part in "qkv"),
    *(f"start.{i}" for i in range(8)),
    *("gates_proj.weight", "gates_proj.bias", "norm.weight"),
)
MIXER_KEYS = ("persistent", "o_proj.weight", *(f"memory.{key}" for key in MEMORY_KEYS))


class Titans(Stack):
    """What the variants share."""

    config_class: ClassVar[type[Any]]  # a TitansConfig

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = cls.config_class(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            chunk_size=16,
            memory_layers=2,
            memory_expansion=2,
            memory_read="token",
            memory_init="learned",
            max_step=0.16,
            num_persistent=3,
        )
        return cls.from_config(replace(config, **overrides))

    def step_variant(self, num_tokens: int) -> int:
        """1 for the last token of a chunk, which writes the memory; else 0."""
        return int((num_tokens + 1 + self.config.num_persistent) % self.config.chunk_size == 0)

    @property
    def kernel_path(self) -> dict[str, str]:
        return {"neural_memory": "chunked"}


class TitansLMM(Titans):
    """The memory alone."""

    config_class = TitansConfig
    mixer_class = LMMMixer
    DIALECTS = (own_dialect(TitansConfig, mixer_keys=(*MIXER_KEYS, "g_proj.weight")),)
