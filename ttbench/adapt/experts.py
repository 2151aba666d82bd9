"""Experts: what self-adaptation switches between, and their folders. Torch-free.

    <name>/expert.json            method, form, domain, the base, matrix names with shapes, how it was made
           expert.safetensors     float32 tensors "<matrix>.<part>"

`svf` experts have one part per matrix, z (paper) or p (repository); `lora` experts have A and B, and
W' = W + scale * B A.
A library is a folder of such folders; `transformer` names the one that ships for the zoo's transformer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ttbench.checkpoints.folder import whole_folder
from ttbench.errors import CheckpointError, UnknownNameError
from ttbench.types import digest

CARD, TENSORS = "expert.json", "expert.safetensors"
FORMAT = 1
DISPATCH = "dispatch"  # the domain of an expert that only chooses among the others
UNKNOWN = "unknown"  # the objective of an expert that came from elsewhere
OTHER = "other"  # the label of prompts that are no expert's: they are answered with the base weights

Method = Literal["svf", "lora"]
PARTS: Mapping[str, tuple[str, ...]] = {"paper": ("z",), "repository": ("p",), "lora": ("A", "B")}
KINDS = (("svf", "paper"), ("svf", "repository"), ("lora", None))  # method, form
_WORDS = ("name", "method", "objective", "domain", "base")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expert:
    """A small change to some matrices of one base."""

    name: str
    method: Method
    form: str | None  # paper | repository for svf; None for lora
    objective: str  # next-token | reinforce | unknown
    domain: str  # what it was trained on; "dispatch" for a classifier
    base: str  # checkpoint it was trained over, by name, for people
    base_digest: str | None  # weights digest of that checkpoint; None: unknown
    scale: float | None  # of lora: lora_alpha / rank
    tensors: Mapping[str, Mapping[str, np.ndarray]]  # matrix -> part -> float32
    shapes: Mapping[str, tuple[int, int]]  # matrix -> rows and columns of the base's weight
    training: Mapping[str, Any]  # recipe, seconds, losses: for people

    @property
    def num_params(self) -> int:
        """Trained numbers."""
        return sum(part.size for parts in self.tensors.values() for part in parts.values())

    @property
    def parts(self) -> tuple[str, ...]:
        return PARTS[self.form or self.method]

    def to_json(self) -> dict[str, Any]:
        """The card: everything but the numbers."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("name", "method", "form", "objective", "domain", "base")},
            "base_digest": self.base_digest,
            "scale": self.scale,
            "num_params": self.num_params,
            "matrices": {name: list(shape) for name, shape in self.shapes.items()},
            "training": dict(self.training),
        }


def save_expert(expert: Expert, folder: Path) -> None:
    """Write an expert's folder, whole or not at all. Raises CheckpointError when it holds something already."""
    tensors = {
        f"{matrix}.{part}": np.ascontiguousarray(value, dtype=np.float32)
        for matrix, parts in expert.tensors.items()
        for part, value in parts.items()
    }
    with whole_folder(folder) as building:
        save_file(tensors, building / TENSORS)
        text = json.dumps(expert.to_json(), indent=2, allow_nan=False) + "\n"
        (building / CARD).write_text(text, encoding="utf-8")


