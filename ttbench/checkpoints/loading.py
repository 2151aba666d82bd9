"""Weights into memory and back to disk.

Loading is strict: what the headers promise was checked by `ttbench.checkpoints.fit`, and here every value is looked at:
a weight that is not finite, or stops being so in the dtype asked for, is an error. Saving writes a folder whole or
not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ttbench.checkpoints.checkpoint import CONFIG, fitted, identify, read_config
from ttbench.checkpoints.files import content_digest, json_digest, plain_json
from ttbench.checkpoints.fit import tied_names
from ttbench.checkpoints.folder import refuse_taken, whole_folder
from ttbench.checkpoints.sizes import sizes
from ttbench.checkpoints.tokenizer import Tokenizer, read_tokenizer
from ttbench.checkpoints.weights import SINGLE, StoredWeights
from ttbench.errors import CheckpointError, UsageError, WeightsError
from ttbench.machine.devices import torch_device, torch_dtype
from ttbench.models.base import SequenceModel
from ttbench.types import RANDOM, Checkpoint


def load_model(checkpoint: Checkpoint, *, device: str, dtype: str, attention: str | None) -> SequenceModel:
    """The model of a checkpoint with its weights in `dtype` on `device`, in evaluation mode.

    Raises:
        UsageError: an unknown device, dtype or attention back end.
        UnsupportedError: the architecture cannot attend with that back end.
        CheckpointError: the folder no longer holds what was resolved.
        WeightsError: weights that are broken, do not fit, or are not finite in `dtype`.
    """
    to_device, to_dtype = torch_device(device), torch_dtype(dtype)
    if checkpoint.provenance == RANDOM:
        return _drawn(checkpoint, device=to_device, dtype=to_dtype, attention=attention)
    folder = Path(checkpoint.path)
    config = read_config(folder)
    identity = identify(config)
    model, stored, sources = fitted(folder, config, identity)
    model.use_attention(attention)
    if (content_digest(stored.paths), json_digest(config)) != (checkpoint.weights_digest, checkpoint.config_digest):
        raise CheckpointError(f"'{folder}' has changed since it was resolved; run the command again")
    tensors = _read(stored, sources, dtype=to_dtype)
    for names in tied_names(model):
        given = [name for name in names if name in sources]
        if any(not torch.equal(tensors[sources[name]], tensors[sources[given[0]]]) for name in given[1:]):
            raise WeightsError(
                f"config.json ties {' and '.join(names)}, and '{folder}' holds different weights for them; if they "
                "were trained apart, set tie_word_embeddings to false"
            )
        if given:
            _place(model, names, tensors[sources[given[0]]].to(to_device))
    _fill_buffers(model, type(model), identity.config, to_device)
    return model.eval()


def _drawn(checkpoint: Checkpoint, *, device: torch.device, dtype: torch.dtype, attention: str | None) -> SequenceModel:
    """The architecture's start weights from the seed of random checkpoints, made in `dtype` on `device`.

    Nothing passes through the host or another dtype: a model may need most of a GPU's memory. Each device and dtype
    has numbers of its own.
    """
    config = sizes.find_size(checkpoint.path).config
    if json_digest(config) != checkpoint.config_digest:
        raise CheckpointError(f"'{checkpoint.name}' has changed since it was resolved; run the command again")
    identity = identify(config)
    usual, devices = torch.get_default_dtype(), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(sizes.SEED)
        torch.set_default_dtype(dtype)
        try:
            model = identity.model_class.from_config(identity.config)
        finally:
            torch.set_default_dtype(usual)
    model.use_attention(attention)
    return model.eval()


def _read(stored: StoredWeights, sources: Mapping[str, str], *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Stored tensors by key, floats cast to `dtype`, in memory of their own. Raises WeightsError."""
    wanted = set(sources.values())
    tensors: dict[str, Tensor] = {}
    for path in stored.paths:
        try:
            with safetensors.safe_open(path, framework="pt", device="cpu") as file:
                for key in wanted.intersection(file.keys()):
                    tensors[key] = _cast(file.get_tensor(key), dtype, what=f"'{key}' in '{path}'")
        except (safetensors.SafetensorError, OSError) as error:
            raise WeightsError(f"'{path}' cannot be read: {error}; download or write it again") from error
    return tensors


