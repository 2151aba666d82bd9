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
Rene (Cartesia 2024) is the model in the manner of which the windows are; its checkpoints are not read, see
docs/methodology.md.

State per layer: Mamba E N numbers of float32 at least, and E (K - 1) inputs of the convolution; attention 2 G D a
token; a window 2 G D (W - 1), allocated whole, in a ring. So it grows with context only where some layer sees
everything. Letters: B batch, T tokens, M model width, E channels, N state size, K conv kernel, H query heads, G
key/value heads, D head dim, W window, S tokens kept, L layers of a kind, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.models import ring
from ttbench.models.base import Dialect
from ttbench.models.hybrid_config import HybridConfig
from ttbench.models.layers import RMSNorm, bucket_len
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, stack_weights
from ttbench.models.state_space.mamba import KEYS, MambaMixer
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
    def conv_kernel(config: HybridConfig) -> int:
        return 0

    @staticmethod
    def bias(config: HybridConfig) -> bool:
        return False


class SlidingAttention(FullAttention):
    """Attention to the last W tokens, whose keys and values lie in a ring."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__(config)
        self.window: int = config.sliding_window or 0

    @classmethod
    def slots(cls, config: HybridConfig) -> dict[str, Slot]:
        kept = Slot(shape=(config.num_key_value_heads, (config.sliding_window or 0) - 1, config.head_dim))
        return {"ring_keys": kept, "ring_values": kept}

    @classmethod
    def work(cls, config: HybridConfig) -> StackWork:
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
        q, k, v = self.project(x, None, at=at)
        kept = part["ring_keys"], part["ring_values"]
        return self.merge(ring.step(q, (k, v), kept, position=at.positions, seen_len=variant))

    def variant(self, num_tokens: int) -> int:
        """Keys that the step reads, at most."""
        return min(bucket_len(num_tokens + 1), self.window)

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        """0 once the ring is full; before, what is in it grows."""
        return 0 if num_tokens >= self.window - 1 else None


MIXERS: Mapping[str, type[Mixer]] = {
    "mamba": JambaMixer,
    "attention": FullAttention,
    "sliding_attention": SlidingAttention,
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


class Hybrid(Stack):
    """Language model of mixed layers. See the module docstring."""

    config_class = HybridConfig
    rotary = True  # where the config has a rope_theta
    ATTENTION = ("sdpa",)
    attention_backend = "sdpa"
    undecayed = frozenset({"A_log"})
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
    )

    @classmethod
    def mixers(cls, config: HybridConfig) -> Sequence[type[Any]]:
        return [MIXERS[kind] for kind in config.layer_types]
