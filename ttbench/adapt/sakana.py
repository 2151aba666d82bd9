"""Experts in the two formats of SakanaAI/self-adaptive-llms, read as experts of ours.

    policy_params.pt      a Policy's state dict: "learnable_params_module_list.<i>" -> p [min(m, n)], positional over
                          the keys of the model's state dict that contain "mlp"
    learnable_params.pt   the older one: transformers' parameter name -> p

Both hold raw p, usually in bfloat16, for the repository's form. They are told apart by what they hold, not by the
file's name. Nothing but tensors is unpickled. A positional file is taken when its length and each of its vectors fit,
as there; nothing in it says which model it is of. Source: the repository at its last commit, 30 Jan 2025.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ttbench.adapt.experts import UNKNOWN, Expert, check_parts
from ttbench.adapt.matrices import MLP, choose_matrices, find_matrices
from ttbench.errors import CheckpointError
from ttbench.models.base import SequenceModel

_POSITIONAL = re.compile(r"learnable_params_module_list\.(\d+)")
_MIXED = "adaptive_weights"


def read_sakana(path: Path, model: nn.Module, *, name: str, domain: str, base: str, base_digest: str | None) -> Expert:
    """Read either format as an expert over `model`, native or of transformers.

    Raises:
        CheckpointError: it cannot be read as tensors, is a mixed policy, or does not fit the model.
    """
    vectors = _load(path)
    matches = {key: _POSITIONAL.fullmatch(key) for key in vectors}
    if _MIXED in vectors:
        raise CheckpointError(
            f"'{path}' is a mixture of experts found by few-shot adaptation, not an expert; give the files of the "
            "experts it mixes"
        )
    if all(matches.values()):
        named = _by_position({int(match[1]): vectors[key] for key, match in matches.items() if match}, model, path)
    elif not any(matches.values()):
        named = _by_name(vectors, model, path)
    else:
        raise CheckpointError(f"'{path}' mixes positional and named vectors; it is in neither of Sakana's formats")
    found = find_matrices(model)
    shapes = {matrix: (found[matrix].shape[0], found[matrix].shape[1]) for matrix in named}
    tensors = {matrix: {"p": value.float().numpy()} for matrix, value in named.items()}
    for matrix, parts in tensors.items():
        check_parts(matrix, parts, shapes[matrix], where=str(path))
    return Expert(
        name=name,
        method="svf",
        form="repository",
        objective=UNKNOWN,
        domain=domain,
        base=base,
        base_digest=base_digest,
        scale=None,
        tensors=tensors,
        shapes=shapes,
        training={"source": path.name, "dtype": str(next(iter(vectors.values())).dtype)},
    )


def _load(path: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"'{path}' cannot be read as tensors alone: {first}") from error
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointError(
            f"'{path}' holds no dictionary of tensors; expected policy_params.pt or learnable_params.pt"
        )
    return {str(key): value for key, value in held.items()}


def _by_position(vectors: Mapping[int, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    names = list(choose_matrices(model, MLP))
    if sorted(vectors) != list(range(len(names))):
        raise CheckpointError(
            f"'{path}' has {len(vectors)} vectors by position; the model has {len(names)} MLP matrices "
            f"({names[0]} to {names[-1]}). It is an expert of another model"
        )
    return {name: vectors[index] for index, name in enumerate(names)}


def _by_name(vectors: Mapping[str, Tensor], model: nn.Module, path: Path) -> dict[str, Tensor]:
    matrices = find_matrices(model)
    named: dict[str, Tensor] = {}
    for key, value in vectors.items():
        target = _target(key, model)
        if target not in matrices:
            raise CheckpointError(f"'{path}' has a vector for '{key}', which is no matrix of the model ({target})")
        named[target] = value
    return {name: named[name] for name in matrices if name in named}


def _target(key: str, model: nn.Module) -> str:
    """The model's name of the matrix whose weight transformers calls `key`: through its dialects where it has any."""
    targets = [key]
    if isinstance(model, SequenceModel):
        targets = [target for dialect in model.DIALECTS for target in [dialect.target(key)[1]] if target is not None]
    return next((target.removesuffix(".weight") for target in targets), f"unknown name {key}")
