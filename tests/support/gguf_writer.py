"""GGUF files as llama.cpp's converter writes them, made with the format's own library from transformers' models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

PARTS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "norm": "attn_norm", "mixer.in_proj": "ssm_in", "mixer.conv1d": "ssm_conv1d", "mixer.x_proj": "ssm_x",
    "mixer.dt_proj": "ssm_dt", "mixer.out_proj": "ssm_out",
}  # fmt: skip
# Gemma's norms, of which there are four a layer: their weights are stored with the one that they are added to.
GEMMA_NORMS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
TOPS = {
    "model.embed_tokens": "token_embd", "backbone.embeddings": "token_embd",
    "model.norm": "output_norm", "backbone.norm_f": "output_norm", "lm_head": "output",
}  # fmt: skip


def shaken(model: Any) -> Any:
    """The model with weights of some size everywhere, so that every tensor and field matters."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.uniform_(0, 1)
            elif parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.normal_()
            else:
                parameter.copy_(1 + 0.3 * torch.randn(parameter.shape))
    return model.eval()


def byte_bpe(text: str, *, vocab_size: int, split: Iterable[Any] = ()) -> Tokenizer:
    """A byte-level vocabulary trained on `text`; without `split`, GPT-2's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(list(split) or [pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text], trainer)
    return made


def gguf_tensor(key: str, value: Tensor, config: Any) -> tuple[str, Tensor]:
    """Name and layout that llama.cpp gives one of transformers' tensors."""
    stem, _, leaf = key.rpartition(".")
    gemma = config.model_type == "gemma3_text"
    if gemma and stem.endswith("norm"):
        value = value + 1
    if stem in TOPS:
        return f"{TOPS[stem]}.{leaf}", value
    _, _, layer, *rest = key.split(".")
    if rest[-1] == "A_log":
        return f"blk.{layer}.ssm_a", -value.exp()
    if rest[-1] == "D":
        return f"blk.{layer}.ssm_d", value
    name = ((PARTS | GEMMA_NORMS) if gemma else PARTS)[".".join(rest[:-1])]
    if name == "ssm_conv1d" and leaf == "weight":
        value = value.squeeze(1)
    if config.model_type == "llama" and name in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if name == "attn_q" else config.num_key_value_heads
        # rotary pairs side by side, not half a head apart
        value = value.reshape(heads, 2, -1, *value.shape[1:]).transpose(1, 2).reshape(value.shape)
    return f"blk.{layer}.{name}.{leaf}", value


def own_keys(config: Any) -> dict[str, Any]:
    """The architecture's keys, without its name."""
    shared = {
        "context_length": getattr(config, "max_position_embeddings", 1 << 20),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
    }
    if config.model_type == "mamba":
        return shared | {
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "ssm.conv_kernel": config.conv_kernel,
            "ssm.inner_size": config.intermediate_size,
            "ssm.state_size": config.state_size,
            "ssm.time_step_rank": config.time_step_rank,
            "attention.layer_norm_rms_epsilon": config.layer_norm_epsilon,
        }
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    windows = {}
    if config.model_type == "gemma3_text":
        rope, windows = rope["full_attention"], {"attention.sliding_window": config.sliding_window}
    return shared | {
        **windows,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": rope["rope_theta"],
        "vocab_size": config.vocab_size,
    }


def vocabulary_keys(made: Tokenizer, *, pre: str | None) -> dict[str, Any]:
    import json

    spec = json.loads(made.to_str())
    vocab, special = spec["model"]["vocab"], {each["content"] for each in spec["added_tokens"]}
    words = sorted(vocab, key=vocab.__getitem__)
    return {
        "model": "gpt2",
        **({} if pre is None else {"pre": pre}),
        "tokens": words,
        "token_type": [3 if word in special else 1 for word in words],
        "merges": [" ".join(pair) for pair in spec["model"]["merges"]],
        "eos_token_id": 0,
    }


def write_gguf(
    path: Path,
    model: Any,
    *,
    vocabulary: Mapping[str, Any] | None = None,
    keys: Mapping[str, Any] | None = None,
    without: Iterable[str] = (),
    extra: Mapping[str, np.ndarray] | None = None,
    parts: int | None = None,
) -> None:
    """Write a model; `keys` are added to the architecture's, `without` keys or tensors are left away."""
    config = model.config
    kind = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(str(path), kind, split_max_tensors=parts or 0)
    own = {f"{kind}.{key}": value for key, value in {**own_keys(config), **(keys or {})}.items()}
    ggml = {f"tokenizer.ggml.{key}": value for key, value in (vocabulary or {}).items()}
    for key, value in {**own, **ggml}.items():
        if key in without:
            continue
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    held = dict(gguf_tensor(key, value.detach().float(), config) for key, value in model.state_dict().items())
    if config.tie_word_embeddings:
        held.pop("output.weight", None)
    for name, value in held.items():
        if name not in without:
            writer.add_tensor(name, np.ascontiguousarray(value.numpy()))
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
