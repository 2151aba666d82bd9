"""Transformer of the Llama family: the architecture that the others want to replace.

    x = x + o(attention(rope(conv(q(norm(x)))), rope(conv(k(norm(x)))), conv(v(norm(x)))))
    x = x + SwiGLU(norm(x))                               then norm, then a tied or untied head

Sources: Touvron et al. 2023 (Llama), Ainslie et al. 2023 (grouped queries), Su et al. 2021 (rotary embedding).
Departure: `conv_kernel` > 0 adds to q, k and v, before rotation, a causal depthwise convolution of themselves
(q + conv(q)), the short convolution that Mamba, Titans and the TTT paper's backbone carry in their mixers
(So et al. 2021, Primer, for attention). With `conv_kernel` 0 it is exactly Llama.

State per layer: 2 * G * D elements a token (G key/value heads), and K - 1 inputs of each convolution.
Letters: B batch, T tokens, H query heads, G key/value heads, D head dim, L layers, K conv kernel, V vocabulary,
N tokens whose outputs are wanted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.errors import CheckpointError
from ttbench.kernels import attention
from ttbench.models.base import Dialect, SequenceModel, State, layout, require_no_grad
from ttbench.models.known_fields import require_known_fields
from ttbench.models.layers import RMSNorm, ShortConv, SwiGLU, bucket_len, init_weights_, rotary_angles, rotate_half
from ttbench.types import Cost

# Variants that are not built: the one value that is.
_ONLY = {"hidden_act": "silu", "sliding_window": None}
_ROPE_FIELDS = ("rope_scaling", "rope_parameters", "partial_rotary_factor")
_ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes, in the names of Hugging Face's LlamaConfig."""

    vocab_size: int  # tokens
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # of all four projections
    mlp_bias: bool = False
    conv_kernel: int = 0  # tokens; 0: no convolution

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a Llama config.json.

        Raises CheckpointError on a missing or an unknown field, or a variant that is not built.
        """
        own = [field.name for field in dataclasses.fields(cls)]
        require_known_fields(data, read=(*own, *_ROPE_FIELDS, *_ONLY), model=str(data.get("model_type")))
        missing = [
            key
            for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
            if key not in data
        ]
        if missing:
            raise CheckpointError(f"config.json lacks {', '.join(missing)}; a Llama config must state them")
        for key, allowed in _ONLY.items():
            if data.get(key, allowed) != allowed:
                raise CheckpointError(f"config.json has {key}={data[key]!r}; the transformer reads only {allowed!r}")
        num_heads = data["num_attention_heads"]
        num_kv_heads = data.get("num_key_value_heads") or num_heads
        head_dim = data.get("head_dim") or data["hidden_size"] // num_heads
        if num_heads % num_kv_heads or head_dim % 2:
            raise CheckpointError(
                f"config.json has num_attention_heads={num_heads}, num_key_value_heads={num_kv_heads}, "
                f"head_dim={head_dim}; query heads must be a multiple of key/value heads and head_dim even"
            )
        return cls(
            vocab_size=data["vocab_size"],
            hidden_size=data["hidden_size"],
            intermediate_size=data["intermediate_size"],
            num_hidden_layers=data["num_hidden_layers"],
            num_attention_heads=num_heads,
            num_key_value_heads=num_kv_heads,
            head_dim=head_dim,
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            rope_theta=_rope_theta(data),
            tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
            attention_bias=bool(data.get("attention_bias", False)),
            mlp_bias=bool(data.get("mlp_bias", False)),
            conv_kernel=int(data.get("conv_kernel", 0)),
        )

    def to_json(self) -> dict[str, Any]:
        """config.json: a plain Llama one, which transformers reads too, when there is no convolution."""
        data: dict[str, Any] = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        if self.conv_kernel:
            data |= {"architectures": [], "model_type": "llama-conv", "conv_kernel": self.conv_kernel}
        return data


def _rope_theta(data: Mapping[str, Any]) -> float:
    """The rotary base; scaled variants are refused, never approximated.

    transformers 5 takes `rope_scaling` instead of `rope_parameters` where both are given, not beside it, and the base
    inside either before the one at the top; so does this. Source: transformers 5.23.0 modeling_rope_utils.py.
    """
    parameters = data.get("rope_scaling") or data.get("rope_parameters") or {}
    unknown = [key for key in parameters if key not in _ROPE_KEYS]
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default" or unknown:
        what = f"rotary scaling {kind!r}" if kind != "default" else f"rotary {', '.join(unknown)}"
        raise CheckpointError(
            f"config.json asks for {what}; only 'default' is built, and reading the weights without the scaling would "
            "give wrong numbers; run it as transformers does, with --engine hf"
        )
    if parameters.get("partial_rotary_factor", data.get("partial_rotary_factor", 1.0)) not in (1.0, None):
        raise CheckpointError("config.json asks for a partial rotary embedding; the transformer rotates whole heads")
    theta = parameters.get("rope_theta", data.get("rope_theta", 10000.0))
    if type(theta) not in (int, float) or not 0 < theta < math.inf:
        raise CheckpointError(f"config.json has rope_theta={theta!r}; allowed: a finite positive number")
    return float(theta)


@dataclass(kw_only=True)
class TransformerState(State):
    """Keys and values of every token, and the tails of the convolutions."""

    keys: Float[Tensor, "L B G M D"] = layout(batch_dim=1, length_dim=3)
    values: Float[Tensor, "L B G M D"] = layout(batch_dim=1, length_dim=3)
    conv: Float[Tensor, "L B S C"] = layout(batch_dim=1)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions and optional short convolutions on q, k, v."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_dim = config.num_attention_heads * config.head_dim
        self.kv_dim = config.num_key_value_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, self.q_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, self.kv_dim, bias=bias)
        self.o_proj = nn.Linear(self.q_dim, config.hidden_size, bias=bias)
        self.convs = nn.ModuleList()
        if config.conv_kernel:
            self.convs = nn.ModuleList(
                ShortConv(dim, config.conv_kernel, bias=False) for dim in (self.q_dim, self.kv_dim, self.kv_dim)
            )

    def project(
        self, x: Float[Tensor, "B T D"], turns: tuple[Tensor, Tensor] | None, conv_state: Float[Tensor, "B S C"] | None
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G T D"], Float[Tensor, "B G T D"]]:
        """Queries and keys, rotated by the cosines and sines of `turns`, if any, and values.

        The tails of the convolutions are written to `conv_state`.
        """
        parts = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        if len(self.convs):
            offset = 0
            for i, (conv, part) in enumerate(zip(self.convs, parts, strict=True)):
                tail = None if conv_state is None else conv_state[..., offset : offset + part.shape[-1]]
                out, next_tail = conv(part, tail)
                parts[i] = part + out
                if tail is not None:
                    tail.copy_(next_tail)
                offset += part.shape[-1]
        # [B, T, H * D] -> [B, H, T, D]
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in parts)
        return (q, k, v) if turns is None else (rotate_half(q, *turns), rotate_half(k, *turns), v)

    def merge(self, out: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T D"]:
        return self.o_proj(out.transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """Attention and SwiGLU, each after a norm and added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)


