"""Recipes of experts: YAML that says what each is trained on, and how. Torch-free.

    base: transformer             # the checkpoint that experts are made for
    recipe: {matrices: "*.mlp.*", seed: 1, ...}       # of all experts, unless one says otherwise
    experts:
      code: {method: svf, form: paper, objective: next-token, domain: code, lr: 0.02}

An expert "dispatch" is trained on the dispatch question over all domains: the classifier. An unknown key is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ttbench.adapt.domains import DOMAINS
from ttbench.adapt.experts import DISPATCH, OTHER
from ttbench.errors import SuiteError, UnknownNameError
from ttbench.strict_yaml.nodes import read_yaml

METHODS = ("svf", "lora")
OBJECTIVES = ("next-token", "reinforce")
FORMS = ("paper", "repository")
# What an expert can be trained on: "other" is answered with the base, so it has none.
TAUGHT = (*(name for name in DOMAINS if name != OTHER), DISPATCH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Everything that decides one expert."""

    name: str
    domain: str
    method: str = "svf"
    form: str = "paper"  # of svf
    objective: str = "next-token"
    matrices: str = "*.mlp.*"  # patterns over the model's names
    rank: int = 2  # of lora
    scale: float = 2.0  # of lora: lora_alpha / rank
    lr: float = 0.01  # peak of a cosine
    steps: int = 100
    batch_size: int = 4  # items a step
    context_len: int = 256  # tokens of an item
    answer_tokens: int = 192  # of domains that continue a text
    kl: float = 0.0  # of reinforce: weight of KL(p' || p)
    clip: float = 1.0  # norm of the gradient
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A recipe file."""

    base: str  # checkpoint
    lessons: Mapping[str, Lesson]


def course_path(name: str = "transformer") -> Path:
    """The recipe of a library that ships with the package."""
    return Path(str(resources.files("ttbench") / "zoo" / "experts" / f"{name}.yaml"))


def read_course(path: Path) -> Course:
    """Parse a recipe of experts. Raises SuiteError on anything unknown, missing or of a wrong type."""
    top = read_yaml(path, noun="recipe of experts", needs="base and experts")
    keys = top.mapping(("base", "recipe", "experts"))
    for needed in ("base", "experts"):
        if needed not in keys:
            raise top.error(f"key '{needed}' is missing")
    known = tuple(item.name for item in dataclasses.fields(Lesson) if item.name != "name")
    shared = keys["recipe"].mapping(known) if "recipe" in keys else {}
    lessons = {}
    for name, node in keys["experts"].mapping(None).items():
        values: dict[str, Any] = {key: value.scalar() for key, value in {**shared, **node.mapping(known)}.items()}
        lessons[name] = _lesson(name, values, where=node.where)
    if not lessons:
        raise top.error("a recipe has at least one expert")
    return Course(base=keys["base"].text("base"), lessons=lessons)


def _lesson(name: str, values: Mapping[str, Any], *, where: str) -> Lesson:
    defaults = {item.name: item.default for item in dataclasses.fields(Lesson)}
    fitted: dict[str, Any] = {}
    for key, value in values.items():
        kind = str if key == "domain" else type(defaults[key])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise SuiteError(f"{where}: '{key}' of expert '{name}' must be of type {kind.__name__}; got {value!r}")
        if kind in (int, float) and key not in ("kl", "seed") and value <= 0:
            raise SuiteError(f"{where}: '{key}' of expert '{name}' must be more than 0; got {value!r}")
        fitted[key] = value
    if "domain" not in fitted:
        raise SuiteError(f"{where}: expert '{name}' names no domain; allowed: {', '.join(TAUGHT)}")
    lesson = Lesson(name=name, **fitted)
    for noun, value, known in (
        ("domain", lesson.domain, TAUGHT),
        ("method", lesson.method, METHODS),
        ("form", lesson.form, FORMS),
        ("objective", lesson.objective, OBJECTIVES),
    ):
        if value not in known:
            raise UnknownNameError(noun, value, known=known, where=where)
    if lesson.answer_tokens >= lesson.context_len:
        raise SuiteError(f"{where}: expert '{name}' has no room for a prompt: answer_tokens must be below context_len")
    return lesson