def _cast(tensor: Tensor, dtype: torch.dtype, *, what: str) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.clone()
    if not torch.isfinite(tensor).all():
        num_bad = int((~torch.isfinite(tensor)).sum())
        raise WeightsError(
            f"{what} has {num_bad} of {tensor.numel()} values that are NaN or infinite; the file is damaged or the "
            "training diverged"
        )
    # A copy even where the dtype is the same: the file may be a memory map of something that changes.
    cast = tensor.to(dtype, copy=True)
    if not torch.isfinite(cast).all():
        raise WeightsError(
            f"{what} has values up to {tensor.abs().max().item():.4g}, beyond {dtype}; use float32 or bfloat16"
        )
    return cast


def _place(model: nn.Module, names: tuple[str, ...], value: Tensor) -> None:
    """Make `value` the tensor that stands under all of `names`."""
    module_name, _, leaf = names[0].rpartition(".")
    is_parameter = leaf in dict(model.get_submodule(module_name).named_parameters(recurse=False))
    held = nn.Parameter(value) if is_parameter else value
    for name in names:
        module_name, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module_name), leaf, held)


def _fill_buffers(model: nn.Module, model_class: type[SequenceModel], config: Any, device: torch.device) -> None:
    """Buffers that no file holds (masks, tables) come from a model built the ordinary way."""
    empty = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if not empty:
        return
    with torch.random.fork_rng(devices=[]):
        made = dict(model_class.from_config(config).named_buffers())
    for name in empty:
        _place(model, (name,), made[name].to(device))


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The checkpoint's tokenizer; None when its folder has none, or nobody trained it.

    Raises:
        CheckpointError: it is broken, cannot be byte exact, or has more ids than the model.
    """
    if checkpoint.provenance == RANDOM:
        return None
    folder = Path(checkpoint.path)
    tokenizer = read_tokenizer(folder, read_config(folder), num_ids=checkpoint.vocab_size)
    if tokenizer is not None and tokenizer.vocab_size > checkpoint.vocab_size:
        raise CheckpointError(
            f"the tokenizer in '{folder}' has ids up to {tokenizer.vocab_size - 1} and the model only "
            f"{checkpoint.vocab_size} tokens; they do not belong together"
        )
    return tokenizer


def save_checkpoint(
    model: SequenceModel, folder: str | Path, *, dtype: str, extra: Mapping[str, Any] | None = None
) -> None:
    """Write config.json and model.safetensors in the model's first fitting dialect, whole or not at all.

    Tensors of one dimension stay float32 (float64 when `dtype` is float64); tied tensors are written once.

    Args:
        model: anything in the registry; not changed.
        folder: must not exist yet, or be empty.
        dtype: of all other tensors on disk.
        extra: fields added to config.json, such as train_ctx and tokenizer.

    Raises:
        UsageError: an unknown dtype, or a field in `extra` that contradicts the model's config.
        CheckpointError: the folder holds something already.
        WeightsError: weights that are not finite in `dtype`.
    """
    refuse_taken(Path(folder))
    config = {**model.config.to_json(), "dtype": dtype}
    clashing = [key for key, value in (extra or {}).items() if config.get(key, value) != value]
    if clashing:
        raise UsageError(f"extra contradicts the model's config in {', '.join(clashing)}; leave these fields out")
    config |= extra or {}
    tensors = _stored_tensors(model, config, torch_dtype(dtype))
    with whole_folder(Path(folder)) as building:
        save_file(tensors, building / SINGLE, metadata={"format": "pt"})
        write_config(building, config)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json into an existing folder, strictly."""
    text = json.dumps(plain_json(config), indent=2, allow_nan=False) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _stored_tensors(model: SequenceModel, config: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The model's tensors under the keys of its dialect, as they go to disk."""
    dialect = identify(config).dialect
    held = model.state_dict(keep_vars=True)
    one_dim = torch.promote_types(dtype, torch.float32)
    tensors = {}
    for names in tied_names(model):
        key = next((key for key in map(dialect.source, names) if key is not None), None)
        if key is None:
            raise CheckpointError(f"dialect {dialect.name} has no name for {names[0]}; add it to its weights")
        value = held[names[0]].detach().cpu()
        tensors[key] = _cast(value, one_dim if value.ndim <= 1 else dtype, what=f"'{key}'").contiguous()
    return tensors
