"""What llama.cpp writes of each architecture that is read here, and transformers' names for the same.

Every key and every tensor of a file is looked up in these tables. One that is in none of them, or has a value under
which the model computes something else than what is built, is refused by name: nothing that can change a number is
dropped.

Sources: ggml-org/llama.cpp convert_hf_to_gguf.py and src/llama-model.cpp (names, and the values that a missing key
has); ggml docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ttbench.errors import CheckpointError

# Keys of an architecture under which llama.cpp computes what is built: the only value that is read.
PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "rope.scaling.type": "none",
        "rope.scaling.factor": 1.0,
        "rope.scale_linear": 1.0,
        "rope.scaling.finetuned": False,
        "attention.causal": True,
        "expert_count": 0,
        "expert_used_count": 0,
        "use_parallel_residual": False,
        "logit_scale": 1.0,
        "attention.max_alibi_bias": 0.0,
        "attention.clamp_kqv": 0.0,
    }
)
# Keys that say how the file was made.
FREE = frozenset({"tensor_data_layout"})
# Tensors that hold rotary scaling (Llama 3.1 and later, Phi-3): divisors of the angles' frequencies.
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")

Change = Callable[[Tensor, Mapping[str, Any]], Tensor]


def _same(tensor: Tensor, config: Mapping[str, Any]) -> Tensor:
    return tensor


def _halves(field_name: str) -> Change:
    """Rows of a projection from llama.cpp's order, rotary pairs side by side, to transformers', half a head apart."""

    def change(tensor: Tensor, config: Mapping[str, Any]) -> Tensor:
        rows = tensor.reshape(config[field_name], -1, 2, *tensor.shape[1:])
        return rows.transpose(1, 2).reshape(tensor.shape)

    return change


def _log_negated(tensor: Tensor, config: Mapping[str, Any]) -> Tensor:
    if not (tensor < 0).all():
        raise CheckpointError("ssm_a has values that are not negative, and a Mamba's A = -exp(A_log) always is")
    return torch.log(-tensor)


def _without_one(tensor: Tensor, config: Mapping[str, Any]) -> Tensor:
    """Gemma multiplies by 1 + w; llama.cpp stores the sum, so that all its norms are alike."""
    return tensor - 1


def _one_channel(tensor: Tensor, config: Mapping[str, Any]) -> Tensor:
    return tensor.unsqueeze(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufArchitecture:
    """One `general.architecture`: how its keys become config.json, and its tensors those of transformers."""

    about: Mapping[str, Any]  # fields of config.json that every model of it has
    fields: Mapping[str, str]  # key -> field of config.json; must be there
    read: frozenset[str]  # keys that `config` reads as well
    config: Callable[[Mapping[str, Any]], dict[str, Any]]  # the other fields, from the architecture's keys
    tensors: Mapping[str, tuple[str, Change]]  # {i}: layer
    # Tensors that all layers have or none: field of config.json -> the tensors
    groups: Mapping[str, Mapping[str, tuple[str, Change]]] = field(default_factory=dict)


def _attention(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of heads and the rotary base, with llama.cpp's own values where a key is missing."""
    heads, width = keys["attention.head_count"], keys["embedding_length"]
    groups, head_dim = keys.get("attention.head_count_kv", heads), keys.get("attention.key_length", width // heads)
    for name, value in (("attention.head_count_kv", groups), ("attention.key_length", head_dim)):
        if type(value) is not int:
            raise CheckpointError(f"it has {name} = {value!r}; only layers that are all alike are read")
    for name in ("rope.dimension_count", "attention.value_length"):
        if keys.get(name, head_dim) != head_dim:
            raise CheckpointError(f"it has {name} = {keys[name]!r} and heads of {head_dim}; only whole heads are read")
    theta = keys.get("rope.freq_base", 10000.0)
    return {
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "hidden_act": "silu",
    }


# llama.cpp has no keys for these: it fixes them for the architecture, by the number of layers where they differ.
_GEMMA3_PERIOD = 6  # of so many layers the last sees all, the others a window
_GEMMA3_LOCAL_THETA = 10000.0
_GEMMA3_27B_LAYERS = 62  # its scores are divided by the root of another width than its heads'


def _gemma3(keys: Mapping[str, Any]) -> dict[str, Any]:
    found = _attention(keys)
    theta, num_layers = found.pop("rope_theta"), keys["block_count"]
    large = num_layers == _GEMMA3_27B_LAYERS
    kinds = ["full_attention" if (i + 1) % _GEMMA3_PERIOD == 0 else "sliding_attention" for i in range(num_layers)]
    return {
        **found,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": keys["embedding_length"] // keys["attention.head_count"]
        if large
        else found["head_dim"],
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": _GEMMA3_LOCAL_THETA},
        },
    }


def _mamba(keys: Mapping[str, Any]) -> dict[str, Any]:
    if keys.get("ssm.dt_b_c_rms", False):
        raise CheckpointError(
            "it has ssm.dt_b_c_rms = True (a Falcon-Mamba, which normalises dt, B and C), and only plain Mamba is "
            "read; take the model's safetensors with --engine hf"
        )
    for name in ("feed_forward_length", "attention.head_count"):
        if keys.get(name, 0) != 0:
            raise CheckpointError(f"it has {name} = {keys[name]!r}; only layers of Mamba alone are read")
    expand, rest = divmod(keys["ssm.inner_size"], keys["embedding_length"])
    if rest:
        raise CheckpointError(f"it has ssm.inner_size = {keys['ssm.inner_size']}, no multiple of embedding_length")
    # llama.cpp writes 2^20 as context_length of every Mamba, for want of one; it is no training length
    return {"expand": expand, "use_bias": False, "use_conv_bias": True, "hidden_act": "silu"}


