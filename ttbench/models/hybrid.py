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

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.kernels import attention, selective_scan
from ttbench.models import ring
from ttbench.models.base import Dialect, SequenceModel, State, layout, require_no_grad
from ttbench.models.hybrid_config import HybridConfig
from ttbench.models.layers import RMSNorm, SwiGLU, bucket_len, init_weights_, rotary_angles
from ttbench.models.mamba import MambaMixer
from ttbench.models.transformer import Attention, TransformerConfig
from ttbench.types import Cost


@dataclass(kw_only=True)
class HybridState(State):
    """What each kind of layer keeps; a kind that the model lacks has L = 0."""

    ssm: Float[Tensor, "L B E N"] = layout(batch_dim=1)
    tail: Float[Tensor, "L B S E"] = layout(batch_dim=1)
    keys: Float[Tensor, "L B G S D"] = layout(batch_dim=1, length_dim=3)
    values: Float[Tensor, "L B G S D"] = layout(batch_dim=1, length_dim=3)
    # The last W - 1 tokens; that of position p lies at p % (W - 1).
    ring_keys: Float[Tensor, "L B G S D"] = layout(batch_dim=1)
    ring_values: Float[Tensor, "L B G S D"] = layout(batch_dim=1)


class NormedProjection(nn.Linear):
    """x_proj of a Jamba: dt, B and C, each normed."""

    def __init__(self, inner_dim: int, *, rank: int, state_size: int, eps: float) -> None:
        super().__init__(inner_dim, rank + 2 * state_size, bias=False)
        self.sizes = [rank, state_size, state_size]
        self.norms = nn.ModuleList(RMSNorm(size, eps=eps) for size in self.sizes)

    def forward(self, input: Float[Tensor, "... E"]) -> Float[Tensor, "... R"]:
        parts = super().forward(input).split(self.sizes, -1)
        return torch.cat([norm(part) for norm, part in zip(self.norms, parts, strict=True)], -1)


def make_mixer(config: HybridConfig, kind: str) -> nn.Module:
    """A layer's mixer."""
    if kind != "mamba":
        return Attention(
            TransformerConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
            )
        )
    rank, state_size, inner_dim = config.mamba_dt_rank, config.mamba_d_state, config.inner_dim
    mixer = MambaMixer(
        config.hidden_size,
        inner_dim=inner_dim,
        state_size=state_size,
        rank=rank,
        conv_kernel=config.mamba_d_conv,
        use_bias=config.mamba_proj_bias,
        use_conv_bias=config.mamba_conv_bias,
    )
    if config.mamba_norms:
        mixer.x_proj = NormedProjection(inner_dim, rank=rank, state_size=state_size, eps=config.rms_norm_eps)
    return mixer


class Block(nn.Module):
    """A mixer and SwiGLU, each after a norm and added to the stream."""

    def __init__(self, config: HybridConfig, kind: str) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = make_mixer(config, kind)
        self.pre_ff_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = SwiGLU(config.hidden_size, config.intermediate_size)


def _weights() -> dict[str, str | None]:
    """Jamba's names: those of the mixers say their kind, ours do not."""
    plain = [f"feed_forward.{part}_proj.weight" for part in ("gate", "up", "down")]
    plain += ["input_layernorm.weight", "pre_ff_layernorm.weight"]
    mamba = [f"{name}.{leaf}" for name in ("in_proj", "conv1d", "dt_proj", "out_proj") for leaf in ("weight", "bias")]
    mamba += ["x_proj.weight", "A_log", "D"]
    layer = {
        **{name: name for name in plain},
        **{f"mamba.{name}": f"mixer.{name}" for name in mamba},
        **{
            f"mamba.{name}_layernorm.weight": f"mixer.x_proj.norms.{i}.weight"
            for i, name in enumerate(("dt", "b", "c"))
        },
        **{f"self_attn.{part}_proj.weight": f"mixer.{part}_proj.weight" for part in "qkvo"},
    }
    return {
        "model.embed_tokens.weight": "embed.weight",
        "model.final_layernorm.weight": "norm.weight",
        "lm_head.weight": "lm_head.weight",
        **{f"model.layers.{{i}}.{theirs}": f"layers.{{i}}.{ours}" for theirs, ours in layer.items()},
    }


