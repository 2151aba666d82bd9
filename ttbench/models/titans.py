"""Titans: language models with a neural long-term memory that learns while it reads.

    x = x + mixer([P, norm(x)])        x = x + SwiGLU(norm(x))        then norm, then a tied or untied head

P are N_p learned vectors in front of the input of every layer, the persistent memory (equation 19); they are written
to the memory like tokens, and what comes out at their places is dropped. The mixer of `titans-lmm` is the memory alone
(`models.memory_layer`).

Source: Behrouz et al., arXiv 2501.00663v1, sections 3 and 4. There is no official code and there are no published
weights. The paper prints no widths, depths, chunk or segment sizes, N_p, kernel sizes, bounds of theta or activation of
the memory, so all of these are fields of `TitansConfig` or are named in `models.memory_layer`, and no number from here
is "Titans as published". A SwiGLU after the mixer follows the models that the paper compares with.

State per layer, elements: H (2 P + C E + 3 C) with P the weights of the memory and E the widths in and out of all its
layers, constant in the context, and K - 1 inputs of the convolutions.
Letters: B batch, T tokens, H heads, D head dim, W width, C chunk, K conv kernel, L layers, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.errors import CheckpointError
from ttbench.models.base import Dialect, SequenceModel, State, layout, require_no_grad
from ttbench.models.layers import RMSNorm, SwiGLU, init_weights_
from ttbench.models.memory_layer import LayerState, MemoryLayer
from ttbench.models.titans_config import TitansConfig
from ttbench.types import Cost

PARTS = tuple(field.name for field in dataclasses.fields(LayerState))


@dataclass(kw_only=True)
class TitansState(State):
    """`LayerState` of every layer."""

    memory: Float[Tensor, "L B H P"] = layout(batch_dim=1)
    momentum: Float[Tensor, "L B H P"] = layout(batch_dim=1)
    pending: Float[Tensor, "L B H C E"] = layout(batch_dim=1)
    gates: Float[Tensor, "L B H C 3"] = layout(batch_dim=1)
    tail: Float[Tensor, "L B K-1 3*W"] = layout(batch_dim=1)

    def layer(self, i: int) -> LayerState:
        """Views of one layer."""
        return LayerState(**{name: getattr(self, name)[i] for name in PARTS})


class Block(nn.Module):
    """Memory and SwiGLU, each after a norm and added to the stream."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        rows = torch.randn(config.num_persistent, config.hidden_size)
        self.persistent = nn.Parameter(rows) if len(rows) else None
        self.memory = MemoryLayer(config)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)

    def mix(self, h: Float[Tensor, "B T W"], state: LayerState | None, *, offset: int) -> Float[Tensor, "B T W"]:
        """The mixer over tokens; without a state the persistent vectors are read first, with one they have been."""
        if state is not None or self.persistent is None:
            return self.memory(h, state, offset=offset)
        prefix = self.persistent.expand(h.shape[0], -1, -1)
        return self.memory(torch.cat((prefix, h), 1), None, offset=0)[:, len(self.persistent) :]

    def start(self, state: LayerState) -> None:
        """Write the state before the first token: the learned start, and the persistent vectors read."""
        for name in PARTS:
            getattr(state, name).zero_()
        for part, weight in zip(self.memory.view(state).M, self.memory.start_weights(), strict=True):
            part.copy_(weight)
        if self.persistent is not None:
            self.memory(self.persistent[None], state, offset=0)


_MEMORY = [f"{part}_proj.weight" for part in "qkvgo"] + ["gates_proj.weight", "gates_proj.bias", "norm.weight"]
_MEMORY += [f"convs.{part}.weight" for part in "qkv"] + [f"start.{i}" for i in range(8)]
_BLOCK = ["persistent", "mixer_norm.weight", "mlp_norm.weight", *(f"memory.{name}" for name in _MEMORY)]
_BLOCK += [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]


def _dialect(variant: str, extra: tuple[str, ...] = ()) -> Dialect:
    """Our own naming: the modules' names."""
    names: Mapping[str, str | None] = {
        **{name: name for name in ("embed.weight", "norm.weight", "lm_head.weight")},
        **{f"layers.{{i}}.{name}": f"layers.{{i}}.{name}" for name in (*_BLOCK, *extra)},
    }
    return Dialect(
        name=f"titans-{variant}",
        matches=lambda data: data.get("model_type") == "titans" and data.get("variant") == variant,
        config=TitansConfig.from_json,
        weights=names,
    )


