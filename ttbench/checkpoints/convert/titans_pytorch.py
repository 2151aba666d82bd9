"""The neural memory of titans-pytorch as our `MemoryLayer`, for the options under which both are one function.

With `chunk_size` 1 and `batch_size` C their memory takes the gradients of C tokens at the weights before the first of
them, has momentum and forgetting for each token, and reads with the weights after it: `kernels.neural_memory` with
chunk C and read "token". What is left differs in names, in signs, and in a loss that is the mean over D:

    theta = max_lr / D sigmoid(.)      max_step = C max_lr / D
    keep = 1 - sigmoid(decay)          keep = sigmoid(-decay)
    norm(x) w W                        the norm's weights go into the projections behind it

Whole models of titans-pytorch have no such map (docs/check-a-foreign-model.md).

Source: lucidrains/titans-pytorch, titans_pytorch/neural_memory.py and memory_models.py, 0.5.5 (PyPI).
Letters: D dim, C chunk, H heads, I and O in and out dim of a memory layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttbench.errors import CheckpointError, UsageError, WeightsError

EPS = torch.finfo(torch.float32).eps  # of torch's RMSNorm where none is given, in float32

# Options that must have one value: that value, their default, and what another one computes.
REQUIRED: Mapping[str, tuple[Any, Any, str]] = {
    "chunk_size": (1, 1, "momentum and forgetting are then of a chunk, not of a token, and reads are a chunk behind"),
    "heads": (1, 1, "each head's output is then gated by a sigmoid and mixed with the others"),
    "activation": ("silu", None, "keys, queries and values here pass through SiLU, as in section 4.4 of the paper"),
    "post_rmsnorm": (True, False, "the memory's output here is normed, as in section 4.4 of the paper"),
    "mem_model_norm_add_residual": (False, True, "the memory is then LayerNorm(M(x)) + x, not M(x)"),
    "qk_rmsnorm": (False, False, "a learned gain on keys then scales the first layer's gradient, and no other"),
    "model": (None, None, "the memory is then another network than an MLP with GELU and without biases"),
    "store_memory_loss_fn": (None, None, "the loss is then not the squared error"),
    "adaptive_step_transform": (None, None, "the step size is then not a bounded sigmoid"),
    "momentum": (True, True, "eta is then 0, which the sigmoid here never is"),
    "momentum_order": (1, 1, "the momentum then has a momentum"),
    "learned_momentum_combine": (False, False, "several momenta are then mixed"),
    "num_kv_per_token": (1, 1, "a token then writes several times"),
    "qkv_receives_diff_views": (False, False, "queries, keys and values then come from different streams"),
    "per_parameter_lr_modulation": (False, False, "each layer of the memory then has a step size of its own"),
    "attn_pool_chunks": (False, False, "a chunk's gates are then pooled by attention"),
    "max_grad_norm": (None, None, "the gradient's length is then bounded by a tanh"),
    "spectral_norm_surprises": (False, False, "the momentum is then made orthogonal before it is added"),
    "accept_weight_residual": (False, False, "the weights of another layer's memory are then added"),
    "gated_transition": (False, False, "the new weights are then mixed with the old at every batch"),
    "store_with_lookahead_value": (
        False,
        False,
        "a key is then written with the next token's value: it sees the future",
    ),
}
# Options that are read below, or that change start values or speed alone.
READ = frozenset({"dim", "dim_head", "batch_size", "pre_rmsnorm", "default_step_transform_max_lr"})
FREE = frozenset(
    {"default_model_kwargs", "per_head_learned_parameters", "use_accelerated_scan", "max_mem_layer_modulation"}
    | {"learned_combine_include_zeroth", "init_adaptive_step_bias", "init_momentum_bias", "init_decay_bias"}
)
_MARK = "memory_model_parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedMemory:
    """A memory of titans-pytorch in our words."""

    fields: Mapping[str, Any]  # of a TitansConfig: all that its MemoryLayer reads
    weights: Mapping[str, Tensor]  # the MemoryLayer's state_dict
    normed_input: bool  # it expects x / rms(x), as a block's mixer_norm makes it with weights of one


def convert_memory(state: Mapping[str, Tensor], options: Mapping[str, Any]) -> ConvertedMemory:
    """Translate a NeuralMemory's state_dict, loaded with `weights_only=True`.

    Args:
        state: the state_dict.
        options: the constructor's arguments by name, as they were given; "silu" stands for nn.SiLU().

    Raises:
        UsageError: an option under which no weights of ours compute the same, by name.
        WeightsError: a state_dict that has more or less than these options make.
    """
    chunk_size = _require_faithful(options)
    dim, max_lr = options["dim"], options.get("default_step_transform_max_lr", 1.0)
    normed = options.get("pre_rmsnorm", True)
    left = {key: tensor for key, tensor in state.items() if not key.startswith("memory_model.")}

    def take(key: str, *shape: int) -> Tensor:
        tensor = left.pop(key, None)
        if tensor is None or tuple(tensor.shape) != shape:
            found = "none" if tensor is None else f"one of shape {list(tensor.shape)}"
            raise WeightsError(f"the options ask for '{key}' of shape {list(shape)}; the state_dict has {found}")
        return tensor

    def norm(name: str) -> Tensor | float:
        return take(f"{name}.weight", dim) if normed else 1.0

    read, write = norm("retrieve_norm"), norm("store_norm")
    gates = {name: take(f"{name}.0.weight", 1, dim) for name in ("to_adaptive_step", "to_momentum", "to_decay_factor")}
    signs = dict(zip(gates, (1, 1, -1), strict=True))
    weights = {
        "q_proj.weight": take("to_queries.0.weight", dim, dim) * read,
        "k_proj.weight": take("to_keys.0.weight", dim, dim) * write,
        "v_proj.weight": take("to_values.0.weight", dim, dim) * write,
        "gates_proj.weight": torch.cat([signs[name] * gate for name, gate in gates.items()]) * write,
        "gates_proj.bias": torch.cat([signs[name] * take(f"{name}.0.bias", 1) for name in gates]),
        "norm.weight": take("multihead_rmsnorm.gamma", 1, 1, dim).flatten() + 1,
    }
    start, expansion = _start(left, dim)
    if left:
        raise WeightsError(f"the state_dict holds {', '.join(sorted(left))}, which these options do not make")
    return ConvertedMemory(
        fields={
            "hidden_size": dim,
            "num_attention_heads": 1,
            "chunk_size": chunk_size,
            "memory_layers": len(start),
            "memory_expansion": expansion,
            "memory_read": "token",
            "memory_init": "learned",
            "max_step": chunk_size * max_lr / dim,
            "num_persistent": 0,
            "conv_kernel": 0,
            "unit_norm": "none",
            "damped_step": False,
            "rms_norm_eps": EPS,
        },
        weights={**weights, **{f"start.{i}": weight for i, weight in enumerate(start)}},
        normed_input=normed,
    )


def _require_faithful(options: Mapping[str, Any]) -> int:
    """The chunk size; UsageError where an option makes another function."""
    unknown = sorted(set(options) - {*REQUIRED, *READ, *FREE})
    if unknown:
        raise UsageError(f"titans-pytorch 0.5.5 has no option {', '.join(unknown)}; known: {', '.join(REQUIRED)}")
    for name, (needed, default, why) in REQUIRED.items():
        value = options.get(name, default)
        if name == "chunk_size" and value in ((1, 1), [1, 1]):
            value = 1
        if value != needed:
            given = "" if name in options else ", its default"
            raise UsageError(f"no map for {name}={value!r}{given}: {why}; there is one for {needed!r}")
    chunk_size, dim = options.get("batch_size"), options.get("dim")
    if not isinstance(dim, int) or options.get("dim_head") not in (None, dim):
        raise UsageError(f"dim={dim!r} and dim_head={options.get('dim_head')!r}; give dim, and dim_head equal to it")
    if not isinstance(chunk_size, int):
        raise UsageError(
            f"no map for batch_size={chunk_size!r}: all gradients of a call are then taken at the weights it began "
            "with, so the function depends on how a text is cut into calls; there is one for every number of tokens"
        )
    return chunk_size


def _start(left: dict[str, Tensor], dim: int) -> tuple[list[Tensor], int]:
    """Weights that the memory begins with [1, I, O], taken out of `left`, and its hidden width in units of `dim`."""
    start: list[Tensor] = []
    while (weight := left.pop(f"{_MARK}.{len(start)}", None)) is not None:
        start.append(weight if weight.ndim == 3 else weight[None])
    hidden = start[0].shape[-1] if len(start) > 1 else dim
    widths = [dim, *[hidden] * (len(start) - 1), dim]
    wanted = [(1, rows, columns) for rows, columns in pairwise(widths)]
    if not start or [tuple(weight.shape) for weight in start] != wanted:
        found = [list(weight.shape) for weight in start]
        raise WeightsError(f"'{_MARK}' has the shapes {found}; expected an MLP from {dim} to {dim}, without biases")
    if hidden % dim:
        raise UsageError(f"no map for a hidden width of {hidden}: here it is a whole multiple of dim={dim}")
    return start, hidden // dim


def refuse_titans_pytorch(names: Collection[str], *, path: Path) -> None:
    """Raises CheckpointError when tensors of these names are a model or a memory of titans-pytorch."""
    if not any(_MARK in name.split(".") for name in names):
        return
    if f"{_MARK}.0" in names:
        raise CheckpointError(
            f"'{path}' is a NeuralMemory of titans-pytorch: one layer, without embedding and head, so no task can run "
            "it. ttbench.checkpoints.convert.titans_pytorch.convert_memory makes our layer of it where both compute "
            "the same; docs/check-a-foreign-model.md says where"
        )
    raise CheckpointError(
        f"'{path}' is a model of titans-pytorch, and no architecture here computes the same: its memory reads and "
        "writes the stream before attention, not attention's output; its long-term tokens are learned constants, not "
        "what the memory returns; its layers are joined by hyper-connections. It runs through its own code, as in "
        "docs/check-a-foreign-model.md"
    )
