"""Whether stored weights fit a model, decided from headers alone; strict both ways.

Every tensor of the model must be given and every stored tensor must be known to the dialect. Names that share one
parameter (a head tied to the embedding) are one tensor, given under at least one of its names.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ttbench.checkpoints.weights import StoredWeights
from ttbench.errors import CheckpointError, WeightsError
from ttbench.models.base import Dialect, SequenceModel

PLAUSIBLE_LAYERS = 256  # built without a look at the files
FLOAT_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Unfilled(TorchFunctionMode):
    """Leaves tensors without memory unfilled: nothing to fill, and torch would import sympy and its compiler for it."""

    _FILLS = frozenset(
        [
            *(getattr(Tensor, f"{name}_") for name in ("normal", "uniform", "zero", "fill", "copy", "clamp")),
            *(getattr(Tensor, f"{name}_") for name in ("add", "sub", "mul", "div", "exp", "log")),
            *(getattr(Tensor, f"__i{name}__") for name in ("add", "sub", "mul", "div", "truediv")),
            *(fill for name, fill in vars(nn.init).items() if callable(fill) and name.endswith("_")),
        ]
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if func in self._FILLS and isinstance(filled, Tensor) and filled.is_meta:
            return filled
        return func(*args, **kwargs)


def skeleton(model_class: type[SequenceModel], config: Any) -> SequenceModel:
    """The model without memory for its weights (meta device). Raises CheckpointError when it cannot be built."""
    try:
        # torch warns of empty tensors, which are refused below
        with torch.device("meta"), Unfilled(), warnings.catch_warnings(action="ignore"):
            model = model_class.from_config(config)
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"config.json asks for a {model_class.__name__} that cannot be built: {error}; check its sizes"
        ) from error
    empty = [name for name, parameter in model.named_parameters() if parameter.numel() == 0]
    if empty:
        raise CheckpointError(
            f"config.json asks for a {model_class.__name__} in which {empty[0]} has no elements; check its sizes"
        )
    return model


def tied_names(model: nn.Module) -> list[tuple[str, ...]]:
    """Names of the model's tensors; those that are one and the same stand together."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, tensor in model.state_dict(keep_vars=True).items():
        groups[id(tensor)].append(name)
    return [tuple(names) for names in groups.values()]


def fit(model: SequenceModel, dialect: Dialect, stored: StoredWeights, *, where: str) -> dict[str, str]:
    """Stored key of each model tensor name; a tied tensor may have several names, at least one of them given.

    Raises:
        WeightsError: missing, unexpected or doubly given tensors, wrong shapes, or weights that are not floats.
    """
    wanted = model.state_dict(keep_vars=True)
    sources: dict[str, str] = {}
    problems: dict[str, list[str]] = defaultdict(list)
    for key in stored.tensors:
        known, target = dialect.target(key)
        if known and target is None:
            continue
        if target is None or target not in wanted:
            problems["unexpected"].append(key)
        elif target in sources:
            problems["given twice"].append(f"{key} and {sources[target]}")
        else:
            sources[target] = key
    buffers = {name for name, _ in model.named_buffers()}
    for names in tied_names(model):
        if not any(name in sources for name in names) and not _may_lack(dialect, names, buffers):
            problems["missing"].append(dialect.source(names[0]) or names[0])
    for target, key in sources.items():
        problem = _mismatch(wanted[target], stored.tensors[key].shape, stored.tensors[key].dtype)
        if problem:
            problems["of wrong shape or type"].append(f"{key} ({problem})")
    if problems:
        found = "; ".join(f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in problems.items())
        raise WeightsError(
            f"the weights in '{where}' do not fit its config.json, read as {dialect.name}: {found}. "
            "Check that config and weights belong together; nothing is guessed or ignored"
        )
    return sources


def _may_lack(dialect: Dialect, names: Iterable[str], buffers: set[str]) -> bool:
    """A buffer whose key the dialect calls optional is made by the model itself."""
    optional = {dialect.weights[pattern] for pattern in dialect.optional}
    return all(name in buffers and re.sub(r"\.\d+\.", ".{i}.", name, count=1) in optional for name in names)


def _mismatch(tensor: Tensor, shape: tuple[int, ...], dtype: str) -> str | None:
    if tuple(tensor.shape) != shape:
        return f"{list(shape)}, expected {list(tensor.shape)}"
    if tensor.is_floating_point() and dtype not in FLOAT_DTYPES:
        return f"{dtype}, expected one of {', '.join(FLOAT_DTYPES)}: quantised weights are not read"
    return None


def _listed(keys: list[str]) -> str:
    shown = sorted(keys)[:4]
    return ", ".join(shown) + (f", and {len(keys) - 4} more" if len(keys) > 4 else "")


def check_layers(config: Mapping[str, Any], stored: StoredWeights) -> None:
    """Refuse a depth that the files cannot hold, before anything of that depth is built. Raises CheckpointError."""
    for key in ("num_hidden_layers", "n_layer"):
        depth = config.get(key, 0)
        if type(depth) is not int or not 0 <= depth <= max(PLAUSIBLE_LAYERS, len(stored.tensors)):
            raise CheckpointError(
                f"config.json has {key}={depth!r}, and the weights are {len(stored.tensors)} tensors; expected a count "
                "of layers that the weights can hold"
            )
