"""The shapes that papers state, and config.json of a model of such a shape. Torch-free; sources: `sizes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads
TTT_SIZES: Mapping[str, tuple[int, int, int, int]] = {
    "125m": (768, 2048, 12, 12),
    "350m": (1024, 2736, 24, 16),
    "760m": (1536, 4096, 24, 16),
    "1.3b": (2048, 5504, 24, 32),
}
TTT_VOCABULARY = 32000
# d_model, n_layer
MAMBA = {"130m": (768, 24), "370m": (1024, 48), "790m": (1536, 48), "1.4b": (2048, 48)}
MAMBA2 = {"130m": (768, 24), "370m": (1024, 48), "780m": (1536, 48), "1.3b": (2048, 48)}
# The authors' vocabulary is GPT-NeoX's, padded to a multiple.
_MAMBA_VOCABULARY, PADDED, PADDED2 = 50277, 8, 16
BASE_LR = {"linear": 1.0, "mlp": 0.1}  # of the TTT authors
_TITANS_WINDOW = 512  # tokens


def _stack(width: int, mlp: int, depth: int, heads: int) -> dict[str, Any]:
    return {
        "vocab_size": TTT_VOCABULARY,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }


def transformer(width: int, mlp: int, depth: int, heads: int) -> dict[str, Any]:
    """A Llama."""
    attention = {"num_key_value_heads": heads, "head_dim": width // heads}
    return {"model_type": "llama", **_stack(width, mlp, depth, heads), **attention}


def ttt(kind: str, width: int, mlp: int, depth: int, heads: int) -> dict[str, Any]:
    """TTT-Linear or TTT-MLP on the Mamba backbone, which the paper's main results are of."""
    return {
        "model_type": "ttt",
        **_stack(width, mlp, depth, heads),
        "ttt_layer_type": kind,
        "ttt_base_lr": BASE_LR[kind],
        **dict.fromkeys(("use_gate", "share_qk", "pre_conv"), True),
    }


def mamba(width: int, depth: int, multiple: int, mixer: Mapping[str, Any]) -> dict[str, Any]:
    """As mamba_ssm writes it: the vocabulary is padded to a `multiple`, and `mixer` says which layer."""
    return {
        "d_model": width,
        "n_layer": depth,
        "vocab_size": _MAMBA_VOCABULARY,
        "ssm_cfg": dict(mixer),
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": multiple,
    }


def titans(kind: str, width: int, mlp: int, depth: int, heads: int) -> dict[str, Any]:
    """Memory alone (lmm), as context (mac), as gate (mag) or as layer (mal)."""
    window = {"window": _TITANS_WINDOW} if kind in ("mag", "mal") else {}
    return {
        "model_type": f"titans-{kind}",
        **_stack(width, mlp, depth, heads),
        "chunk_size": 32,
        "memory_layers": 2,
        "memory_expansion": 2,
        "memory_read": "token",
        "memory_init": "learned",
        "max_step": 0.25,
        "num_persistent": 4,
        "conv_kernel": 4,
        **window,
    }
