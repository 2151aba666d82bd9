"""Tables of a model of transformers that move with the length of what is read: found by moving them, and put back.

Rotary frequencies of the types dynamic NTK and longrope are computed anew when a text is longer than the model was
trained for, and stay for the next text. So a token's loss depends on how much is read with it, and on what was read
before. Nothing is known here of types or names: a copy of each module without weights is given a token far out, beyond
every length that the config names, and its buffers are looked at before and after.
Letters: B batch, T tokens.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

UNNAMED = 32_768  # tokens; tried where a config names no length
# A text may be longer than what a model was trained for; tables that move later than this are not looked for.
BEYOND = 4

Kept = tuple[dict[str, Any], dict[str, Tensor | None]]


def _is_table(module: nn.Module) -> bool:
    """Whether it holds buffers and neither weights nor other modules."""
    weights, parts = next(module.parameters(), None), next(module.children(), None)
    return bool(module._buffers) and weights is None and parts is None


class Tables:
    """The modules without weights, as they were when a model was loaded."""

    def __init__(self, model: nn.Module) -> None:
        modules = [
            m for m in model.modules() if next(m.parameters(), None) is None and next(m.children(), None) is None
        ]
        self._kept: list[tuple[nn.Module, Kept]] = [(module, _copy(module)) for module in modules if module._buffers]

    def restore(self) -> None:
        """Put every table back, as it was."""
        for module, (values, buffers) in self._kept:
            module.__dict__.update(values)
            for name in set(module._buffers) - set(buffers):
                del module._buffers[name]
            module._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})

    def moved(self) -> bool:
        """Whether a table holds other values than at first; one that has only grown does not."""
        return any(
            _differs(before, module._buffers.get(name))
            for module, (_, buffers) in self._kept
            for name, before in buffers.items()
        )


def _copy(module: nn.Module) -> Kept:
    plain = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in vars(module).items()
        if isinstance(value, Tensor | int | float | str | None)
    }
    return plain, {name: None if buffer is None else buffer.clone() for name, buffer in module._buffers.items()}


def _differs(before: Tensor | None, after: Tensor | None) -> bool:
    if before is None or after is None:
        return before is not after
    if before.ndim != after.ndim or before.shape[1:] != after.shape[1:]:
        return before.shape != after.shape
    shared = min(len(before), len(after)) if before.ndim else None
    return not torch.equal(before[:shared], after[:shared]) if before.ndim else bool(before != after)


@torch.inference_mode()
def steady_length(model: PreTrainedModel) -> int | None:
    """Tokens up to which the model is one function of its text; None: at every length that was tried."""
    named = sorted(set(_lengths(model.config.get_text_config().to_dict())))
    found = [_steady(module, named) for module in model.modules() if _is_table(module) and _takes_places(module)]
    return min((length for length in found if length is not None), default=None)


def _takes_places(module: nn.Module) -> bool:
    return {"x", "position_ids"} <= inspect.signature(module.forward).parameters.keys()


def _steady(module: nn.Module, named: Sequence[int]) -> int | None:
    """Tokens up to which a module's tables stay as they are; None: they never move. A copy on the CPU is moved."""

    def moves(num_tokens: int) -> bool:
        copied = copy.deepcopy(module).cpu()
        tables = Tables(copied)
        for kind in _kinds(copied):
            copied(torch.zeros(1, 1, 1), torch.tensor([[num_tokens - 1]]), **kind)
        return tables.moved()

    last = BEYOND * named[-1] if named else UNNAMED
    if not moves(last):
        return None
    low, high = 0, last  # moves at `high`, not at `low`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moves(middle) else (middle, high)
    return low


def _kinds(module: nn.Module) -> list[dict[str, str]]:
    """Keyword arguments for each kind of layer that a module keeps tables for."""
    if "layer_type" not in inspect.signature(module.forward).parameters:
        return [{}]
    kinds = getattr(module.config, "layer_types", None) if hasattr(module, "config") else None
    return [{"layer_type": kind} for kind in sorted(set(kinds))] if kinds else [{}]


def _lengths(config: Mapping[str, Any]) -> Iterator[int]:
    """Whole numbers of a config that say how many positions there are."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _lengths(value)
        elif type(value) is int and value > 1 and "position" in str(name):
            yield value
