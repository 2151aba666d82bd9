"""Titans: language models with a neural long-term memory that learns while it reads.

    titans-lmm    m = M([P, x])    o = W_o (m * silu(W_g x))                            the memory alone
    titans-mag    m = M([P, x])    y = attention([P, x])    o = W_o (norm(y) * silu(m))       memory as gate
    titans-mal    m = M([P, x])    z = norm(W_z (m * silu(W_g [P, x])))    o = W_o attention(z)   memory as layer
    titans-mac    see models.titans_mac                                                 memory as context

M is the memory, its output normed in each head (`models.memory_layer`). P are N_p learned vectors in front of the input
of every layer, the persistent memory (equation 19): they are written to the memory like tokens, attention sees them
from everywhere, unrotated, besides a window of the last tokens, and what comes out at their places is dropped.

Source: Behrouz et al., arXiv 2501.00663v1, sections 3 and 4. There is no official code and there are no published
weights. The paper prints no widths, depths, chunk or segment sizes, N_p, kernel sizes, bounds of theta or activation of
the memory, so all of these are fields of `TitansConfig` or are named in `models.memory_layer`, and no number from here
is "Titans as published". Ours too: which side of the gate is activated, and by what; the norm between the layers of
MAL; that in MAL what comes out at the places of P stays in sight. A SwiGLU after the mixer follows the models that the
paper compares with.

State per layer, elements: H (2 P + C E + 3 C) with P the weights of the memory and E the widths in and out of all its
layers, and K - 1 inputs of the convolutions; with attention 2 W (N + S) more, for N = window - 1 tokens and the S
persistent vectors. All of it is constant in the context.
Letters: B batch, T tokens, H heads, D head dim, W width, C chunk, K conv kernel, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.declare import ColumnDeclaration, text, whole
from ttbench.kernels.cached_attention import window_attention_step
from ttbench.kernels.rotary import rotate_half
from ttbench.models import ring
from ttbench.models.base import WorkTerm
from ttbench.models.layers import RMSNorm, project
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, own_dialect
from ttbench.models.titans.memory_layer import MemoryLayer
from ttbench.models.titans.titans_config import (
    MOST_LAYERS,
    MAGConfig,
    MALConfig,
    TitansConfig,
    WindowConfig,
    memory_description,
)

Pair = tuple[Tensor, Tensor]  # keys and values


class TitansMixer(Mixer):
    """A memory, and the persistent vectors that every layer reads first. Subclasses say what is done with both."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        self.config = config
        rows = torch.empty(config.num_persistent, config.hidden_size).normal_()
        self.persistent = nn.Parameter(rows) if len(rows) else None
        self.memory = MemoryLayer(config)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    @classmethod
    def slots(cls, config: TitansConfig) -> dict[str, Slot]:
        return MemoryLayer.slots(config)

    @staticmethod
    def num_before(config: TitansConfig) -> int:
        """Vectors that the memory reads before the first token."""
        return config.num_persistent

    def start_weights_(self) -> None:
        self.memory.start_weights_()

    def start_state(self, part: Part) -> None:
        self.memory.start_state(part)
        if self.persistent is not None:
            self.read_persistent(self.persistent[None], part)

    def read_persistent(self, prefix: Float[Tensor, "1 N W"], part: Part) -> None:
        """What the persistent vectors leave in the state."""
        self.memory(prefix, part, offset=0)

    def prefixed(self, x: Float[Tensor, "B T W"], part: Part | None) -> Float[Tensor, "B _ W"]:
        """The tokens, behind the persistent vectors where nothing was read before."""
        if part is not None or self.persistent is None:
            return x
        return torch.cat((self.persistent.expand(len(x), -1, -1), x), 1)

    def offset(self, part: Part | None, read: int) -> int:
        """Tokens in the current chunk before those of `prefixed`."""
        return 0 if part is None else (read + self.num_before(self.config)) % self.config.chunk_size

    def variant(self, num_tokens: int) -> int:
        """1 for the last token of a chunk, which writes the memory; else 0."""
        return int((num_tokens + 1 + self.num_before(self.config)) % self.config.chunk_size == 0)

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """Tokens of the current chunk of the memory before those that are read, of whole chunks; None of others."""
        size = self.config.chunk_size
        return (num_tokens + self.num_before(self.config)) % size if chunk_len % size == 0 else None

    def maps_of_one_input(self) -> list[list[nn.Linear]]:
        return [self.memory.maps]

    def answer(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 H D"]:
        """What the memory answers to one token, which it reads; `part` is advanced in place."""
        assert at.place is not None
        return self.memory.step(x, part, place=at.place, last=bool(variant))


class LMMMixer(TitansMixer):
    """The memory alone, gated by a linear map of its input (section 4.4)."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__(config)
        self.g_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    @classmethod
    def work(cls, config: TitansConfig) -> StackWork:
        return StackWork(flops=MemoryLayer.flops(config) + 2 * 2 * config.hidden_size**2)

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        whole = self.prefixed(x, part)
        m = self.memory(whole, part, offset=self.offset(part, read))[:, -x.shape[1] :]
        return self.o_proj(self.memory.gated(m, self.g_proj(x)))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        m = self.answer(x, part, at=at, variant=variant)
        return self.o_proj(self.memory.gated(m, self.g_proj(x)))


class TitansAttention(nn.Module):
    """Queries, keys and values of attention beside a memory; keys of persistent vectors are not rotated."""

    def __init__(self, config: TitansConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_dim = config.head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))

    @property
    def maps(self) -> list[nn.Linear]:
        """Those of queries, keys and values."""
        return [self.q_proj, self.k_proj, self.v_proj]

    def heads(self, x: Float[Tensor, "B T W"]) -> Float[Tensor, "B H T D"]:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def queries(self, x: Float[Tensor, "B T W"], turns: Pair) -> Float[Tensor, "B H T D"]:
        return rotate_half(self.heads(self.q_proj(x)), *turns)

    def pair(self, x: Float[Tensor, "B T W"], turns: Pair | None) -> Pair:
        """Keys and values [B, H, T, D]."""
        k, v = self.heads(self.k_proj(x)), self.heads(self.v_proj(x))
        return (k if turns is None else rotate_half(k, *turns)), v


class WindowMixer(TitansMixer):
    """A memory beside attention to a window and to the persistent vectors."""

    config: WindowConfig

    def __init__(self, config: WindowConfig) -> None:
        super().__init__(config)
        self.attention = TitansAttention(config)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    @classmethod
    def slots(cls, config: WindowConfig) -> dict[str, Slot]:
        heads, dim = config.num_attention_heads, config.head_dim
        return MemoryLayer.slots(config) | {
            f"{where}_{what}": Slot(shape=(heads, size, dim))
            for where, size in (("ring", config.window - 1), ("sink", config.num_persistent))
            for what in ("keys", "values")
        }

    @classmethod
    def work(cls, config: WindowConfig) -> StackWork:
        width, attended = config.hidden_size, 4 * config.hidden_size
        return StackWork(
            flops=MemoryLayer.flops(config) + 4 * 2 * width**2 + attended * (1 + config.num_persistent),
            local_flops_per_context_token=attended,
            local_window=config.window - 1,
        )

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """As of the memory once the ring is full; before, what is in it grows."""
        return super().forward_variant(num_tokens, chunk_len) if num_tokens >= self.config.window - 1 else None

    def keep_sinks(self, x: Float[Tensor, "1 N W"], part: Part) -> None:
        for name, sinks in zip(("sink_keys", "sink_values"), self.attention.pair(x, None), strict=True):
            part[name].copy_(sinks)

    def attend(
        self, x: Float[Tensor, "B T W"], front: Float[Tensor, "B N W"], part: Part | None, *, at: At, read: int
    ) -> Float[Tensor, "B T W"]:
        """Attention of the tokens; `front` is what stands before them where nothing was read."""
        assert at.turns is not None
        if part is None:
            kept, sinks = None, self.attention.pair(front, None)
        else:
            kept, sinks = (part["ring_keys"], part["ring_values"]), (part["sink_keys"], part["sink_values"])
        q, new = self.attention.queries(x, at.turns), self.attention.pair(x, at.turns)
        out = ring.attend(q, new, kept, position=at.positions[:1], window=self.config.window, read=read, sinks=sinks)
        return out.transpose(1, 2).flatten(-2)

    def attend_step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At) -> Float[Tensor, "B 1 W"]:
        """The same for one token."""
        kept, sinks = (part["ring_keys"], part["ring_values"]), (part["sink_keys"], part["sink_values"])
        q, k, v = project(x, self.attention.maps)
        seen_len = self.config.window
        return window_attention_step(q, k, v, at.turns, kept, sinks, position=at.positions, seen_len=seen_len)

    def maps_of_one_input(self) -> list[list[nn.Linear]]:
        return [self.memory.maps, self.attention.maps]


class MAGMixer(WindowMixer):
    """Memory as gate: both read the same, and one gates the other (section 4.2)."""

    def read_persistent(self, prefix: Float[Tensor, "1 N W"], part: Part) -> None:
        self.memory(prefix, part, offset=0)
        self.keep_sinks(prefix, part)

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        whole, num_tokens = self.prefixed(x, part), x.shape[1]
        m = self.memory(whole, part, offset=self.offset(part, read))[:, -num_tokens:]
        return self.output(m, self.attend(x, whole[:, :-num_tokens], part, at=at, read=read))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        m = self.answer(x, part, at=at, variant=variant)
        return self.output(m, self.attend_step(x, part, at=at))

    def output(self, m: Float[Tensor, "B T H D"], y: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """W_o (norm(y) * silu(m))."""
        return self.o_proj(self.memory.gate(m, y, self.norm))


class MALMixer(WindowMixer):
    """Memory as layer: attention reads what the memory makes of the tokens (section 4.3)."""

    def __init__(self, config: WindowConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.g_proj, self.z_proj = (nn.Linear(width, width, bias=False) for _ in range(2))

    @classmethod
    def work(cls, config: WindowConfig) -> StackWork:
        beside = super().work(config)
        return replace(beside, flops=beside.flops + 2 * 2 * config.hidden_size**2)

    def between(self, m: Float[Tensor, "B T H D"], x: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """What attention reads."""
        return self.norm(self.z_proj(self.memory.gated(m, self.g_proj(x))))

    def read_persistent(self, prefix: Float[Tensor, "1 N W"], part: Part) -> None:
        self.keep_sinks(self.between(self.memory(prefix, part, offset=0), prefix), part)

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        whole, num_tokens = self.prefixed(x, part), x.shape[1]
        z = self.between(self.memory(whole, part, offset=self.offset(part, read)), whole)
        return self.o_proj(self.attend(z[:, -num_tokens:], z[:, :-num_tokens], part, at=at, read=read))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        z = self.between(self.answer(x, part, at=at, variant=variant), x)
        return self.o_proj(self.attend_step(z, part, at=at))


MEMORY_KEYS = (
    *(f"{part}_proj.weight" for part in "qkv"),
    *(f"convs.{part}.weight" for part in "qkv"),
    *(f"start.{i}" for i in range(MOST_LAYERS)),
    *("gates_proj.weight", "gates_proj.bias", "norm.weight"),
)
ATTENTION_KEYS = tuple(f"attention.{part}_proj.weight" for part in "qkv")
MIXER_KEYS = ("persistent", "o_proj.weight", *(f"memory.{key}" for key in MEMORY_KEYS))


WINDOW = {"window": whole("tokens that attention beside the memory sees, the query's own among them", "tokens")}


class Titans(Stack):
    """What the variants share."""

    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "memory_read": text("Titans: weights that a token reads: its own (token), or the chunk's first (chunk)"),
        "memory_init": text("Titans: how the memory starts: learned or zero"),
        "memory_layers": whole("Titans: layers of the memory's network", "layers"),
        "chunk_size": whole("Titans: tokens whose errors are taken at the same weights", "tokens"),
        "num_persistent": whole("Titans: learned vectors in front of the sequence", "vectors"),
    }
    TINY: ClassVar[Mapping[str, Any]] = {
        "chunk_size": 16,
        "memory_layers": 2,
        "memory_expansion": 2,
        "memory_read": "token",
        "memory_init": "learned",
        "max_step": 0.25,
        "num_persistent": 3,
    }

    def place(self, position: Int[Tensor, "1"]) -> Int[Tensor, "1"]:
        return (position + self.mixer_class.num_before(self.config)) % self.config.chunk_size


_LMM = """
Google's neural long-term memory, alone (Behrouz et al., arXiv 2501.00663v1): an MLP of L_M layers whose weights
are trained on the keys and values that it reads, with momentum and forgetting. The paper published neither code
nor weights nor sizes, so **no number from here is "Titans as published"**.

    q, k, v = silu(conv(W x)), each of length 1 in its head        eta, keep = sigmoid(W x + b)
    theta = max_step / C (1 - eta) sigmoid(W x + b)
    S_t = eta_t S_{t-1} - theta_t u_t        M_t = keep_t M_{t-1} + S_t
    u_t = gradient of |M(k_t) - v_t|² at the weights of the chunk's start
    m_t = norm(M_t(q_t)), or of M at the chunk's start (`memory_read`)        o = W_o (m silu(W_g x))

State: $state, in each head 2 P for weights and momentum (P all weights of a head's memory), C E for the chunk
under way (E widths in and out of all its layers), 3 C gates; K - 1 inputs of three convolutions. Cost:
$projections for projections, $gates for gates and, with the exact read, $memory a head, P_1 the weights of the
memory's first layer. That is of a text; single steps make the products of a chunk's gates anew for each token,
2 C³ a head. Faithful: equations 9 to 16 by closed forms, equal to the token-by-token recurrence with automatic
differentiation to 1e-10 and, with one layer, flash-linear-attention's token loop where its LayerNorm vanishes;
gates of exactly 0 and 1; gates per token; persistent vectors that are written to memory like tokens. The
memory's weights are never copied for a token. Our reading: what the paper leaves open is a field of the config
(`chunk_size`, `memory_layers`, `memory_expansion`, `memory_read`, `memory_init`, `max_step`, `unit_norm`,
`damped_step`, `num_persistent`, `conv_kernel`). Three bounds on the step, without which training ended in NaN,
are ours ([`models/titans/memory_layer.py`](../ttbench/models/titans/memory_layer.py)). Forgetting pulls a deep
memory towards zeros, from which it has no gradient to return; it starts with 0.9997 kept. C changes the model,
not only the speed. titans-pytorch's memory converts where both are one function ([check a foreign
model](check-a-foreign-model.md)).
"""
_MAG = """
Memory as gate: memory and windowed attention read the same, and one gates the other.

    m = norm(M([P, x]))        y = attention([P, x]; window)        o = W_o (norm(y) silu(m))

