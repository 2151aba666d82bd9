"""Hybrids: Mamba layers with some attention between them, which may see everything or a window.

    x = x + mixer(norm(x))                 mixer: Mamba, attention, or attention over the last W tokens, layer by layer
    x = x + SwiGLU(norm(x))                then norm, then a tied or untied head

Mamba layers are those of `models.mamba`; with `mamba_norms`, Jamba's, whose dt, B and C each pass an RMSNorm behind
x_proj. Attention is that of `models.transformer`; without `rope_theta` it has no positions at all, and order comes from
the Mamba layers.

Sources: Lieber et al. 2024 (Jamba, arXiv 2403.19887); transformers 5.23.0 modeling_jamba.py, whose names the weights
keep. Departures, none of which changes the numbers of a whole read: dt, B, C and the state are float32 at least; a
second chunk of several tokens goes on from the state of the first, where transformers 5.23.0 starts its scan again
from zero. Sliding windows, rotary positions and free orders of layers are no Jamba's: they are written as
`model_type: hybrid`. Mixtures of experts are not built.
Rene (Cartesia 2024; cartesia-ai/edge cartesia_pytorch/rene.py @ 6788a08) is read as published: layers of one part each,
without a SwiGLU after it: Mamba-2, attention over a window whose queries, keys and values are one map and are not
rotated, or an MLP with GELU.

State per layer: Mamba E N numbers of float32 at least, and E (K - 1) inputs of the convolution; attention 2 G D a
token; a window 2 G D (W - 1), allocated whole, in a ring. So it grows with context only where some layer sees
everything. Letters: B batch, T tokens, M model width, E channels, N state size, K conv kernel, H query heads, G
key/value heads, D head dim, W window, S tokens kept, L layers of a kind, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.declare import ColumnDeclaration, whole
from ttbench.kernels.cached_attention import window_attention_step
from ttbench.kernels.dispatch.choice import fuses
from ttbench.models import ring
from ttbench.models.base import Description, Dialect
from ttbench.models.hybrid_config import RENE, HybridConfig, ReneConfig
from ttbench.models.layers import RMSNorm, bucket_len
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, stack_weights
from ttbench.models.state_space.mamba import KEYS, MambaMixer
from ttbench.models.state_space.mamba2 import Mamba2Mixer
from ttbench.models.state_space.mamba_config import Mamba2Config
from ttbench.models.transformer import Attention


class NormedProjection(nn.Linear):
    """x_proj of a Jamba: dt, B and C, each normed."""

    def __init__(self, inner_dim: int, *, rank: int, state_size: int, eps: float) -> None:
        super().__init__(inner_dim, rank + 2 * state_size, bias=False)
        self.sizes = [rank, state_size, state_size]
        self.norms = nn.ModuleList(RMSNorm(size, eps=eps) for size in self.sizes)

    def forward(self, input: Float[Tensor, "... E"]) -> Float[Tensor, "... R"]:
        parts = super().forward(input).split(self.sizes, -1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], -1)


class JambaMixer(MambaMixer):
    """Mamba, with Jamba's norms if `mamba_norms`."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        if config.mamba_norms:
            self.x_proj = NormedProjection(
                config.inner_dim, rank=self.rank, state_size=self.state_size, eps=config.norm_eps
            )


class FullAttention(Attention):
    """Attention to everything, without convolutions."""

    @staticmethod
    def conv_kernel(config: HybridConfig | ReneConfig) -> int:
        return 0

    @staticmethod
    def bias(config: HybridConfig | ReneConfig) -> bool:
        return False


