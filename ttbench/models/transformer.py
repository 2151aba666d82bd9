"""Transformer of the Llama family: the architecture that the others want to replace.

    x = x + o(attention(rope(conv(q(norm(x)))), rope(conv(k(norm(x)))), conv(v(norm(x)))))
    x = x + SwiGLU(norm(x))                               then norm, then a tied or untied head

Sources: Touvron et al. 2023 (Llama), Ainslie et al. 2023 (grouped queries), Su et al. 2021 (rotary embedding).
Departure: `conv_kernel` > 0 adds to q, k and v, before rotation, a causal depthwise convolution of themselves
(q + conv(q)), the short convolution that Mamba, Titans and the TTT paper's backbone carry in their mixers
(So et al. 2021, Primer, for attention). With `conv_kernel` 0 it is exactly Llama.

State per layer: 2 * G * D elements a token (G key/value heads), and K - 1 inputs of each convolution.
Letters: B batch, T tokens, H query heads, G key/value heads, D head dim, L layers, K conv kernel, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor, nn

from ttbench.declare import ColumnDeclaration, whole
from ttbench.errors import CheckpointError
from ttbench.kernels import attention
from ttbench.kernels.cached_attention import cached_attention_step
from ttbench.kernels.dispatch.choice import fuses
from ttbench.kernels.rotary import rotate_and_keep_step, rotate_half
from ttbench.models import kv_cache as cache
from ttbench.models.base import Description, Dialect, WorkTerm
from ttbench.models.known_fields import require_known_fields
from ttbench.models.layers import ShortConv, convolve
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, stack_weights
from ttbench.models.stack_config import StackConfig, require_at_least, require_positive

# Variants that are not built: the one value that is.
_ONLY = {"hidden_act": "silu", "sliding_window": None}
_ROPE_FIELDS = ("rope_scaling", "rope_parameters", "partial_rotary_factor")
_ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig(StackConfig):
    """Sizes, in the names of Hugging Face's LlamaConfig."""

    model_type: ClassVar[str] = "llama"
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    attention_bias: bool = False  # of all four projections
    mlp_bias: bool = False
    conv_kernel: int = 0  # tokens; 0: no convolution

    def check(self) -> None:
        StackConfig.check(self)
        for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("conv_kernel", self.conv_kernel, 0)
        require_positive("rope_theta", self.rope_theta)
        if self.num_attention_heads % self.num_key_value_heads or self.head_dim % 2:
            raise CheckpointError(
                f"config.json has num_attention_heads={self.num_attention_heads}, num_key_value_heads="
                f"{self.num_key_value_heads}, head_dim={self.head_dim}; query heads must be a multiple of key/value "
                "heads and head_dim even"
            )

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
        config = cls(
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
        config.check()
        return config

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


class Attention(Mixer):
    """Causal grouped-query attention with rotary positions and optional short convolutions on q, k, v."""

    backend: str = "sdpa"  # the implementation in use

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.head_dim, conv_kernel = config.head_dim, self.conv_kernel(config)
        q_dim, kv_dim = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        bias = self.bias(config)
        self.q_proj = nn.Linear(config.hidden_size, q_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_dim, bias=bias)
        self.o_proj = nn.Linear(q_dim, config.hidden_size, bias=bias)
        dims = (q_dim, kv_dim, kv_dim) if conv_kernel else ()
        self.convs = nn.ModuleList(ShortConv(dim, conv_kernel, bias=False) for dim in dims)

    @staticmethod
    def conv_kernel(config: Any) -> int:
        """Tokens that the short convolutions see; 0: there are none."""
        return config.conv_kernel

    @staticmethod
    def bias(config: Any) -> bool:
        """Whether the four projections have biases."""
        return config.attention_bias

    @classmethod
    def slots(cls, config: Any) -> dict[str, Slot]:
        kept = cache.slots(num_heads=config.num_key_value_heads, head_dim=config.head_dim)
        channels = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        return kept | {"conv": Slot(shape=(max(cls.conv_kernel(config) - 1, 0), channels))}

    @classmethod
    def work(cls, config: Any) -> StackWork:
        q_dim, kv_dim = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        flops = 2 * config.hidden_size * (2 * q_dim + 2 * kv_dim) + 4 * q_dim
        return StackWork(
            flops=flops + 2 * cls.conv_kernel(config) * (q_dim + 2 * kv_dim), flops_per_context_token=4 * q_dim
        )

    def mixed(self, x: Float[Tensor, "B T W"], part: Part | None) -> Sequence[Float[Tensor, "B T _"]]:
        """Queries, keys and values, heads side by side; the convolutions' tail in `part` is advanced."""
        parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        if len(self.convs):
            tail = None if part is None else part["conv"]
            return convolve(parts, self.convs, tail, residual=True)
        return parts

    def project(
        self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At
    ) -> tuple[Float[Tensor, "B H T D"], Float[Tensor, "B G T D"], Float[Tensor, "B G T D"]]:
        """Queries and keys, rotated where the stack rotates, and values; the convolutions' tails go to `part`."""
        # [B, T, H * D] -> [B, H, T, D]
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for y in self.mixed(x, part))
        return (q, k, v) if at.turns is None else (rotate_half(q, *at.turns), rotate_half(k, *at.turns), v)

    def merge(self, out: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T W"]:
        return self.o_proj(out.transpose(1, 2).flatten(-2))

    def forward(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T W"]:
        q, k, v = self.project(x, part, at=at)
        return self.merge(attention.BACKENDS[self.backend].prefill(q, *cache.extend(part, k, v, read=read)))

    def last(self, x: Float[Tensor, "B T W"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B 1 W"]:
        """Keys and values of all tokens, and the query of the last one only."""
        q, k, v = self.project(x, part, at=at)
        kept = cache.extend(part, k, v, read=read)
        return self.merge(attention.BACKENDS[self.backend].prefill(q[:, :, -1:], *kept))

    def step(self, x: Float[Tensor, "B 1 W"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 W"]:
        keys, values, position = part["keys"], part["values"], at.positions
        q, k, v = self.mixed(x, part)
        q = rotate_and_keep_step(q, k, v, at.turns, keys, values, position=position)
        out = cached_attention_step(q, keys, values, position=position, seen_len=variant, backend=self.backend)
        return self.merge(out)

    def variant(self, num_tokens: int) -> int:
        """Keys that the step reads at most: a bucket of the used length; all, where the kernel itself knows the length.

        Where the attention takes no mask it is the used length itself, so a captured graph would serve one step only.
        """
        if not attention.BACKENDS[self.backend].takes_mask:
            return num_tokens + 1
        fused = self.backend == "sdpa" and fuses("cached_attention_step", self.o_proj.weight)
        return cache.EVERY_PLACE if fused else cache.variant(num_tokens)


_NAMES = {
    "input_layernorm.weight": "mixer_norm.weight",
    "post_attention_layernorm.weight": "mlp_norm.weight",
    **{f"self_attn.{part}_proj.{leaf}": f"mixer.{part}_proj.{leaf}" for part in "qkvo" for leaf in ("weight", "bias")},
    **{
        f"mlp.{part}_proj.{leaf}": f"mlp.{part}_proj.{leaf}"
        for part in ("gate", "up", "down")
        for leaf in ("weight", "bias")
    },
}
_CONV_NAMES = {f"self_attn.{part}_conv.weight": f"mixer.convs.{index}.weight" for index, part in enumerate("qkv")}
_BUFFER = "self_attn.rotary_emb.inv_freq"


def _dialect(name: str, names: Mapping[str, str]) -> Dialect:
    return Dialect(
        name=name,
        matches=lambda config: config.get("model_type") == name,
        config=TransformerConfig.from_json,
        weights=stack_weights(
            embed="model.embed_tokens.weight",
            norm="model.norm.weight",
            layer="model.layers.{i}",
            names=names,
            dropped=[_BUFFER],
        ),
        optional=frozenset({f"model.layers.{{i}}.{_BUFFER}"}),
    )


_SECTION = """
The Llama family: what the others want to replace.

    x = x + W_o attention(rope(q), rope(k), v)        q, k, v = W x (+ conv(W x))        then SwiGLU

State: keys and values of G heads for every token, $state each, and K - 1 inputs of the convolutions. Cost:
$projections for projections and $reading for every token that is read, its own among them. Faithful: with
`conv_kernel` 0 it is exactly Llama (Touvron et al. 2023), by goldens recorded from transformers; grouped
queries; rotary angles in float64. Three implementations of the same attention, `sdpa`, `eager` and `flash`
(FlashAttention is an implementation, not an architecture), give equal logits. Our reading: `conv_kernel` > 0
adds a short convolution to q, k and v, as Mamba, Titans and the TTT paper's backbone have (So et al. 2021 for
attention). At the zoo's size it decides whether recall is learned at all ([decision
0004](decisions/0004-zoo-recipe.md)), so the zoo has both. Scaled rotary embeddings are refused, never
approximated.
"""


class Transformer(Stack):
    """Decoder-only Transformer. See the module docstring."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="yes, read",
        state="2 G D",
        work={"projections": WorkTerm(formula="4 W (H + G) D"), "reading": WorkTerm(formula="4 H D", times="T")},
        kept_channels="(H + 2 G) D",
    )
    version = 2
    mixer_class = Attention
    config_class = TransformerConfig
    rotary = True
    ATTENTION = tuple(attention.BACKENDS)
    attention_backend = ATTENTION[0]
    CHOICES: ClassVar[Mapping[str, ColumnDeclaration]] = {
        "conv_kernel": whole("kernel of the short convolutions; 0: none", "tokens")
    }
    TINY: ClassVar[Mapping[str, Any]] = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
        "conv_kernel": 4,
    }
    DIALECTS = (_dialect("llama", _NAMES), _dialect("llama-conv", _NAMES | _CONV_NAMES))

    def use_attention(self, name: str | None) -> None:
        super().use_attention(name)
        for block in self.blocks():
            block.mixer.backend = self.attention_backend