State: that of the memory and $keys. Cost: $projections for projections, $attention for attention, and the rest
as `titans-lmm`. Faithful: both branches see the persistent vectors, which stay visible beyond the window; both
sides are normed by learned vectors. Our reading: which side is activated, and by SiLU.
"""
_MAL = """
Memory as layer: attention reads what the memory makes of the tokens.

    m = norm(M([P, x]))        z = norm(W_z (m silu(W_g [P, x])))        o = W_o attention(z; window)

State: as `titans-mag`. Cost: $projections for projections, the rest as `titans-mag`. Faithful: the order, the
window. Our reading: the norm between both; what comes out at the places of P stays in sight of the attention.
"""
_KEYS = "2 W (window - 1 + N)"


class TitansLMM(Titans):
    """Titans, the memory alone: layers that train the weights of a small network on what they read."""

    DESCRIPTION = memory_description(section=_LMM, projections="10 W²")
    config_class = TitansConfig
    mixer_class = LMMMixer
    DIALECTS = (own_dialect(TitansConfig, mixer_keys=(*MIXER_KEYS, "g_proj.weight")),)


class TitansMAG(Titans):
    """Titans, memory as gate: memory and attention to a window read the same, and one gates the other."""

    DESCRIPTION = memory_description(
        section=_MAG, projections="14 W²", keys=_KEYS, attention=WorkTerm(formula="4 W (window + N)")
    )
    config_class = MAGConfig
    mixer_class = MAGMixer
    rotary = True
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {**Titans.CHOICES, **WINDOW}
    ATTENTION = ("sdpa",)
    attention_backend = "sdpa"
    TINY: ClassVar[Mapping[str, Any]] = {**Titans.TINY, "window": 12}
    DIALECTS = (own_dialect(MAGConfig, mixer_keys=(*MIXER_KEYS, *ATTENTION_KEYS, "norm.weight")),)


class TitansMAL(Titans):
    """Titans, memory as layer: attention to a window reads what the memory makes of the tokens."""

    DESCRIPTION = memory_description(
        section=_MAL, projections="18 W²", keys=_KEYS, attention=WorkTerm(formula="4 W (window + N)")
    )
    config_class = MALConfig
    mixer_class = MALMixer
    rotary = True
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {**Titans.CHOICES, **WINDOW}
    ATTENTION = ("sdpa",)
    attention_backend = "sdpa"
    TINY: ClassVar[Mapping[str, Any]] = {**Titans.TINY, "window": 12}
    DIALECTS = (
        own_dialect(
            MALConfig, mixer_keys=(*MIXER_KEYS, *ATTENTION_KEYS, "norm.weight", "g_proj.weight", "z_proj.weight")
        ),
    )
