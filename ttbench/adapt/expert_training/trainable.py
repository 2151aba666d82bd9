"""What of a model is trained while an expert is made: numbers per singular value, or LoRA's matrices by peft.

    with trainable_svf(model, names, ...) as made:      the model computes with the expert; nothing else takes gradients
        made.parameters -> optimiser;  with made.off(): the base, for the KL term;  made.tensors() -> the expert's

Afterwards the model is what it was, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttbench.adapt.decompositions import DecompositionCache
from ttbench.adapt.svf import START, Decomposition, Form, activate, recompose
from ttbench.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """An expert in the making."""

    parameters: Sequence[nn.Parameter]
    off: Callable[[], AbstractContextManager[None]]  # inside, the model computes with its base weights
    tensors: Callable[[], Mapping[str, Mapping[str, np.ndarray]]]  # matrix -> part -> float32


class _SVFWeight(nn.Module):
    """Stands before a weight and gives W' of it."""

    def __init__(self, factors: Decomposition, form: Form) -> None:
        super().__init__()
        self.factors, self.on = factors, True
        self.form: Form = form
        self.trained = nn.Parameter(torch.full_like(factors.S, START[form]))

    def forward(self, weight: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
        if not self.on:
            return weight
        return recompose(self.factors, activate(self.trained, self.form), self.form).to(weight.dtype)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter that is there now takes a gradient."""
    taking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in taking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in taking:
            parameter.requires_grad_(True)


@contextmanager
def trainable_svf(
    model: nn.Module, names: Sequence[str], *, form: Form, cache: DecompositionCache, dtype: torch.dtype
) -> Iterator[Trainable]:
    """Train one vector per matrix; see `ttbench.adapt.svf`."""
    held: dict[str, _SVFWeight] = {}
    with frozen(model):
        try:
            for name in names:
                module = model.get_submodule(name)
                weight = module.get_parameter("weight")
                made = _SVFWeight(cache.get(weight, dtype=dtype), form)
                parametrize.register_parametrization(module, "weight", made)
                held[name] = made
            yield Trainable(
                parameters=[made.trained for made in held.values()],
                off=lambda: _off(list(held.values())),
                tensors=lambda: {
                    name: {("z" if form == "paper" else "p"): _numpy(made.trained)} for name, made in held.items()
                },
            )
        finally:
            for name in held:
                parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=False)


@contextmanager
def _off(made: Sequence[_SVFWeight]) -> Iterator[None]:
    for each in made:
        each.on = False
    try:
        yield
    finally:
        for each in made:
            each.on = True


@contextmanager
def trainable_lora(model: nn.Module, names: Sequence[str], *, rank: int, scale: float) -> Iterator[Trainable]:
    """Train W + scale * B A by peft's LoRA, without dropout; B starts at zero.

    Raises UsageError when peft is not installed, or a matrix is no nn.Linear.
    """
    try:
        # Late: peft takes seconds, and only training LoRA experts needs it.
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise UsageError("training LoRA experts needs peft; run: pip install 'ttbench[peft]'") from error
    for name in names:
        if not isinstance(model.get_submodule(name), nn.Linear):
            raise UsageError(f"'{name}' is no nn.Linear; LoRA experts are made for these only, SVF ones for any matrix")
    with frozen(model):
        # lora_alpha is declared an integer, but only ever divided by the rank; rounded, it would train another scale
        alpha = cast(int, scale * rank)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names), lora_dropout=0.0)
        tuner = LoraModel(model, config, "default")
        try:
            layers = {name: model.get_submodule(name) for name in names}
            yield Trainable(
                parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
                off=lambda: _without_adapters(tuner),
                tensors=lambda: {
                    name: {
                        "A": _numpy(layer.get_submodule("lora_A.default").get_parameter("weight")),
                        "B": _numpy(layer.get_submodule("lora_B.default").get_parameter("weight")),
                    }
                    for name, layer in layers.items()
                },
            )
        finally:
            tuner.unload()


@contextmanager
def _without_adapters(tuner: nn.Module) -> Iterator[None]:
    getattr(tuner, "disable_adapter_layers")()  # noqa: B009
    try:
        yield
    finally:
        getattr(tuner, "enable_adapter_layers")()  # noqa: B009


def _numpy(value: Tensor) -> np.ndarray:
    return value.detach().to("cpu", torch.float32).numpy().copy()