class TitansLMM(SequenceModel):
    """The memory alone. See the module docstring."""

    version = 1
    state_grows = False
    variant: ClassVar[str] = "lmm"
    DIALECTS = (_dialect("lmm"),)

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        if config.variant != self.variant:
            raise CheckpointError(f"{type(self).__name__} got variant={config.variant!r}; expected {self.variant!r}")
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        outputs = [part for block in self._blocks() for part in (block.memory.o_proj, block.mlp.down_proj)]
        init_weights_(self, residual=outputs, num_branches=len(outputs))
        for block in self._blocks():
            block.memory.reset_gates_()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    @classmethod
    def from_config(cls, config: TitansConfig) -> Self:
        config.check()
        return cls(config)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = TitansConfig(
            variant=cls.variant,
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
            max_step=0.01,
            num_persistent=3,
        )
        return cls.from_config(replace(config, **overrides))

    @classmethod
    def cost(cls, config: TitansConfig, *, dtype_bytes: int) -> Cost:
        layer = MemoryLayer.flops(config) + SwiGLU.flops(config.hidden_size, config.intermediate_size)
        return Cost(
            flops_per_token=config.num_hidden_layers * layer + 2 * config.hidden_size * config.vocab_size,
            flops_per_context_token=0,
            state_bytes=config.num_hidden_layers * MemoryLayer.state_bytes(config, dtype_bytes=dtype_bytes),
            state_bytes_per_token=0,
        )

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    def new_state(self, batch_size: int, max_len: int) -> State:
        like, memory = self.norm.weight, self._blocks()[0].memory
        shapes = memory.state_shapes(batch_size)
        tensors: dict[str, Any] = {
            name: like.new_zeros(len(self.layers), *shape, dtype=like.dtype if name == "tail" else memory.inner_dtype)
            for name, shape in shapes.items()
        }
        state = TitansState(position=torch.zeros(1, dtype=torch.int64, device=like.device), max_len=max_len, **tensors)
        self.reset(state)
        return state

    @torch.no_grad()
    def reset(self, state: State) -> None:
        assert isinstance(state, TitansState)
        state.position.zero_()
        state.num_tokens = 0
        for i, block in enumerate(self._blocks()):
            # One sequence, then the same for all: the start does not depend on the batch size.
            whole = state.layer(i)
            first = LayerState(**{name: getattr(whole, name)[:1] for name in PARTS})
            block.start(first)
            for name in PARTS:
                getattr(whole, name).copy_(getattr(first, name).clone())

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T W"]:
        require_no_grad(state)
        x, offset = self.embed(ids), 0
        if state is not None:
            assert isinstance(state, TitansState)
            offset = self._place(state.num_tokens)
        for i, block in enumerate(self._blocks()):
            x = x + block.mix(block.mixer_norm(x), None if state is None else state.layer(i), offset=offset)
            x = x + block.mlp(block.mlp_norm(x))
        if state is not None:
            state.position += ids.shape[1]
        return self.norm(x)

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B W"]:
        require_no_grad(state)
        assert isinstance(state, TitansState)
        x = self.embed(ids)[:, None]
        place = (state.position + self.config.num_persistent) % self.config.chunk_size
        for i, block in enumerate(self._blocks()):
            x = x + block.memory.step(block.mixer_norm(x), state.layer(i), place=place, last=bool(variant))
            x = x + block.mlp(block.mlp_norm(x))
        state.position += 1
        return self.norm(x[:, 0])

    def _place(self, num_tokens: int) -> int:
        """Tokens in the current chunk, the persistent ones included, after `num_tokens` tokens."""
        return (num_tokens + self.config.num_persistent) % self.config.chunk_size

    def step_variant(self, num_tokens: int) -> int:
        """1 for the last token of a chunk, which writes the memory; else 0."""
        return int(self._place(num_tokens + 1) == 0)

    @property
    def kernel_path(self) -> dict[str, str]:
        return {"neural_memory": "chunked"}
