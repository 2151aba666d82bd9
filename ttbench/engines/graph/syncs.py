"""Which operations cannot stand in a captured call: those that hand a value of the device to the host, or wait for it.

Their results have a shape, or Python a value, that only the device knows; a graph would repeat the first one for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from ttbench.kernels.dispatch.trees import tensors

_TO_HOST = "hands a value of the device to the host"
_BY_VALUES = "makes a tensor whose shape depends on values"
_CROSSES = "copies between host and device"

# Operation without its overload -> what is wrong with it.
_FORBIDDEN = {
    "aten::_local_scalar_dense": _TO_HOST,
    "aten::item": _TO_HOST,
    "aten::is_nonzero": _TO_HOST,
    "aten::equal": _TO_HOST,
    "aten::allclose": _TO_HOST,
    "aten::nonzero": _BY_VALUES,
    "aten::nonzero_numpy": _BY_VALUES,
    "aten::argwhere": _BY_VALUES,
    "aten::masked_select": _BY_VALUES,
    "aten::_unique": _BY_VALUES,
    "aten::_unique2": _BY_VALUES,
    "aten::unique_dim": _BY_VALUES,
    "aten::unique_consecutive": _BY_VALUES,
    "aten::unique_dim_consecutive": _BY_VALUES,
    "aten::bincount": _BY_VALUES,
}
# Indexing by these kinds is indexing by the places of what is true.
_MASKS = (torch.bool, torch.uint8)
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


def before(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Why an operation of torch cannot be captured, in words; None: it can, as far as its arguments tell."""
    name, _, overload = func.name().partition(".")
    if name in _FORBIDDEN:
        return f"{name} {_FORBIDDEN[name]}"
    if name in _INDEXED and any(x.dtype in _MASKS for x in tensors(args[1])):
        return f"{name} with a mask {_BY_VALUES}"
    if (
        name == "aten::repeat_interleave"
        and overload in ("Tensor", "self_Tensor")
        and kwargs.get("output_size") is None
    ):
        return f"{name} without output_size {_BY_VALUES}"
    given = {x.device.type for x in tensors((args, kwargs))}
    asked = {leaf.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)}
    return f"{func.name()} {_CROSSES}" if given and asked - given else None


def after(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> str | None:
    """The same, once the operation has returned: whether it joins memory of the host and of a device."""
    kinds = {x.device.type for x in tensors((args, kwargs, out))}
    return f"{func.name()} {_CROSSES}" if len(kinds) > 1 and "cpu" in kinds else None
