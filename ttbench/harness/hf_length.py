"""Tables of a model of transformers that move with the length of what is read: found by moving them, and put back.

Rotary frequencies of the types dynamic NTK and longrope are computed anew when a text is longer than the model was
trained for, and stay for the next text. So a token's loss depends on how much is read with it, and on what was read
before. Nothing is known here of types or names: a token is placed at every length that the config names, and the
buffers of the modules that hold no weights are looked at before and after.
Letters: B batch, T tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

UNNAMED = 32_768  # tokens; tried where a config names no length
# A text may be longer than what a model was trained for; tables that move later than this are not looked for.
BEYOND = 4

Kept = tuple[dict[str, Any], dict[str, Tensor | None]]


class Tables:
    """The modules without weights, as they were when a model was loaded."""

    def __init__(self, model: PreTrainedModel) -> None:
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
def steady_length(model: PreTrainedModel, tables: Tables, *, most: int | None) -> int | None:
    """Tokens up to which the model is one function of its text; None: at every length that was tried.

    The tables are left as they were.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return None
    named = sorted(set(_lengths(model.config.get_text_config().to_dict())))
    last = BEYOND * named[-1] if named else UNNAMED
    last = last if most is None else most

    def moves(num_tokens: int) -> bool:
        tables.restore()
        place = torch.tensor([[num_tokens - 1]], device=model.device)
        model(input_ids=torch.zeros_like(place), position_ids=place)
        moved = tables.moved()
        tables.restore()
        return moved

    if not moves(last):
        return None
    low, high = 0, last  # moves at `high`, not at `low`
    for length in named:
        if low < length < high:
            low, high = (low, length) if moves(length) else (length, high)
            if low and moves(low + 1):
                return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if moves(middle) else (middle, high)
    return low


def _lengths(config: Mapping[str, Any]) -> Iterator[int]:
    """Whole numbers of a config that say how many positions there are."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _lengths(value)
        elif type(value) is int and value > 1 and "position" in str(name):
            yield value