def read_card(folder: Path) -> dict[str, Any]:
    """expert.json alone. Raises CheckpointError."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the expert in '{folder}': {error}") from error
    if (
        not isinstance(card, dict)
        or card.get("format") != FORMAT
        or (card.get("method"), card.get("form")) not in KINDS
    ):
        raise CheckpointError(
            f"'{path}' is no expert of format {FORMAT}; allowed are method svf with form paper or repository, and lora"
        )
    lacking = [
        name for name in (*_WORDS, "base_digest", "scale", "num_params", "matrices", "training") if name not in card
    ]
    if lacking:
        raise CheckpointError(f"'{path}' lacks {', '.join(lacking)}")
    wrong = [name for name in _WORDS if not isinstance(card[name], str)]
    if not isinstance(card["matrices"], dict) or not card["matrices"]:
        wrong.append("matrices (names with [rows, columns])")
    else:
        wrong += [f"matrices: {name} {shape}" for name, shape in card["matrices"].items() if not _is_shape(shape)]
    if card["method"] == "lora" and not isinstance(card["scale"], int | float):
        wrong.append(f"scale {card['scale']!r} (lora needs a number)")
    if wrong:
        raise CheckpointError(f"'{path}' cannot be an expert; wrong are: {', '.join(wrong[:5])}")
    return card


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and size > 0 for size in shape)


def read_expert(folder: Path) -> Expert:
    """Read an expert's folder strictly: each matrix of the card has its tensors, of the right shape, and no others.

    Raises CheckpointError.
    """
    card = read_card(folder)
    try:
        stored = load_file(folder / TENSORS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read '{folder / TENSORS}': {error}") from error
    parts = PARTS[card["form"] or card["method"]]
    expected = {f"{matrix}.{part}" for matrix in card["matrices"] for part in parts}
    if stored.keys() != expected:
        wrong = sorted(stored.keys() ^ expected)
        raise CheckpointError(f"'{folder / TENSORS}' and its card disagree about {', '.join(wrong[:5])}")
    tensors = {matrix: {part: stored[f"{matrix}.{part}"] for part in parts} for matrix in card["matrices"]}
    shapes = {matrix: (int(rows), int(columns)) for matrix, (rows, columns) in card["matrices"].items()}
    for matrix, held in tensors.items():
        check_parts(matrix, held, shapes[matrix], where=str(folder / TENSORS))
    names = ("name", "method", "form", "objective", "domain", "base", "base_digest", "scale", "training")
    return Expert(**{name: card[name] for name in names}, tensors=tensors, shapes=shapes)


def check_parts(matrix: str, parts: Mapping[str, np.ndarray], shape: tuple[int, int], *, where: str) -> None:
    """Raise CheckpointError when parts do not fit a matrix of this shape, or are not finite."""
    rows, columns = shape
    rank = parts["A"].shape[0] if "A" in parts and parts["A"].ndim else 1
    fitting = {"A": (rank, columns), "B": (rows, rank)}
    for part, value in parts.items():
        fits = fitting.get(part, (min(rows, columns),))
        if value.shape != fits:
            raise CheckpointError(
                f"{where}: '{matrix}.{part}' has shape {list(value.shape)}; a matrix of {rows} x {columns} takes "
                f"{list(fits)}. Is it an expert of another model?"
            )
        if not np.isfinite(value).all():
            raise CheckpointError(f"{where}: '{matrix}.{part}' has values that are not finite")


def library_folders() -> dict[str, Path]:
    """The libraries that ship with the package, by name."""
    folder = Path(str(resources.files("ttbench") / "zoo" / "experts"))
    return {path.name: path for path in sorted(folder.glob("*")) if any(path.glob(f"*/{CARD}"))}


def find_library(name: str) -> Path:
    """A library by name or path. Raises UnknownNameError, or CheckpointError for a folder without experts."""
    shipped = library_folders()
    if name in shipped:
        return shipped[name]
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        raise UnknownNameError("library of experts", name, known=shipped)
    if not any(folder.glob(f"*/{CARD}")):
        raise CheckpointError(f"'{name}' holds no experts; each is a folder with {CARD} and {TENSORS}")
    return folder


def library_digest(folder: Path) -> str:
    """Digest of every expert's name, card and tensors. Raises CheckpointError for a wrong card, or without tensors."""
    lines = []
    for path in sorted(folder.glob(f"*/{CARD}")):
        read_card(path.parent)
        try:
            tensors = (path.parent / TENSORS).read_bytes()
        except OSError as error:
            raise CheckpointError(f"cannot read the tensors of the expert in '{path.parent}': {error}") from error
        lines.append(f"{path.parent.name}\t{digest(path.read_bytes())}\t{digest(tensors)}")
    return digest("\n".join(lines))


def read_library(folder: Path) -> list[Expert]:
    """Every expert of a library, in the order of their folders. Raises CheckpointError, also for a name given twice."""
    experts: dict[str, Expert] = {}
    for path in sorted(folder.glob(f"*/{CARD}")):
        expert = read_expert(path.parent)
        if expert.name in experts:
            raise CheckpointError(f"two experts in '{folder}' are called '{expert.name}'; see the name in their {CARD}")
        experts[expert.name] = expert
    return list(experts.values())
