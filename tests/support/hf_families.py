"""Tiny random models of many families of transformers, and what each can do with its cache in release 5.23.

Weights are large enough for states and positions to matter, so that a wrong continuation shows far above rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCAB = 257
SHARED = {"vocab_size": VOCAB, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ATTENDS = {"num_attention_heads": 4, "num_key_value_heads": 2}
DECODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, **ATTENDS}
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 24}
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
MOE = {"num_experts_per_tok": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One model_type at a size for tests."""

    mode: str  # what the probe must find
    config: dict[str, Any] = field(default_factory=dict)
    causal: bool = True
    batched: bool = True  # several sequences at once give what each gives alone
    max_context: int | None = None  # tokens


FAMILIES: dict[str, Family] = {
    "llama": Family(mode="chunks", config=DECODER | HEADS),
    "mistral": Family(mode="chunks", config=DECODER | HEADS | WINDOW),
    "qwen3": Family(mode="chunks", config=DECODER | HEADS),
    "gemma2": Family(mode="chunks", config=DECODER | HEADS | WINDOW | {"query_pre_attn_scalar": 8}),
    "gemma3_text": Family(mode="chunks", config=DECODER | HEADS | WINDOW | {"query_pre_attn_scalar": 8}),
    "granite": Family(mode="chunks", config=DECODER | {"logits_scaling": 4.0}),
    "smollm3": Family(mode="chunks", config=DECODER | {"no_rope_layers": [1, 0]}),
    "olmo3": Family(mode="chunks", config=DECODER | WINDOW),
    "gpt2": Family(
        mode="chunks", config={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, max_context=128
    ),
    "gpt_neox": Family(mode="chunks", config=DECODER),
    "opt": Family(
        mode="chunks",
        config={
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 128,
        },
        max_context=128,
    ),
    "mamba": Family(mode="steps", config={"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mamba2": Family(
        mode="chunks",
        config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 8,
            "state_size": 8,
            "n_groups": 1,
            "chunk_size": 16,
        },
    ),
    "jamba": Family(
        mode="steps",
        config=DECODER
        | MOE
        | {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    ),
    "falcon_h1": Family(mode="chunks", config=DECODER | HEADS | MAMBA2 | {"mamba_d_ssm": 64}),
    "granitemoehybrid": Family(
        mode="chunks",
        config=DECODER
        | MOE
        | MAMBA2
        | {"layer_types": ["mamba", "attention"], "num_local_experts": 2, "shared_intermediate_size": 48},
    ),
    "bamba": Family(mode="whole", config=DECODER | MAMBA2 | {"attn_layer_indices": [1]}),
    "zamba2": Family(
        mode="whole",
        config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "chunk_size": 16,
            "num_mem_blocks": 1,
            "adapter_rank": 4,
        },
    ),
    "recurrent_gemma": Family(
        mode="whole", config=DECODER | {"lru_width": 32, "attention_window_size": 24, "num_hidden_layers": 3}
    ),
    "qwen3_next": Family(
        mode="chunks",
        config=DECODER
        | HEADS
        | MOE
        | {
            "num_experts": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            # its chunks amplify rounding at larger weights
            "initializer_range": 0.15,
        },
    ),
    "rwkv": Family(
        mode="chunks",
        batched=False,
        config={"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48},
    ),
    "xlstm": Family(mode="chunks", config={"hidden_size": 128, "num_heads": 4, "num_blocks": 2, "chunk_size": 16}),
    "reformer": Family(
        mode="whole",
        causal=False,
        max_context=128,
        config={
            "is_decoder": True,
            "hidden_size": 32,
            "attn_layers": ["local", "lsh"],
            "num_attention_heads": 4,
            "attention_head_size": 8,
            "feed_forward_size": 48,
            "axial_pos_shape": [8, 16],
            "axial_pos_embds_dim": [8, 24],
            "max_position_embeddings": 128,
            "num_buckets": 4,
            "hash_seed": 0,
            "local_attn_chunk_length": 16,
            "lsh_attn_chunk_length": 16,
        },
    ),
}


def build(name: str) -> Any:
    """A model of a family with weights from a seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**{**SHARED, **FAMILIES[name].config})).eval()


def save(name: str, folder: Path) -> Any:
    """Write a family's model to a folder in transformers' own way, and return it."""
    model = build(name)
    model.save_pretrained(folder)
    return model
