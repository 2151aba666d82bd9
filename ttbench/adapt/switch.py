"""The switch: puts experts into a model's weights, and the base's weights back.

Weights are composed once per switch and copied in place, so that nothing is computed per token, and addresses that an
engine holds stay valid. A choice is a share per expert: one expert at 1 is that expert, none at all is the base,
restored bit for bit from a copy. Mixtures are taken over z, before the repository's rescaling:

    z' = sum_k alpha_k z_k            a matrix that an expert leaves alone counts as z = 1
    W' = W + sum_k alpha_k scale_k B_k A_k        for LoRA
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self, cast

import torch
from torch import Tensor, nn

from ttbench.adapt.decompositions import DecompositionCache
from ttbench.adapt.experts import Expert
from ttbench.adapt.matrices import find_matrices
from ttbench.adapt.svf import Decomposition, Form, activate, recompose
from ttbench.errors import CheckpointError, UnknownNameError, UsageError

Choice = Mapping[str, float]  # expert -> share; empty: the base
BASE: Choice = {}


class Switch:
    """Experts over one model. As a context manager it leaves the base's weights behind, whatever happened inside.

    The mutable whole of adaptation: `choice` is what the weights are now, `num_switches` and `switch_s` count the
    changes and their wall seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        experts: Iterable[Expert],
        *,
        cache: DecompositionCache,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Copy the matrices that experts touch, and take apart those that SVF touches.

        Args:
            dtype: of the factors of decompositions.

        Raises:
            CheckpointError: an expert names a matrix that the model lacks, or that has another shape.
        """
        self.experts = {expert.name: expert for expert in experts}
        matrices = find_matrices(model)
        for expert in self.experts.values():
            _require_fit(expert, matrices)
        touched = {name for expert in self.experts.values() for name in expert.shapes}
        self._weights = {name: weight for name, weight in matrices.items() if name in touched}
        self._base = {name: weight.detach().clone() for name, weight in self._weights.items()}
        began, made = time.perf_counter(), cache.num_made
        singular = {name for expert in self.experts.values() if expert.method == "svf" for name in expert.shapes}
        self._factors: dict[str, Decomposition] = {
            name: cache.get(weight, dtype=dtype) for name, weight in self._weights.items() if name in singular
        }
        self._trained = {name: _on_device(expert, self._weights) for name, expert in self.experts.items()}
        self.decompose_s = time.perf_counter() - began  # seconds, from the cache or anew
        self.num_decomposed = cache.num_made - made
        self.choice: Choice = BASE
        self._changed: set[str] = set()
        self.num_switches = 0
        self.switch_s = 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes kept beside the model: copies of the base's matrices, factors, experts."""
        trained = (value for held in self._trained.values() for parts in held.values() for value in parts.values())
        return (
            sum(weight.nbytes for weight in self._base.values())
            + sum(factors.nbytes for factors in self._factors.values())
            + sum(value.nbytes for value in trained)
        )

    @torch.no_grad()
    def to(self, choice: Choice) -> None:
        """Make the weights those of `choice`; nothing is done when they are already.

        Raises:
            UnknownNameError: no expert has such a name.
            UsageError: experts of different methods or forms cannot be mixed.
        """
        for name in choice:
            if name not in self.experts:
                raise UnknownNameError("expert", name, known=self.experts)
        choice = {name: float(share) for name, share in choice.items() if share != 0}
        if choice == self.choice:
            return
        kinds = {(self.experts[name].method, self.experts[name].form) for name in choice}
        if len(kinds) > 1:
            raise UsageError(f"experts {', '.join(choice)} are of different methods or forms and cannot be mixed")
        began = time.perf_counter()
        touched = {matrix for name in choice for matrix in self.experts[name].shapes}
        for matrix in self._changed - touched:
            self._weights[matrix].copy_(self._base[matrix])
        for matrix in touched:
            method = self.experts[next(iter(choice))].method
            made = self._singular(matrix, choice) if method == "svf" else self._low_rank(matrix, choice)
            self._weights[matrix].copy_(made)
        self._changed, self.choice = touched, choice
        if self._weights and (device := next(iter(self._weights.values())).device).type == "cuda":
            torch.cuda.synchronize(device)
        self.num_switches += 1
        self.switch_s += time.perf_counter() - began

    def restore(self) -> None:
        """The base's weights, bit for bit."""
        self.to(BASE)

    def _singular(self, matrix: str, choice: Choice) -> Tensor:
        factors = self._factors[matrix]
        form = cast(Form, self.experts[next(iter(choice))].form)
        mixed = torch.zeros_like(factors.S)
        for name, share in choice.items():
            held = self._trained[name].get(matrix)
            mixed += share * (1.0 if held is None else activate(held["z" if form == "paper" else "p"], form))
        return recompose(factors, mixed, form)

    def _low_rank(self, matrix: str, choice: Choice) -> Tensor:
        base = self._base[matrix]
        made = base.to(torch.promote_types(base.dtype, torch.float32))
        for name, share in choice.items():
            held, scale = self._trained[name].get(matrix), self.experts[name].scale
            assert scale is not None  # a LoRA expert has one
            if held is not None:
                made = made + share * scale * (held["B"] @ held["A"])
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def _require_fit(expert: Expert, matrices: Mapping[str, nn.Parameter]) -> None:
    for name, shape in expert.shapes.items():
        if name not in matrices or tuple(matrices[name].shape) != shape:
            found = "no such matrix" if name not in matrices else f"{' x '.join(map(str, matrices[name].shape))}"
            raise CheckpointError(
                f"expert '{expert.name}' changes '{name}' ({shape[0]} x {shape[1]}); the model has {found}. "
                f"It was made for '{expert.base}'; experts are bound to a base and to an engine's names"
            )


def _on_device(expert: Expert, weights: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
    return {
        matrix: {part: torch.from_numpy(value).to(weights[matrix].device) for part, value in parts.items()}
        for matrix, parts in expert.tensors.items()
    }
