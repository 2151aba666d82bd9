"""Recipes of experts: YAML that says what each is trained on, and how. Torch-free.

    base: transformer             # the checkpoint that experts are made for
    recipe: {matrices: "*.mlp.*", seed: 1, ...}       # of all experts, unless one says otherwise
    experts:
      code: {method: svf, form: paper, objective: next-token, domain: code, lr: 0.02}

An expert "dispatch" is trained on the dispatch question over all domains: the classifier. An unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ttbench.adapt.domains import DOMAINS
from ttbench.adapt.experts import DISPATCH, OTHER
from ttbench.strict_yaml.nodes import Node, read_yaml
from ttbench.strict_yaml.typed import Known, build, keys_of

METHODS = ("svf", "lora")
OBJECTIVES = ("next-token", "reinforce")
FORMS = ("paper", "repository")
# What an expert can be trained on: "other" is answered with the base, so it has none.
TAUGHT = (*(name for name in DOMAINS if name != OTHER), DISPATCH)

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Everything that decides one expert."""

    name: str
    domain: Annotated[str, Known("domain", TAUGHT)]
    method: Annotated[str, Known("method", METHODS)] = "svf"
    form: Annotated[str, Known("form", FORMS)] = "paper"  # of svf
    objective: Annotated[str, Known("objective", OBJECTIVES)] = "next-token"
    matrices: str = "*.mlp.*"  # patterns over the model's names
    rank: _Count = 2  # of lora
    scale: _Positive = 2.0  # of lora: lora_alpha / rank
    lr: _Positive = 0.01  # peak of a cosine
    steps: _Count = 100
    batch_size: _Count = 4  # items a step
    context_len: _Count = 256  # tokens of an item
    answer_tokens: _Count = 192  # of domains that continue a text
    kl: Annotated[float, Field(ge=0)] = 0.0  # of reinforce: weight of KL(p' || p)
    clip: _Positive = 1.0  # norm of the gradient
    seed: Annotated[int, Field(ge=0)] = 1


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
    known = keys_of(Lesson, {"name": ""})
    shared = keys["recipe"].mapping(known) if "recipe" in keys else {}
    experts = keys["experts"].mapping(None)
    lessons = {name: _lesson(name, {**shared, **node.mapping(known)}, at=node) for name, node in experts.items()}
    if not lessons:
        raise top.error("a recipe has at least one expert")
    return Course(base=keys["base"].text("base"), lessons=lessons)


def _lesson(name: str, nodes: Mapping[str, Node], *, at: Node) -> Lesson:
    if "domain" not in nodes:
        raise at.error(f"expert '{name}' names no domain; allowed: {', '.join(TAUGHT)}")
    lesson = build(nodes, Lesson, at=at, name=name)
    if lesson.answer_tokens >= lesson.context_len:
        raise at.error(f"expert '{name}' has no room for a prompt: answer_tokens must be below context_len")
    return lesson
