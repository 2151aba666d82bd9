"""Kernels that a step starts, for each layer and for each token, counted on the meta device without a GPU.

A step of a model in bfloat16 runs with every fused twin taken. Each operation that reaches the device counts: a twin as
the kernels that it starts (`Twin.launches`), an operation of torch as one, which is a lower bound. Views and
allocations start none.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ttbench.kernels.dispatch.catalogue import FUSED, load_twin
from ttbench.kernels.dispatch.running import Way, unwatched, using
from ttbench.models.stack import Block, Stack, StackState
from ttbench.registry import ARCHITECTURES

# A whole mini-batch of every architecture at its tests' sizes, so that each kind of step is among them.
STEPS = 32
# Of aten, what only makes memory, or a view that its schema does not call one.
_NO_KERNEL = frozenset(
    "empty empty_like empty_strided new_empty new_empty_strided _unsafe_view _reshape_alias detach".split()
)

# Made of other operations on the meta device, and one kernel of torch's on a GPU.
_ONE_KERNEL = frozenset(("scaled_dot_product_attention",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """Kernels that one step of a model starts: the most of all its steps."""

    architecture: str
    layers: Mapping[str, int]  # kind of mixer -> kernels of one layer
    beside: int  # kernels of a step beside its layers: embedding, positions, last norm

    @property
    def per_layer(self) -> int:
        """Of the layer that starts most."""
        return max(self.layers.values())


class _Counter(TorchDispatchMode):
    """Counts kernels, by the name of the operation that starts them."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _name(func) not in _ONE_KERNEL:
            with self:
                made = func.decompose(*args, **(kwargs or {}))
            if made is not NotImplemented:
                return made  # of operations that were counted themselves
        number = launches_of(func)
        if number:
            name = func.name()
            self.counts[name] = self.counts.get(name, 0) + number
        return func(*args, **(kwargs or {}))


def _name(func: Any) -> str:
    """Of an operator, without its namespace and overload."""
    return func.name().partition("::")[2].partition(".")[0]


def launches_of(func: Any) -> int:
    """Kernels that a call of an operator starts."""
    name = _name(func)
    if func.namespace == "ttbench":
        return _twin_launches().get(name, 1)
    returned = [value.alias_info for value in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in returned)
    return 0 if is_view or name in _NO_KERNEL else 1


@functools.cache
def _twin_launches() -> dict[str, int]:
    return {name: load_twin(name).launches for name in FUSED}


def count_step(model: Stack, state: StackState, variants: Iterable[int]) -> dict[str, int]:
    """Operation -> kernels, of the kind of step that starts most."""
    most: dict[str, int] = {}
    ids = torch.zeros(1, dtype=torch.int64, device=model.norm.weight.device)
    for variant in variants:
        with _Counter() as counter:
            model.step(ids, state, variant)
        if sum(counter.counts.values()) > sum(most.values()):
            most = counter.counts
    return most


def count(name: str, model: Stack, *, way: Way) -> Launches:
    """Count a model on the meta device: one layer of each kind alone, less a model without layers.

    Args:
        name: of the architecture.
        way: "fused", or "torch" for what a step starts without twins.
    """
    with torch.inference_mode(), using(way), unwatched():
        variants = sorted({model.step_variant(num_tokens) for num_tokens in range(STEPS)})
        state = model.new_state(1, 2 * STEPS)
        layers, rows = model.layers, state.rows
        found: dict[str, int] = {}
        model.layers = nn.ModuleList()
        beside = sum(count_step(model, state, variants).values())
        for block, row in zip(layers, rows, strict=True):
            kind = type(cast("Block", block).mixer).__name__
            if kind not in found:
                model.layers, state.rows = nn.ModuleList([block]), [row]
                found[kind] = sum(count_step(model, state, variants).values()) - beside
        model.layers = layers
    return Launches(architecture=name, layers=found, beside=beside)


def table(names: Iterable[str] = ARCHITECTURES, *, way: Way = "fused") -> list[Launches]:
    """Every architecture that has steps, at its tests' sizes, which decide nothing about the number of kernels."""
    found = []
    for name in sorted(names):
        model = ARCHITECTURES.load(name).tiny()
        if isinstance(model, Stack) and model.strictly_causal:
            found.append(count(name, model.to("meta", torch.bfloat16).eval(), way=way))
    return found