_TOP = {
    "token_embd.weight": ("model.embed_tokens.weight", _same),
    "output_norm.weight": ("model.norm.weight", _same),
    "output.weight": ("lm_head.weight", _same),
}
_PARTS = {
    "attn_norm": ("input_layernorm", _same),
    "ffn_norm": ("post_attention_layernorm", _same),
    "attn_q": ("self_attn.q_proj", _same),
    "attn_k": ("self_attn.k_proj", _same),
    "attn_v": ("self_attn.v_proj", _same),
    "attn_output": ("self_attn.o_proj", _same),
    "ffn_gate": ("mlp.gate_proj", _same),
    "ffn_up": ("mlp.up_proj", _same),
    "ffn_down": ("mlp.down_proj", _same),
}
_PAIRS = {
    "attn_q": ("self_attn.q_proj", _halves("num_attention_heads")),
    "attn_k": ("self_attn.k_proj", _halves("num_key_value_heads")),
}


def _layers(parts: Mapping[str, tuple[str, Change]], *, leaf: str = "weight") -> dict[str, tuple[str, Change]]:
    return {f"blk.{{i}}.{old}.{leaf}": (f"model.layers.{{i}}.{new}.{leaf}", how) for old, (new, how) in parts.items()}


_SIZES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "context_length": "max_position_embeddings",
}
_HEADS = frozenset(
    {"attention.head_count_kv", "attention.key_length", "attention.value_length"}
    | {"rope.dimension_count", "rope.freq_base"}
)
_LLAMA = _PARTS | _PAIRS
_QKV = {name: _PARTS[name] for name in ("attn_q", "attn_k", "attn_v")}

ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "llama": GgufArchitecture(
        about={"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        fields=_SIZES,
        read=_HEADS,
        config=_attention,
        tensors=_TOP | _layers(_LLAMA),
        groups={
            "attention_bias": _layers(
                {name: _LLAMA[name] for name in ("attn_q", "attn_k", "attn_v", "attn_output")}, leaf="bias"
            ),
            "mlp_bias": _layers({name: _LLAMA[name] for name in ("ffn_gate", "ffn_up", "ffn_down")}, leaf="bias"),
        },
    ),
    "qwen2": GgufArchitecture(
        about={"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False},
        fields=_SIZES,
        read=_HEADS,
        config=_attention,
        tensors=_TOP | _layers(_PARTS) | _layers(_QKV, leaf="bias"),
    ),
    "qwen3": GgufArchitecture(
        about={"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "use_sliding_window": False},
        fields=_SIZES,
        read=_HEADS,
        config=_attention,
        tensors=_TOP
        | _layers(_PARTS)
        | _layers({"attn_q_norm": ("self_attn.q_norm", _same), "attn_k_norm": ("self_attn.k_norm", _same)}),
    ),
    "gemma3": GgufArchitecture(
        about={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "use_bidirectional_attention": False,
        },
        fields=_SIZES | {"attention.sliding_window": "sliding_window"},
        read=_HEADS,
        config=_gemma3,
        tensors=_TOP
        | {"output_norm.weight": ("model.norm.weight", _without_one)}
        | _layers(_PARTS)
        | _layers(
            {
                "attn_norm": ("input_layernorm", _without_one),
                "attn_q_norm": ("self_attn.q_norm", _without_one),
                "attn_k_norm": ("self_attn.k_norm", _without_one),
                "post_attention_norm": ("post_attention_layernorm", _without_one),
                "ffn_norm": ("pre_feedforward_layernorm", _without_one),
                "post_ffw_norm": ("post_feedforward_layernorm", _without_one),
            }
        ),
    ),
    "mamba": GgufArchitecture(
        about={"architectures": ["MambaForCausalLM"], "model_type": "mamba"},
        fields={
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "ssm.conv_kernel": "conv_kernel",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "time_step_rank",
            "ssm.inner_size": "intermediate_size",
            "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
        },
        read=frozenset({"ssm.dt_b_c_rms", "context_length", "feed_forward_length", "attention.head_count"}),
        config=_mamba,
        tensors={
            "token_embd.weight": ("backbone.embeddings.weight", _same),
            "output_norm.weight": ("backbone.norm_f.weight", _same),
            "output.weight": ("lm_head.weight", _same),
            **{
                f"blk.{{i}}.{old}": (f"backbone.layers.{{i}}.{new}", how)
                for old, new, how in (
                    ("attn_norm.weight", "norm.weight", _same),
                    ("ssm_in.weight", "mixer.in_proj.weight", _same),
                    ("ssm_conv1d.weight", "mixer.conv1d.weight", _one_channel),
                    ("ssm_conv1d.bias", "mixer.conv1d.bias", _same),
                    ("ssm_x.weight", "mixer.x_proj.weight", _same),
                    ("ssm_dt.weight", "mixer.dt_proj.weight", _same),
                    ("ssm_dt.bias", "mixer.dt_proj.bias", _same),
                    ("ssm_a", "mixer.A_log", _log_negated),
                    ("ssm_d", "mixer.D", _same),
                    ("ssm_out.weight", "mixer.out_proj.weight", _same),
                )
            },
        },
    ),
}