_WEIGHTS: dict[str, str | None] = {
    "model.embed_tokens.weight": "embed.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "lm_head.weight",
    "model.layers.{i}.self_attn.rotary_emb.inv_freq": None,
    **{
        f"model.layers.{{i}}.{name}": f"layers.{{i}}.{name}"
        for name in (
            "input_layernorm.weight",
            "post_attention_layernorm.weight",
            *(f"self_attn.{part}_proj.{leaf}" for part in "qkvo" for leaf in ("weight", "bias")),
            *(f"mlp.{part}_proj.{leaf}" for part in ("gate", "up", "down") for leaf in ("weight", "bias")),
        )
    },
}
_OPTIONAL = frozenset({"model.layers.{i}.self_attn.rotary_emb.inv_freq"})
_CONV_WEIGHTS: dict[str, str | None] = {
    f"model.layers.{{i}}.self_attn.{part}_conv.weight": f"layers.{{i}}.self_attn.convs.{index}.weight"
    for index, part in enumerate("qkv")
}


class Transformer(SequenceModel):
    """Decoder-only Transformer. See the module docstring."""

    version = 2
    state_grows = True
    ATTENTION = tuple(attention.BACKENDS)
    attention_backend = ATTENTION[0]
    DIALECTS = (
        Dialect(
            name="llama",
            matches=lambda config: config.get("model_type") == "llama",
            config=TransformerConfig.from_json,
            weights=_WEIGHTS,
            optional=_OPTIONAL,
        ),
        Dialect(
            name="llama-conv",
            matches=lambda config: config.get("model_type") == "llama-conv",
            config=TransformerConfig.from_json,
            weights=_WEIGHTS | _CONV_WEIGHTS,
            optional=_OPTIONAL,
        ),
    )

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        outputs = [part for block in self._blocks() for part in (block.self_attn.o_proj, block.mlp.down_proj)]
        init_weights_(self, residual=outputs, num_branches=len(outputs))
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = TransformerConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            tie_word_embeddings=True,
            conv_kernel=4,
        )
        return cls(replace(config, **overrides))

    @classmethod
    def cost(cls, config: TransformerConfig, *, dtype_bytes: int) -> Cost:
        q_dim = config.num_attention_heads * config.head_dim
        kv_dim = config.num_key_value_heads * config.head_dim
        channels = q_dim + 2 * kv_dim
        layer = 2 * config.hidden_size * (2 * q_dim + 2 * kv_dim)
        layer += SwiGLU.flops(config.hidden_size, config.intermediate_size)
        layer += 2 * config.conv_kernel * channels + 4 * q_dim
        layers = config.num_hidden_layers
        return Cost(
            flops_per_token=layers * layer + 2 * config.hidden_size * config.vocab_size,
            flops_per_context_token=layers * 4 * q_dim,
            state_bytes=layers * max(config.conv_kernel - 1, 0) * channels * dtype_bytes,
            state_bytes_per_token=layers * 2 * kv_dim * dtype_bytes,
        )

    def new_state(self, batch_size: int, max_len: int) -> TransformerState:
        config, like = self.config, self.norm.weight
        kv_shape = (config.num_hidden_layers, batch_size, config.num_key_value_heads, max_len, config.head_dim)
        channels = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        tail_shape = (config.num_hidden_layers, batch_size, max(config.conv_kernel - 1, 0), channels)
        return TransformerState(
            position=torch.zeros(1, dtype=torch.int64, device=like.device),
            max_len=max_len,
            keys=like.new_zeros(kv_shape),
            values=like.new_zeros(kv_shape),
            conv=like.new_zeros(tail_shape),
        )

    def reset(self, state: State) -> None:
        assert isinstance(state, TransformerState)
        # keys and values beyond num_tokens are never read, so they need no clearing
        state.position.zero_()
        state.conv.zero_()
        state.num_tokens = 0

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T D"]:
        return self._read(ids, state, num_last=ids.shape[1])

    def prefill(self, ids: Int[Tensor, "B T"], state: State) -> Float[Tensor, "B D"]:
        """As `forward`; the last layer takes the keys and values of all tokens, and the query of the last one only."""
        return self._read(ids, state, num_last=1)[:, -1]

    def _read(self, ids: Int[Tensor, "B T"], state: State | None, *, num_last: int) -> Float[Tensor, "B N D"]:
        """Hidden states of the last `num_last` tokens."""
        require_no_grad(state)
        assert state is None or isinstance(state, TransformerState)
        x = self.embed(ids)
        num_tokens = ids.shape[1]
        positions = torch.arange(num_tokens, device=ids.device)
        start, end = 0, num_tokens
        if state is not None:
            positions = positions + state.position
            start, end = state.num_tokens, state.num_tokens + num_tokens
        attend = attention.BACKENDS[self.attention_backend].prefill
        turns = rotary_angles(
            positions, dim=self.config.head_dim, theta=self.config.rope_theta, dtype=self.norm.weight.dtype
        )
        for i, block in enumerate(self._blocks()):
            attn = block.self_attn
            conv_state = None if state is None else state.conv[i]
            q, k, v = attn.project(block.input_layernorm(x), turns, conv_state)
            if state is not None:
                state.keys[i, :, :, start:end] = k
                state.values[i, :, :, start:end] = v
                k, v = state.keys[i, :, :, :end], state.values[i, :, :, :end]
            if i + 1 == len(self.layers):
                # Nothing reads what the last layer writes for the tokens before.
                q, x = q[:, :, -num_last:], x[:, -num_last:]
            x = x + attn.merge(attend(q, k, v))
            x = x + block.mlp(block.post_attention_layernorm(x))
        if state is not None:
            state.position += num_tokens
        return self.norm(x)

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B D"]:
        require_no_grad(state)
        assert isinstance(state, TransformerState)
        x = self.embed(ids)[:, None]
        turns = rotary_angles(
            state.position, dim=self.config.head_dim, theta=self.config.rope_theta, dtype=self.norm.weight.dtype
        )
        attend = attention.BACKENDS[self.attention_backend].step
        seen_len = min(variant, state.keys.shape[3])
        seen = (torch.arange(seen_len, device=ids.device) <= state.position)[None, None, None]
        for i, block in enumerate(self._blocks()):
            attn = block.self_attn
            q, k, v = attn.project(block.input_layernorm(x), turns, state.conv[i])
            state.keys[i].index_copy_(2, state.position, k)
            state.values[i].index_copy_(2, state.position, v)
            out = attend(q, state.keys[i, :, :, :seen_len], state.values[i, :, :, :seen_len], seen)
            x = x + attn.merge(out)
            x = x + block.mlp(block.post_attention_layernorm(x))
        state.position += 1
        return self.norm(x[:, 0])

    def step_variant(self, num_tokens: int) -> int:
        """Keys that the step reads: a bucket of the used length.

        Where the attention takes no mask it is the used length itself, so a captured graph would serve one step only.
        """
        if not attention.BACKENDS[self.attention_backend].takes_mask:
            return num_tokens + 1
        return bucket_len(num_tokens + 1)

    @property
    def kernel_path(self) -> dict[str, str]:
        attends = attention.kernel(self.attention_backend, self.norm.weight)
        return {"attention": attends, "short_conv": "torch" if self.config.conv_kernel else "none"}
