"""Writes train states as ttt-lm-jax does: the layouts of Flax, made from the tensors of a model here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import msgpack
import numpy as np
import torch
from torch import Tensor

Key = tuple[str, ...]


def pack(value: Any) -> bytes:
    return cast(bytes, msgpack.packb(value, use_bin_type=True))


def array_bytes(tensor: Tensor) -> bytes:
    """What Flax's to_bytes makes of an array."""
    raw = tensor.reshape(-1).contiguous().view(torch.uint8)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return pack(msgpack.ExtType(1, pack((tuple(tensor.shape), dtype, raw.numpy().tobytes()))))


def chunked_bytes(tensor: Tensor, *, chunk: int) -> bytes:
    """The same of an array that is too large for one piece."""
    flat = tensor.reshape(-1)
    parts = [flat[start : start + chunk] for start in range(0, flat.numel(), chunk)]
    value = {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): size for i, size in enumerate(tensor.shape)},
        "chunks": {str(i): msgpack.unpackb(array_bytes(part)) for i, part in enumerate(parts)},
    }
    return pack(value)


def write_pairs(path: Path, pairs: Iterable[tuple[Key, bytes]]) -> None:
    packer = msgpack.Packer()
    with path.open("wb") as file:
        for pair in pairs:
            file.write(packer.pack(pair))


def jax_name(name: str) -> Key:
    """Where the authors' JAX code keeps a tensor of their PyTorch code."""
    fixed: dict[str, Key] = {
        "model.embed_tokens.weight": ("model", "wte", "embedding"),
        "model.norm.weight": ("model", "ln_f", "kernel"),
        "lm_head.weight": ("lm_head", "kernel"),
    }
    if name in fixed:
        return fixed[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
    assert match is not None
    layer, rest = match[1], match[2]
    places: dict[str, Key] = {
        "seq_norm.weight": ("seq_norm", "kernel"),
        "ffn_norm.weight": ("ffn_norm", "kernel"),
        "mlp.gate_proj.weight": ("feed_forward", "w1", "kernel"),
        "mlp.down_proj.weight": ("feed_forward", "w2", "kernel"),
        "mlp.up_proj.weight": ("feed_forward", "w3", "kernel"),
        "conv.norm.weight": ("conv", "conv_norm", "kernel"),
        "conv.conv.weight": ("conv", "conv1", "kernel"),
        "conv.conv.bias": ("conv", "conv1", "bias"),
    }
    inner: dict[str, Key] = {
        "conv_q.weight": ("conv_q", "kernel"),
        "conv_q.bias": ("conv_q", "bias"),
        "conv_k.weight": ("conv_k", "kernel"),
        "conv_k.bias": ("conv_k", "bias"),
        "learnable_token_idx": ("learnable_token_idx",),
        "learnable_ttt_lr_weight": ("learnable_ttt_lr/kernel",),
        "learnable_ttt_lr_bias": ("learnable_ttt_lr/bias",),
        "ttt_norm_weight": ("ttt_norm/scale",),
        "ttt_norm_bias": ("ttt_norm/bias",),
        "W1": ("ttt_dense_0",),
        "b1": ("ttt_bias_0",),
        "W2": ("ttt_dense_1",),
        "b2": ("ttt_bias_1",),
        "post_norm.weight": ("post_norm", "scale"),
        "post_norm.bias": ("post_norm", "bias"),
    }
    inner |= {f"{letter}_proj.weight": (f"w{letter}", "kernel") for letter in "qkvog"}
    mixer = rest.removeprefix("seq_modeling_block.")
    place = places[rest] if mixer == rest else ("seq_modeling_block", *inner[mixer])
    return ("model", "h", layer, *place)


def jax_layout(name: str, tensor: Tensor) -> Tensor:
    """The tensor as Flax keeps it."""
    if re.search(r"(proj|lm_head)\.weight$", name):
        return tensor.T
    if re.search(r"(conv|conv_q|conv_k)\.weight$", name):
        # [channels, 1, kernel] -> [kernel, 1, channels]
        return tensor.permute(2, 1, 0)
    return tensor.transpose(1, 2) if name.endswith("learnable_ttt_lr_weight") else tensor


def parameters(state_dict: dict[str, Tensor]) -> list[tuple[Key, Tensor]]:
    return [(jax_name(name), jax_layout(name, tensor)) for name, tensor in state_dict.items()]


def train_state(tensors: list[tuple[Key, Tensor]], *, moments: int = 2) -> list[tuple[Key, bytes]]:
    """A whole train state: counter, parameters, and an optimiser's moments before and after them."""
    step = pack(msgpack.ExtType(3, pack(((), "int32", np.int32(7).tobytes()))))
    pairs: list[tuple[Key, bytes]] = [(("step",), step)]
    names = [("opt_state", "1", "0", f"moment{i}") for i in range(moments)]
    for prefix in (*names[:1], ("params", "params"), *names[1:]):
        shift = 0 if prefix == ("params", "params") else 1000
        middle = () if shift == 0 else ("params",)
        pairs += [((*prefix, *middle, *key), array_bytes(tensor + shift)) for key, tensor in tensors]
    return pairs
