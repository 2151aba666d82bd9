"""The configurations of hybrids: our own, which names every layer, Jamba's as transformers writes it, and Rene's.

Source: transformers 5.23.0 configuration_jamba.py, whose defaults are those of a field that a Jamba config leaves out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from ttbench.errors import CheckpointError
from ttbench.models.known_fields import require_known_fields
from ttbench.models.stack_config import StackSizes, require_at_least, require_types
from ttbench.models.state_space.mamba_config import SSM_EPSILON, Mamba2Config

KINDS = ("mamba", "attention", "sliding_attention")
MAX_LAYERS = 10_000  # every layer is named, so a depth must be believed before the weights are looked at
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_JAMBA_ONLY = {"hidden_act": "silu", "sliding_window": None}
_JAMBA_SHARED = ("mamba_d_state", "mamba_d_conv", "mamba_expand", "mamba_conv_bias", "mamba_proj_bias", "rms_norm_eps")

_JAMBA_READ = (
    *("num_experts", "attn_layer_period", "attn_layer_offset", "num_key_value_heads", "head_dim", "mamba_dt_rank"),
    "tie_word_embeddings",
)
# Of mixtures of experts, which a dense Jamba has none of, and of speed.
_JAMBA_FREE = (
    *("expert_layer_period", "expert_layer_offset", "num_experts_per_tok", "router_aux_loss_coef"),
    *("output_router_logits", "use_mamba_kernels", "use_mambapy", "use_associative_scan", "num_logits_to_keep"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridConfig(StackSizes):
    """Sizes, in Jamba's names, and the kind of every layer."""

    vocab_size: int  # tokens
    hidden_size: int
    intermediate_size: int
    layer_types: tuple[str, ...]  # of each layer: mamba | attention | sliding_attention
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    mamba_dt_rank: int
    sliding_window: int | None = None  # tokens that a query of a sliding layer sees, its own among them
    rope_theta: float | None = None  # None: no rotary positions, as in Jamba
    mamba_d_state: int = 16
    mamba_d_conv: int = 4  # tokens
    mamba_expand: int = 2
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    mamba_norms: bool = True  # of dt, B and C, as in Jamba
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    written_by: str = "ttbench"  # or transformers, as a Jamba: whose config.json

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layer_types)

    # What a Mamba layer is built from, in the names of a MambaConfig.

    @property
    def inner_dim(self) -> int:
        """Channels of a Mamba layer."""
        return self.mamba_expand * self.hidden_size

    @property
    def state_size(self) -> int:
        return self.mamba_d_state

    @property
    def time_step_rank(self) -> int:
        return self.mamba_dt_rank

    @property
    def conv_kernel(self) -> int:
        return self.mamba_d_conv

    @property
    def use_bias(self) -> bool:
        return self.mamba_proj_bias

    @property
    def use_conv_bias(self) -> bool:
        return self.mamba_conv_bias

    def count(self, kind: str) -> int:
        """Layers of a kind."""
        return self.layer_types.count(kind)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises CheckpointError on what cannot be built."""
        unknown = sorted(set(self.layer_types) - set(KINDS))
        if unknown or not self.layer_types:
            raise CheckpointError(
                f"config.json has layer_types with {', '.join(unknown) or 'no layer'}; allowed: {', '.join(KINDS)}"
            )
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if (kind == "int" and (type(value) is not int or value < 1)) or (
                kind == "bool" and type(value) is not bool
            ):
                allowed = "a whole number from 1 on" if kind == "int" else "true or false"
                raise CheckpointError(f"config.json has {field.name}={value!r}; allowed: {allowed}")
        window = self.sliding_window
        if self.count("sliding_attention") and (type(window) is not int or window < 2):
            raise CheckpointError(f"config.json has sliding_window={window!r}; sliding layers need 2 tokens or more")
        if self.num_attention_heads % self.num_key_value_heads or (self.rope_theta is not None and self.head_dim % 2):
            raise CheckpointError(
                f"config.json has num_attention_heads={self.num_attention_heads}, num_key_value_heads="
                f"{self.num_key_value_heads}, head_dim={self.head_dim}; query heads must be a multiple of key/value "
                "heads, and head_dim even where there are rotary positions"
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a config.json with model_type hybrid. Raises CheckpointError."""
        _require(data, (*_SIZES[:3], "num_attention_heads", "layer_types"))
        known = {field.name for field in dataclasses.fields(cls)} - {"written_by"}
        require_known_fields(data, read=(*known, "num_hidden_layers"), model="hybrid")
        found = {key: value for key, value in data.items() if key in known}
        found["layer_types"] = tuple(data["layer_types"])
        if data.get("num_hidden_layers", len(found["layer_types"])) != len(found["layer_types"]):
            raise CheckpointError(
                f"config.json has num_hidden_layers={data['num_hidden_layers']} and {len(found['layer_types'])} "
                "layer_types; leave the first out or make them agree"
            )
        return cls(**(found | _derived(data)))

    @classmethod
    def from_jamba(cls, data: Mapping[str, Any]) -> Self:
        """Read a Jamba config.json without experts. Raises CheckpointError."""
        _require(data, _SIZES)
        read = (*_SIZES, *_JAMBA_SHARED, *_JAMBA_ONLY, *_JAMBA_READ, *_JAMBA_FREE)
        require_known_fields(data, read=read, model="jamba")
        num_experts = data.get("num_experts", 16)
        if num_experts != 1:
            raise CheckpointError(
                f"config.json has num_experts={num_experts}, a mixture of experts; the hybrid reads dense Jambas only "
                "(num_experts 1). Run this checkpoint as transformers does, with --engine hf"
            )
        for key, allowed in _JAMBA_ONLY.items():
            if data.get(key, allowed) != allowed:
                raise CheckpointError(f"config.json has {key}={data[key]!r}; a Jamba here has only {allowed!r}")
        if type(data["num_hidden_layers"]) is not int or not 1 <= data["num_hidden_layers"] <= MAX_LAYERS:
            raise CheckpointError(
                f"config.json has num_hidden_layers={data['num_hidden_layers']!r}; allowed: 1 to {MAX_LAYERS}"
            )
        period, offset = data.get("attn_layer_period", 8), data.get("attn_layer_offset", 4)
        if type(period) is not int or type(offset) is not int or not 0 <= offset < period:
            raise CheckpointError(
                f"config.json has attn_layer_period={period!r}, attn_layer_offset={offset!r}; the offset must be a "
                "whole number below the period"
            )
        kinds = tuple("attention" if i % period == offset else "mamba" for i in range(data["num_hidden_layers"]))
        found = {key: data[key] for key in (*_SIZES, *_JAMBA_SHARED, "tie_word_embeddings") if key in data}
        del found["num_hidden_layers"]
        # transformers' default is a number here, and null means as many as queries
        derived = _derived({"num_key_value_heads": 8, **data})
        return cls(**derived, **found, layer_types=kinds, written_by="transformers")

    def to_json(self) -> dict[str, Any]:
        """config.json of our own, or a Jamba one that transformers reads too."""
        data = dataclasses.asdict(self)
        del data["written_by"]
        if self.written_by == "ttbench":
            layers = {"num_hidden_layers": self.num_hidden_layers, "layer_types": list(self.layer_types)}
            return {"model_type": "hybrid", **data, **layers}
        for key in ("layer_types", "sliding_window", "rope_theta", "mamba_norms"):
            del data[key]
        period, offset = self._jamba_period()
        return {
            "architectures": ["JambaForCausalLM"],
            "model_type": "jamba",
            "hidden_act": "silu",
            "num_experts": 1,
            "num_hidden_layers": self.num_hidden_layers,
            "attn_layer_period": period,
            "attn_layer_offset": offset,
            **data,
        }

    def _jamba_period(self) -> tuple[int, int]:
        """attn_layer_period and _offset that give these layers. Raises CheckpointError where a Jamba has none."""
        if self.mamba_norms and self.rope_theta is None and not self.count("sliding_attention"):
            for period in range(1, self.num_hidden_layers + 2):
                for offset in range(period):
                    found = tuple(
                        "attention" if i % period == offset else "mamba" for i in range(self.num_hidden_layers)
                    )
                    if found == self.layer_types:
                        return period, offset
        raise CheckpointError(
            "a Jamba has Mamba layers with norms and, at regular distances, full attention without rotary positions; "
            f"layer_types {', '.join(self.layer_types)} cannot be written as one"
        )


