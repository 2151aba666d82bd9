"""The authors' TTT checkpoints: from JAX names and layouts to those of their PyTorch code, which `ttt-*` models read.

Flax multiplies rows by matrices [in, out], torch keeps [out, in]; convolutions are [kernel, 1, channels] there and
[channels, 1, kernel] here; the step-size gate is [heads, width, 1] there and [heads, 1, width] here. The inner model's
own weights and the rotary pairs are laid out alike on both sides.

Source: test-time-training/ttt-lm-jax ttt/models/model.py and ttt_layer.py @ a9b2904; ttt-lm-pytorch ttt.py @ cd831db.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ttbench.checkpoints.convert.flax_stream import Key, read_stream
from ttbench.checkpoints.convert.output import WeightWriter
from ttbench.checkpoints.sizes.shapes import BASE_LR, TTT_SIZES, TTT_VOCABULARY
from ttbench.errors import CheckpointError, WeightsError
from ttbench.models.ttt_config import TTTConfig

# Roots under which a whole train state, and a file of parameters alone, keep the model.
_STATE_ROOT = ("params", "params")
_PARAMS_ROOTS = ("model", "lm_head")


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.transpose(-1, -2)


def _conv(tensor: Tensor) -> Tensor:
    return tensor.permute(2, 1, 0)


_BLOCK, _LAYER = "model/h/{i}", "model.layers.{i}"
_INNER, _TTT = f"{_BLOCK}/seq_modeling_block", f"{_LAYER}.seq_modeling_block"
RULES: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "model/wte/embedding": ("model.embed_tokens.weight", _same),
    "model/ln_f/kernel": ("model.norm.weight", _same),
    "lm_head/kernel": ("lm_head.weight", _transposed),
    f"{_BLOCK}/seq_norm/kernel": (f"{_LAYER}.seq_norm.weight", _same),
    f"{_BLOCK}/ffn_norm/kernel": (f"{_LAYER}.ffn_norm.weight", _same),
    f"{_BLOCK}/feed_forward/w1/kernel": (f"{_LAYER}.mlp.gate_proj.weight", _transposed),
    f"{_BLOCK}/feed_forward/w2/kernel": (f"{_LAYER}.mlp.down_proj.weight", _transposed),
    f"{_BLOCK}/feed_forward/w3/kernel": (f"{_LAYER}.mlp.up_proj.weight", _transposed),
    f"{_BLOCK}/conv/conv_norm/kernel": (f"{_LAYER}.conv.norm.weight", _same),
    f"{_BLOCK}/conv/conv1/kernel": (f"{_LAYER}.conv.conv.weight", _conv),
    f"{_BLOCK}/conv/conv1/bias": (f"{_LAYER}.conv.conv.bias", _same),
    **{f"{_INNER}/w{x}/kernel": (f"{_TTT}.{x}_proj.weight", _transposed) for x in "qkvog"},
    **{f"{_INNER}/conv_{x}/kernel": (f"{_TTT}.conv_{x}.weight", _conv) for x in "qk"},
    **{f"{_INNER}/conv_{x}/bias": (f"{_TTT}.conv_{x}.bias", _same) for x in "qk"},
    f"{_INNER}/learnable_token_idx": (f"{_TTT}.learnable_token_idx", _same),
    # One element of the key each, slash and all.
    f"{_INNER}/learnable_ttt_lr/kernel": (f"{_TTT}.learnable_ttt_lr_weight", _transposed),
    f"{_INNER}/learnable_ttt_lr/bias": (f"{_TTT}.learnable_ttt_lr_bias", _same),
    f"{_INNER}/ttt_norm/scale": (f"{_TTT}.ttt_norm_weight", _same),
    f"{_INNER}/ttt_norm/bias": (f"{_TTT}.ttt_norm_bias", _same),
    f"{_INNER}/ttt_dense_0": (f"{_TTT}.W1", _same),
    f"{_INNER}/ttt_bias_0": (f"{_TTT}.b1", _same),
    f"{_INNER}/ttt_dense_1": (f"{_TTT}.W2", _same),
    f"{_INNER}/ttt_bias_1": (f"{_TTT}.b2", _same),
    f"{_INNER}/post_norm/scale": (f"{_TTT}.post_norm.weight", _same),
    f"{_INNER}/post_norm/bias": (f"{_TTT}.post_norm.bias", _same),
}


def parameter(key: Key) -> str | None:
    """The model's part of a key in a train state, as one path; None for optimiser state and counters."""
    if key[:2] == _STATE_ROOT:
        return "/".join(key[2:])
    return "/".join(key) if key[:1] and key[0] in _PARAMS_ROOTS else None


