"""Recipes: what the models of a zoo are trained on and how, read from YAML.

A recipe is phases of rows and one schedule, shared by all its models; a trainee is one model's architecture, sizes and
learning rate. `ttbench/zoo/recipe.yaml` shows every key.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from ttbench.corpora.training_rows.puzzles import PUZZLES
from ttbench.errors import UnknownNameError
from ttbench.strict_yaml.nodes import read_yaml
from ttbench.strict_yaml.typed import Known, read
from ttbench.types import canonical_json, digest

RECIPE = Path(str(resources.files("ttbench") / "zoo" / "recipe.yaml"))
TEXTS = ("code", "prose", "dna", "languages", "cipher", "cipher-languages", "scripts", "renamed")
NEEDLES = ("needle", "needle-any", "needle-series", "needle-any-series")
KINDS = (*TEXTS, "copy", "recall", "recall-any", *NEEDLES, *PUZZLES)
SHARED = "shared"  # a key under which a file keeps what others repeat by aliases

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Mix = Mapping[Annotated[str, Known("kind of row", KINDS)], _Positive]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of training with one row length and one mix of row kinds."""

    context_len: _Count  # tokens
    batch_size: _Count  # rows a step
    tokens: _Count
    mix: _Mix  # kind -> share of rows
    peak: _Positive | None = None  # share of the peak rate at which a warm-up and decay of its own begins here

    @property
    def num_steps(self) -> int:
        return self.tokens // (self.context_len * self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that the models of a zoo share."""

    seed: Annotated[int, Field(ge=0)]
    betas: tuple[_Share, _Share]
    weight_decay: Annotated[float, Field(ge=0)]
    clip: _Positive  # norm of the gradient
    warmup: _Share  # of all steps
    final_lr: _Share  # of the peak
    answer_weight: _Positive
    phases: tuple[Phase, ...]

    @property
    def num_steps(self) -> int:
        return sum(phase.num_steps for phase in self.phases)

    @property
    def num_tokens(self) -> int:
        return sum(phase.num_steps * phase.context_len * phase.batch_size for phase in self.phases)

    @property
    def context_len(self) -> int:
        return max(phase.context_len for phase in self.phases)

    def seeded(self, trainee: Trainee) -> Recipe:
        """The recipe with the model's own seed, where it has one."""
        return self if trainee.seed is None else dataclasses.replace(self, seed=trainee.seed)

    def kinds(self, trainee: Trainee) -> list[str]:
        """Kinds of rows that a model is trained on, in alphabetical order."""
        mixes = (phase.mix for phase in self.phases) if trainee.mix is None else (trainee.mix,)
        return sorted({kind for mix in mixes for kind in mix})

    def scaled(self, share: float) -> Recipe:
        """The same recipe with `share` of every phase's tokens, one step at least; itself for 1."""
        phases = tuple(
            dataclasses.replace(phase, tokens=max(round(phase.tokens * share), phase.context_len * phase.batch_size))
            for phase in self.phases
        )
        return dataclasses.replace(self, phases=phases)

    def locate(self, step: int) -> tuple[int, int]:
        """Phase number of a step, and the step's number inside the phase."""
        for number, phase in enumerate(self.phases):
            if step < phase.num_steps:
                return number, step
            step -= phase.num_steps
        raise IndexError(step)

    def lr_share(self, step: int) -> float:
        """Learning rate of a step, as a share of the peak: warm-up and cosine over each cycle of phases."""
        number, _ = self.locate(step)
        first = max(i for i, phase in enumerate(self.phases[: number + 1]) if i == 0 or phase.peak is not None)
        last = next((i for i in range(first + 1, len(self.phases)) if self.phases[i].peak is not None), None)
        step -= sum(phase.num_steps for phase in self.phases[:first])
        num_steps = sum(phase.num_steps for phase in self.phases[first:last])
        peak = self.phases[first].peak or 1.0
        warmup_steps = max(1, round(self.warmup * num_steps))
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        return peak * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainee:
    """One model of the zoo."""

    name: str
    architecture: str
    lr: _Positive  # peak
    autocast: bool  # bfloat16 matrix products; weights and optimiser stay float32
    config: Mapping[str, Any]
    mix: _Mix | None = None  # kind -> share of rows in every phase; None: what each phase says
    seed: Annotated[int, Field(ge=0)] | None = None  # of first weights and rows; None: the recipe's


def read_recipe(path: Path = RECIPE) -> tuple[Recipe, dict[str, Trainee]]:
    """Parse a recipe file. Raises SuiteError or UnknownNameError with file and line."""
    top = read_yaml(path, noun="recipe", needs="recipe and models", aliases=True)
    keys = top.mapping(("recipe", "models", SHARED))
    for needed in ("recipe", "models"):
        if needed not in keys:
            raise top.error(f"key '{needed}' is missing")
    recipe = read(keys["recipe"], Recipe)
    if not recipe.phases:
        raise keys["recipe"].error("a recipe has at least one phase")
    models = keys["models"].mapping(None)
    return recipe, {name: read(node, Trainee, name=name) for name, node in models.items()}


def find_trainees(names: Sequence[str], path: Path = RECIPE) -> tuple[Recipe, dict[str, Trainee]]:
    """A recipe, and those of its models that are named: all where none is.

    Raises UnknownNameError for a name it lacks, and what `read_recipe` raises.
    """
    recipe, trainees = read_recipe(path)
    for name in names:
        if name not in trainees:
            raise UnknownNameError("zoo model", name, known=trainees, where=str(path))
    return recipe, {name: trainees[name] for name in names or trainees}


def first_seeds(names: Iterable[str], path: Path = RECIPE) -> list[str]:
    """Those of these models of a recipe that are trained with its own seed, not with another one of theirs.

    Raises UnknownNameError for a name that the recipe lacks, and what `read_recipe` raises.
    """
    _, trainees = find_trainees((wanted := [*names]), path)
    return [name for name in wanted if trainees[name].seed is None]


def recipe_digest(recipe: Recipe, trainee: Trainee) -> str:
    """Digest of all that decides a training but its seed; equal for a model and the same with another seed."""
    settings, own = dataclasses.asdict(recipe), dataclasses.asdict(trainee)
    for left_out in ("name", "seed"):
        del own[left_out]
    del settings["seed"]
    return digest(canonical_json({"recipe": settings, "model": own}))


def recipe_json(recipe: Recipe, trainee: Trainee) -> str:
    """The settings of a run as JSON, for its card."""
    return json.dumps({"recipe": dataclasses.asdict(recipe), "model": dataclasses.asdict(trainee)}, indent=2)