def _require(data: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    missing = [key for key in keys if data.get(key) is None]
    if missing:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}; a hybrid must state them")


def _derived(data: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that follow from others where they are not given."""
    heads, width = data["num_attention_heads"], data["hidden_size"]
    rank = data.get("mamba_dt_rank", "auto")
    return {
        "num_key_value_heads": data.get("num_key_value_heads") or heads,
        "head_dim": data.get("head_dim") or width // heads,
        "mamba_dt_rank": math.ceil(width / 16) if rank in ("auto", None) else rank,
    }


RENE = "cartesia"  # who writes a Rene's config.json
RENE_KINDS = ("mamba2", "fused_attention", "mlp")
_RENE_TOP = ("d_model", "n_layer", "vocab_size", "attn_layer_idx", "mlp_layer_idx", "pad_vocab_size_multiple")
_RENE_PARTS = ("ssm_cfg", "attn_cfg", "mlp_cfg")
# The block adds in float32 and rounds back to the stream's own dtype, which is what an addition does without it.
_RENE_FREE, _RENE_ONLY = ("residual_in_fp32", "tie_word_embeddings"), {"rms_norm": True}
_RENE_ATTENTION_ONLY = {"causal": True, "softmax_scale": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReneConfig(StackSizes):
    """Layers of one part each, as Rene's published code has them: Mamba-2, attention over a window, or an MLP.

    Source: cartesia-ai/edge cartesia_pytorch/configuration_rene.py and rene.py @ 6788a08, whose defaults are those of a
    field that is left out.
    """

    vocab_size: int  # tokens, padding included
    hidden_size: int
    layer_types: tuple[str, ...]  # of each layer: mamba2 | fused_attention | mlp
    mamba2: Mamba2Config
    num_attention_heads: int = 1
    num_key_value_heads: int = 1
    head_dim: int = 1
    sliding_window: int = 2  # tokens that a query sees, its own among them
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_width: int = 1
    mlp_layer_bias: bool = True
    tie_word_embeddings: bool = True
    written_by: str = RENE

    @property
    def num_hidden_layers(self) -> int:
        return len(self.layer_types)

    @property
    def mlp_size(self) -> int:
        """No layer has an MLP beside its mixer."""
        return 0

    @property
    def norm_eps(self) -> float:
        return SSM_EPSILON

    @property
    def rope_theta(self) -> None:
        """Nothing is rotated."""
        return None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises CheckpointError on what cannot be built."""
        require_types(self)
        self.mamba2.check()
        for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "mlp_width"):
            require_at_least(name, getattr(self, name), 1)
        require_at_least("sliding_window_length", self.sliding_window, 2)
        if not self.layer_types or set(self.layer_types) - set(RENE_KINDS):
            raise CheckpointError(f"a Rene has layers of {', '.join(RENE_KINDS)}; got {self.layer_types}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"config.json has num_heads={self.num_attention_heads} and num_heads_kv={self.num_key_value_heads}; "
                "query heads must be a multiple of key/value heads"
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a config.json with model_type rene. Raises CheckpointError."""
        _require(data, _RENE_TOP[:3])
        require_known_fields(data, read=(*_RENE_TOP, *_RENE_PARTS, *_RENE_FREE, *_RENE_ONLY), model="rene")
        ssm, attention, mlp = (dict(data.get(part) or {}) for part in _RENE_PARTS)
        for given, only in ((data, _RENE_ONLY), (attention, _RENE_ATTENTION_ONLY)):
            for key, allowed in only.items():
                if given.get(key, allowed) != allowed:
                    raise CheckpointError(f"config.json has {key}={given[key]!r}; a Rene here has only {allowed!r}")
        # Mamba-2 alone would be mamba_ssm's: the same sizes, read and checked the same way.
        multiple = data.get("pad_vocab_size_multiple", 16)
        sizes = {"d_model": data["d_model"], "n_layer": data["n_layer"], "vocab_size": data["vocab_size"]}
        mamba2 = Mamba2Config.from_mamba_ssm({**sizes, "pad_vocab_size_multiple": multiple, "ssm_cfg": ssm})
        return cls(
            vocab_size=mamba2.vocab_size,
            hidden_size=mamba2.hidden_size,
            layer_types=_rene_layers(data),
            mamba2=mamba2,
            tie_word_embeddings=data.get("tie_word_embeddings", True),
            **_rene_attention(attention, width=mamba2.hidden_size, needed=bool(data.get("attn_layer_idx"))),
            **_rene_mlp(mlp, width=mamba2.hidden_size),
        )

    def to_json(self) -> dict[str, Any]:
        """config.json as Rene's code reads it."""
        ssm = self.mamba2.to_json()["ssm_cfg"]
        del ssm["layer"]
        places = {kind: [i for i, each in enumerate(self.layer_types) if each == kind] for kind in RENE_KINDS}
        return {
            "architectures": ["ReneLMHeadModel"],
            "model_type": "rene",
            "d_model": self.hidden_size,
            "n_layer": self.num_hidden_layers,
            "vocab_size": self.vocab_size,
            # the table is padded already
            "pad_vocab_size_multiple": 1,
            "ssm_cfg": ssm,
            "attn_layer_idx": places["fused_attention"],
            "attn_cfg": {
                "num_heads": self.num_attention_heads,
                "num_heads_kv": self.num_key_value_heads,
                "head_dim": self.head_dim,
                "qkv_proj_bias": self.qkv_bias,
                "out_proj_bias": self.out_bias,
                "sliding_window_length": self.sliding_window,
            },
            "mlp_layer_idx": places["mlp"],
            "mlp_cfg": {"expand": self.mlp_width / self.hidden_size, "bias": self.mlp_layer_bias},
            "rms_norm": True,
            "tie_word_embeddings": self.tie_word_embeddings,
        }


def _rene_layers(data: Mapping[str, Any]) -> tuple[str, ...]:
    """The kind of every layer. Raises CheckpointError."""
    depth = data["n_layer"]
    if type(depth) is not int or not 1 <= depth <= MAX_LAYERS:
        raise CheckpointError(f"config.json has n_layer={depth!r}; allowed: 1 to {MAX_LAYERS}")
    kinds = dict.fromkeys(range(depth), "mamba2")
    for key, kind in (("attn_layer_idx", "fused_attention"), ("mlp_layer_idx", "mlp")):
        for place in data.get(key) or ():
            if kinds.get(place) != "mamba2":
                raise CheckpointError(
                    f"config.json has {key} with {place!r}; allowed: different layers from 0 to {depth - 1}, each in "
                    "one list only"
                )
            kinds[place] = kind
    return tuple(kinds.values())


def _rene_attention(given: Mapping[str, Any], *, width: int, needed: bool) -> dict[str, Any]:
    """Fields of attention from `attn_cfg`. Raises CheckpointError."""
    names = ("num_heads", "num_heads_kv", "head_dim", "qkv_proj_bias", "out_proj_bias", "sliding_window_length")
    _refuse_unknown(given, (*names, *_RENE_ATTENTION_ONLY), part="attn_cfg")
    if not needed:
        return {}
    heads, window = given.get("num_heads"), given.get("sliding_window_length")
    if type(heads) is not int or heads < 1 or type(window) is not int:
        raise CheckpointError(
            f"config.json has attn_cfg with num_heads={heads!r}, sliding_window_length={window!r}; both must be whole "
            "numbers (the published code has no attention without a window)"
        )
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": given.get("num_heads_kv") or heads,
        "head_dim": given.get("head_dim") or width // heads,
        "sliding_window": window,
        "qkv_bias": given.get("qkv_proj_bias", True),
        "out_bias": given.get("out_proj_bias", True),
    }


def _rene_mlp(given: Mapping[str, Any], *, width: int) -> dict[str, Any]:
    """Fields of the MLPs from `mlp_cfg`. Raises CheckpointError."""
    _refuse_unknown(given, ("expand", "bias"), part="mlp_cfg")
    expand = given.get("expand", 3)
    if type(expand) not in (int, float) or not 0 < expand < math.inf:
        raise CheckpointError(f"config.json has mlp_cfg with expand={expand!r}; allowed: a finite positive number")
    return {"mlp_width": round(expand * width), "mlp_layer_bias": given.get("bias", True)}


def _refuse_unknown(given: Mapping[str, Any], known: Iterable[str], *, part: str) -> None:
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise CheckpointError(
            f"config.json has {part} with {', '.join(unknown)}, which is not known; reading the weights without it "
            "could give wrong numbers"
        )