class Hybrid(SequenceModel):
    """Language model of mixed layers. See the module docstring."""

    version = 1
    ATTENTION = ("sdpa",)
    attention_backend = "sdpa"
    undecayed = frozenset({"A_log"})
    DIALECTS = (
        Dialect(
            name="hybrid",
            matches=lambda config: config.get("model_type") == "hybrid",
            config=HybridConfig.from_json,
            weights=_weights(),
        ),
        Dialect(
            name="jamba",
            matches=lambda config: config.get("model_type") == "jamba",
            config=HybridConfig.from_jamba,
            weights=_weights(),
        ),
    )

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.state_grows = config.count("attention") > 0
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, kind) for kind in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        outputs: list[nn.Linear] = []
        for _, block, mixer in self._parts():
            outputs += [mixer.out_proj if isinstance(mixer, MambaMixer) else mixer.o_proj, block.feed_forward.down_proj]
        init_weights_(self, residual=outputs, num_branches=len(outputs))
        for _, _, mixer in self._parts():
            if isinstance(mixer, MambaMixer):
                mixer.start_()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    def _parts(self) -> Iterator[tuple[int, Block, MambaMixer | Attention]]:
        """Every layer's number among those of its kind, the layer, and its mixer."""
        kinds = self.config.layer_types
        for i, block in enumerate(cast("list[Block]", list(self.layers))):
            yield kinds[:i].count(kinds[i]), block, cast("MambaMixer | Attention", block.mixer)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = HybridConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=48,
            layer_types=("mamba", "sliding_attention", "mamba", "attention"),
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            mamba_dt_rank=2,
            mamba_d_state=4,
            sliding_window=12,
            rope_theta=10000.0,
            tie_word_embeddings=True,
        )
        return cls(replace(config, **overrides))

    @classmethod
    def cost(cls, config: HybridConfig, *, dtype_bytes: int) -> Cost:
        width, inner_dim, size = config.hidden_size, config.inner_dim, config.mamba_d_state
        q_dim, kv_dim = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        mamba = 2 * inner_dim * (3 * width + 2 * config.mamba_dt_rank + 2 * size + config.mamba_d_conv)
        mamba += inner_dim * selective_scan.flops(size)
        attended = 4 * q_dim
        attending = 2 * width * (2 * q_dim + 2 * kv_dim) + attended
        num_mamba, num_full, num_sliding = (config.count(kind) for kind in ("mamba", "attention", "sliding_attention"))
        layers = num_mamba * mamba + (num_full + num_sliding) * attending
        layers += config.num_hidden_layers * SwiGLU.flops(width, config.intermediate_size)
        kept = (config.sliding_window or 1) - 1 if num_sliding else 0
        mamba_bytes = inner_dim * (size * max(4, dtype_bytes) + (config.mamba_d_conv - 1) * dtype_bytes)
        return Cost(
            flops_per_token=layers + 2 * width * config.vocab_size,
            flops_per_context_token=num_full * attended,
            local_flops_per_context_token=num_sliding * attended,
            local_window=kept,
            state_bytes=num_mamba * mamba_bytes + num_sliding * 2 * kv_dim * kept * dtype_bytes,
            state_bytes_per_token=num_full * 2 * kv_dim * dtype_bytes,
        )

    def new_state(self, batch_size: int, max_len: int) -> HybridState:
        config, like = self.config, self.norm.weight
        num_mamba, inner_dim = config.count("mamba"), config.inner_dim
        heads, num_sliding = (batch_size, config.num_key_value_heads), config.count("sliding_attention")
        keys = (config.count("attention"), *heads, max_len, config.head_dim)
        places = (num_sliding, *heads, config.sliding_window - 1 if num_sliding else 0, config.head_dim)
        return HybridState(
            position=torch.zeros(1, dtype=torch.int64, device=like.device),
            max_len=max_len,
            ssm=like.new_zeros(num_mamba, batch_size, inner_dim, config.mamba_d_state, dtype=self._wide()),
            tail=like.new_zeros(num_mamba, batch_size, config.mamba_d_conv - 1, inner_dim),
            keys=like.new_zeros(keys),
            values=like.new_zeros(keys),
            ring_keys=like.new_zeros(places),
            ring_values=like.new_zeros(places),
        )

    def reset(self, state: State) -> None:
        assert isinstance(state, HybridState)
        # keys and values beyond num_tokens are never read, so they need no clearing
        for tensor in (state.position, state.ssm, state.tail, state.ring_keys, state.ring_values):
            tensor.zero_()
        state.num_tokens = 0

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T M"]:
        require_no_grad(state)
        assert state is None or isinstance(state, HybridState)
        x = self.embed(ids)
        places = torch.arange(ids.shape[1], device=ids.device)
        turns = self._turns(places if state is None else places + state.position)
        for (i, block, mixer), kind in zip(self._parts(), self.config.layer_types, strict=True):
            h = block.input_layernorm(x)
            if isinstance(mixer, MambaMixer):
                ssm, tail = (None, None) if state is None else (state.ssm[i], state.tail[i])
                out = mixer(h, ssm=ssm, tail=tail)
            else:
                q, k, v = mixer.project(h, turns, None)
                if kind == "attention":
                    out = self._attend(q, k, v, state, i)
                else:
                    kept = None if state is None else (state.ring_keys[i], state.ring_values[i])
                    read = 0 if state is None else state.num_tokens
                    out = ring.attend(q, (k, v), kept, window=self.config.sliding_window, read=read)
                out = mixer.merge(out)
            x = x + out
            x = x + block.feed_forward(block.pre_ff_layernorm(x))
        if state is not None:
            state.position += ids.shape[1]
        return self.norm(x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, state: HybridState | None, i: int) -> Float[Tensor, "B H T D"]:
        """Attention to everything; keys and values are written to the state."""
        if state is not None:
            start, end = state.num_tokens, state.num_tokens + q.shape[2]
            state.keys[i, :, :, start:end] = k
            state.values[i, :, :, start:end] = v
            k, v = state.keys[i, :, :, :end], state.values[i, :, :, :end]
        return attention.chunked(q, k, v)

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B M"]:
        require_no_grad(state)
        assert isinstance(state, HybridState)
        x, turns = self.embed(ids), self._turns(state.position)
        for (i, block, mixer), kind in zip(self._parts(), self.config.layer_types, strict=True):
            h = block.input_layernorm(x)
            if isinstance(mixer, MambaMixer):
                out = mixer.step(h, ssm=state.ssm[i], tail=state.tail[i])
            else:
                q, k, v = mixer.project(h[:, None], turns, None)
                if kind == "attention":
                    out = self._step_full(q, k, v, state.position, (state.keys[i], state.values[i]), variant)
                else:
                    kept = state.ring_keys[i], state.ring_values[i]
                    out = ring.step(q, (k, v), kept, position=state.position, seen_len=variant)
                out = mixer.merge(out)[:, 0]
            x = x + out
            x = x + block.feed_forward(block.pre_ff_layernorm(x))
        state.position += 1
        return self.norm(x)

    @staticmethod
    def _step_full(
        q: Tensor, k: Tensor, v: Tensor, position: Tensor, kept: tuple[Tensor, Tensor], variant: int
    ) -> Float[Tensor, "B H 1 D"]:
        keys, values = kept
        keys.index_copy_(2, position, k)
        values.index_copy_(2, position, v)
        seen_len = min(variant, keys.shape[2])
        seen = (torch.arange(seen_len, device=q.device) <= position)[None, None, None]
        return attention.step(q, keys[:, :, :seen_len], values[:, :, :seen_len], seen)

    def step_variant(self, num_tokens: int) -> int:
        """Keys that attention reads, at most; windows stop at theirs."""
        config = self.config
        if config.count("attention"):
            return bucket_len(num_tokens + 1)
        return min(bucket_len(num_tokens + 1), config.sliding_window) if config.count("sliding_attention") else 0

    @property
    def kernel_path(self) -> dict[str, str]:
        paths = {"mamba": ("selective_scan", "chunked"), "attention": ("attention", "sdpa")}
        paths["sliding_attention"] = ("window_attention", "sdpa")
        return dict(paths[kind] for kind in sorted(set(self.config.layer_types)))

    def _turns(self, places: Int[Tensor, "T"]) -> tuple[Tensor, Tensor] | None:
        config = self.config
        if config.rope_theta is None:
            return None
        return rotary_angles(places, dim=config.head_dim, theta=config.rope_theta, dtype=self.norm.weight.dtype)

    def _wide(self) -> torch.dtype:
        return torch.promote_types(self.norm.weight.dtype, torch.float32)