class SlidingAttention(FullAttention):
    """Attention to the last W tokens, whose keys and values lie in a ring."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.window: int = config.sliding_window or 0

    @classmethod
    def slots(cls, config: HybridConfig | ReneConfig) -> dict[str, Slot]:
        kept = Slot(shape=(config.num_key_value_heads, (config.sliding_window or 0) - 1, config.head_dim))
        return {"ring_keys": kept, "ring_values": kept}

    @classmethod
    def work(cls, config: HybridConfig | ReneConfig) -> StackWork:
        whole = FullAttention.work(config)
        return StackWork(
            flops=whole.flops,
            local_flops_per_context_token=whole.flops_per_context_token,
            local_window=(config.sliding_window or 0) - 1,
        )

    def forward(self, x: Float[Tensor, "B T M"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T M"]:
        q, k, v = self.project(x, None, at=at)
        kept = None if part is None else (part["ring_keys"], part["ring_values"])
        return self.merge(ring.attend(q, (k, v), kept, position=at.positions[:1], window=self.window, read=read))

    def last(self, x: Float[Tensor, "B T M"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B 1 M"]:
        return self(x, part, at=at, read=read)[:, -1:]

    def step(self, x: Float[Tensor, "B 1 M"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 M"]:
        q, k, v = self.mixed(x, None)
        kept = part["ring_keys"], part["ring_values"]
        out = window_attention_step(q, k, v, at.turns, kept, None, position=at.positions, seen_len=variant)
        return self.to_stream()(out)

    def variant(self, num_tokens: int) -> int:
        """Keys that the step reads, at most; the whole window, where the kernel itself knows how many there are."""
        fused = fuses("window_attention_step", self.to_stream().weight)
        return self.window if fused else min(bucket_len(num_tokens + 1), self.window)

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """0 once the ring is full; before, what is in it grows."""
        return 0 if num_tokens >= self.window - 1 else None


class FusedAttention(SlidingAttention):
    """Rene's attention to the last W tokens: queries, keys and values of one map, nothing rotated."""

    def __init__(self, config: ReneConfig) -> None:
        # not the three maps of the others
        nn.Module.__init__(self)
        self.window, self.head_dim = config.sliding_window, config.head_dim
        q_dim, kv_dim = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        self.sizes = [q_dim, kv_dim, kv_dim]
        self.in_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.qkv_bias)
        self.out_proj = nn.Linear(q_dim, config.hidden_size, bias=config.out_bias)

    def to_stream(self) -> nn.Linear:
        return self.out_proj

    def mixed(self, x: Float[Tensor, "B T W"], part: Part | None) -> Sequence[Float[Tensor, "B T _"]]:
        return self.in_proj(x).split(self.sizes, -1)

    def merge(self, out: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T W"]:
        return self.out_proj(out.transpose(1, 2).flatten(-2))


class Mamba2Layer(Mamba2Mixer):
    """Rene's Mamba-2."""

    def __init__(self, config: ReneConfig) -> None:
        super().__init__(config.mamba2)

    @classmethod
    def shapes(cls, config: Any) -> tuple[tuple[int, int, int], tuple[int, int]]:
        return super().shapes(config.mamba2)

    @classmethod
    def work(cls, config: Any) -> StackWork:
        return super().work(config.mamba2)


class MLPLayer(Mixer):
    """Rene's MLP, a layer of its own: out(gelu(in(x))), in which no token sees another."""

    def __init__(self, config: ReneConfig) -> None:
        super().__init__()
        self.in_proj = nn.Linear(config.hidden_size, config.mlp_width, bias=config.mlp_layer_bias)
        self.out_proj = nn.Linear(config.mlp_width, config.hidden_size, bias=config.mlp_layer_bias)

    @classmethod
    def slots(cls, config: ReneConfig) -> dict[str, Slot]:
        return {}

    @classmethod
    def work(cls, config: ReneConfig) -> StackWork:
        return StackWork(flops=4 * config.hidden_size * config.mlp_width)

    def to_stream(self) -> nn.Linear:
        return self.out_proj

    def forward(self, x: Float[Tensor, "B T M"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T M"]:
        return self.out_proj(F.gelu(self.in_proj(x)))

    def last(self, x: Float[Tensor, "B T M"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B 1 M"]:
        return self(x[:, -1:], part, at=at, read=read)

    def step(self, x: Float[Tensor, "B 1 M"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 M"]:
        return self(x, part, at=at, read=0)


MIXERS: Mapping[str, type[Mixer]] = {
    "mamba": JambaMixer,
    "attention": FullAttention,
    "sliding_attention": SlidingAttention,
    "mamba2": Mamba2Layer,
    "fused_attention": FusedAttention,
    "mlp": MLPLayer,
}
# Jamba's names: those of the mixers say their kind, ours do not.
_NAMES = {
    "input_layernorm.weight": "mixer_norm.weight",
    "pre_ff_layernorm.weight": "mlp_norm.weight",
    **{f"feed_forward.{part}_proj.weight": f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")},
    **{f"mamba.{key}": f"mixer.{key}" for key in KEYS},
    **{f"mamba.{part}_layernorm.weight": f"mixer.x_proj.norms.{i}.weight" for i, part in enumerate(("dt", "b", "c"))},
    **{f"self_attn.{part}_proj.weight": f"mixer.{part}_proj.weight" for part in "qkvo"},
}
_WEIGHTS = stack_weights(
    embed="model.embed_tokens.weight", norm="model.final_layernorm.weight", layer="model.layers.{i}", names=_NAMES
)

_MAPS = [f"{name}.{leaf}" for name in ("in_proj", "conv1d", "out_proj") for leaf in ("weight", "bias")]
# The parts of all of Rene's layers are called alike, as ours are.
_RENE_WEIGHTS = stack_weights(
    embed="backbone.embedding.weight",
    norm="backbone.norm_f.weight",
    layer="backbone.layers.{i}",
    names={
        "norm.weight": "mixer_norm.weight",
        **{f"mixer.{key}": f"mixer.{key}" for key in (*_MAPS, "norm.weight", "dt_bias", "A_log", "D")},
    },
)
_TINY_RENE: Mapping[str, Any] = {
    "layer_types": ("mamba2", "mlp", "fused_attention", "mlp"),
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 12,
    "mlp_width": 48,
}


_SECTION = """
Mamba layers with some attention between them, over everything or over a window, layer by layer.

    x = x + mixer(norm(x))        mixer: mamba | attention | sliding_attention        then SwiGLU

State: that of each layer's kind; it grows only where a layer sees everything. Cost: the same. Faithful: reads
Jamba's checkpoints without experts (Lieber et al. 2024, arXiv 2403.19887), goldens from transformers. Our
reading: free orders of layers, windows and rotary positions are no Jamba's and are written as `model_type:
hybrid`. Mixtures of experts are refused. Rene (Cartesia 2024) is read as published: Mamba-2, windows without
positions and GELU MLPs, each a layer of its own, held against a second implementation of its published code.
"""


class Hybrid(Stack):
    """Language model of mixed layers. See the module docstring."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="Jamba's and Rene's, read",
        state=None,
        work={},
        grows="where a layer sees everything",
    )
    config_class = HybridConfig
    rotary = True  # where the config has a rope_theta
    ATTENTION = ("sdpa",)
    attention_backend = "sdpa"
    undecayed = frozenset({"A_log"})
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "sliding_window": whole("tokens that a query of a sliding layer sees, its own among them", "tokens")
    }
    TINY: ClassVar[Mapping[str, Any]] = {
        "layer_types": ("mamba", "sliding_attention", "mamba", "attention"),
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "mamba_dt_rank": 2,
        "mamba_d_state": 4,
        "sliding_window": 12,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    DIALECTS = (
        Dialect(
            name="hybrid",
            matches=lambda config: config.get("model_type") == "hybrid",
            config=HybridConfig.from_json,
            weights=_WEIGHTS,
        ),
        Dialect(
            name="jamba",
            matches=lambda config: config.get("model_type") == "jamba",
            config=HybridConfig.from_jamba,
            weights=_WEIGHTS,
        ),
        Dialect(
            name="rene",
            matches=lambda config: config.get("model_type") == "rene",
            config=ReneConfig.from_json,
            weights=_RENE_WEIGHTS,
        ),
    )

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        """A hybrid of our own, or with `written_by` "cartesia" a Rene."""
        if overrides.get("written_by") != RENE:
            return super().tiny(**overrides)
        given = {**_TINY_RENE, **overrides}
        ssm = {"d_state": 8, "headdim": 8, "ngroups": 2, **given.pop("ssm_cfg", {})}
        sizes = {"d_model": 32, "n_layer": len(given["layer_types"]), "vocab_size": 257, "pad_vocab_size_multiple": 1}
        mamba2 = Mamba2Config.from_mamba_ssm({**sizes, "ssm_cfg": ssm})
        return cls.from_config(ReneConfig(vocab_size=257, hidden_size=32, mamba2=mamba2, **given))

    @classmethod
    def mixers(cls, config: HybridConfig | ReneConfig) -> Sequence[type[Any]]:
        return [MIXERS[kind] for kind in config.layer_types]