def convert_stream(path: Path, writer: WeightWriter, *, report: Callable[[int, int], None]) -> int:
    """Write the parameters of a train state under their torch names; the number of pairs that were skipped.

    Raises:
        WeightsError: the file is broken, holds no parameters, or one that is unknown.
    """
    skipped: list[Key] = []
    inner = False

    def wanted(key: Key) -> bool:
        if parameter(key) is None:
            skipped.append(key)
            return False
        return True

    for key, tensor in read_stream(path, wanted=wanted, report=report):
        name, change = _target(parameter(key) or "", path=path)
        if (tensor.ndim < 2 and change is not _same) or (tensor.ndim != 3 and change is _conv):
            raise WeightsError(f"'{'/'.join(key)}' in '{path}' has shape {list(tensor.shape)}, which no TTT model has")
        inner |= key[-1] == "ttt_dense_0"
        writer.add(name, change(tensor))
    if writer.num_tensors and not inner:
        raise WeightsError(
            f"'{path}' holds no weights of an inner model (ttt_dense_0): it is the authors' JAX Transformer "
            "(seq_modeling_block self_attention), and only TTT models are converted"
        )
    if not writer.num_tensors:
        roots = sorted({"/".join(key[:2]) for key in skipped})[:4]
        raise WeightsError(f"'{path}' holds no parameters: its keys begin with {', '.join(roots) or 'nothing'}")
    return len(skipped)


def _target(source: str, *, path: Path) -> tuple[str, Callable[[Tensor], Tensor]]:
    layer = re.search(r"/h/(\d+)/", source)
    pattern = source if layer is None else source.replace(layer[0], "/h/{i}/", 1)
    if pattern not in RULES:
        raise WeightsError(f"'{path}' holds '{source}', which no TTT model has; is it another architecture's?")
    name, change = RULES[pattern]
    return name if layer is None else name.replace("{i}", layer[1]), change


# The authors' JAX configuration names the layer in one word: which inner model, and which backbone.
_BLOCKS = {
    "ttt_linear": {"ttt_layer_type": "linear", "use_gate": True, "share_qk": True},
    "ttt_mlp": {"ttt_layer_type": "mlp", "use_gate": True, "share_qk": True},
    "ttt_linear_base": {"ttt_layer_type": "linear", "use_gate": False, "share_qk": False},
    "ttt_mlp_base": {"ttt_layer_type": "mlp", "use_gate": False, "share_qk": False},
}
_RENAMED = {"conv_width": "conv_kernel", "max_sequence_length": "max_position_embeddings"}
# Training, and what is always so.
_JAX_ONLY = frozenset(
    {"ttt_base_lr_init", "ttt_base_lr_warmup", "remat_mini_batch_group_size", "remat_block", "remat_attention"}
    | {"remat_mlp", "remat_conv", "use_rotary_emb", "resid_pdrop", "embd_pdrop", "attn_pdrop", "output_ttt_stats"}
    | {"fcm_min_ratio", "fcm_max_ratio", "scan_attention", "scan_mlp", "scan_query_chunk_size", "scan_key_chunk_size"}
    | {"scan_mlp_chunk_size", "bos_token_id", "eos_token_id", "use_cache"}
)


def ttt_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """config.json for a converted checkpoint: the fields given, checked and completed. Raises CheckpointError.

    The authors' two spellings are read: PyTorch's config.json, and JAX's, which says `seq_modeling_block` and
    `conv_width`.
    """
    fields = dict(given)
    if "seq_modeling_block" in fields:
        fields = _from_jax(fields)
    return {**fields, **TTTConfig.from_json(fields).to_json()}


def _from_jax(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JAX configuration in PyTorch's words. Raises CheckpointError."""
    block = given["seq_modeling_block"]
    if block not in _BLOCKS:
        what = ", the authors' Transformer" if block == "self_attention" else ""
        raise CheckpointError(
            f"the configuration has seq_modeling_block={block!r}{what}; converted are {', '.join(_BLOCKS)}"
        )
    if "pre_conv" not in given:
        raise CheckpointError(
            "the configuration lacks pre_conv, which the authors' JAX presets state; add true or false"
        )
    kept = {key: value for key, value in given.items() if key not in _JAX_ONLY and key != "seq_modeling_block"}
    found = {_RENAMED.get(key, key): value for key, value in kept.items()} | {"model_type": "ttt"}
    for key, value in _BLOCKS[block].items():
        if given.get(key, value) != value:
            raise CheckpointError(
                f"the configuration has seq_modeling_block={block!r}, which is {key}={value!r}, and "
                f"{key}={given[key]!r}; leave one of them out"
            )
        found[key] = value
    return found


# The authors' configuration calls the paper's 1.3B by this.
_CALLED = {"1.3b": "1b"}


def presets() -> dict[str, dict[str, Any]]:
    """The authors' standard configurations by name; `-base-` are those of the Transformer backbone."""
    found = {}
    for kind, base_lr in BASE_LR.items():
        for backbone, mamba in (("", True), ("-base", False)):
            for size, (hidden, intermediate, num_layers, num_heads) in TTT_SIZES.items():
                config = TTTConfig(
                    vocab_size=TTT_VOCABULARY,
                    hidden_size=hidden,
                    intermediate_size=intermediate,
                    num_hidden_layers=num_layers,
                    num_attention_heads=num_heads,
                    ttt_layer_type=kind,
                    ttt_base_lr=base_lr,
                    use_gate=mamba,
                    share_qk=mamba,
                    pre_conv=mamba,
                )
                found[f"ttt-{kind}{backbone}-{_CALLED.get(size, size)}"] = config.to_json()
    return found
