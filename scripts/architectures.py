"""docs/architectures.md, made from the code: `make columns`.

The table of states and the sections are those of `Description`, which stands in the class of each architecture. The
table of sizes has every architecture of `ttbench/zoo/recipe-synthetic.yaml`, at width 64, and the `tiny()` of one that
is not there: the parameters of the model that is built, the state and work that `cost` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from made import put

from ttbench.checkpoints.checkpoint import identify
from ttbench.checkpoints.fit import skeleton
from ttbench.models.base import Description
from ttbench.registry import ARCHITECTURES
from ttbench.training.recipe import RECIPE, read_recipe

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
SIZES = RECIPE.with_name("recipe-synthetic.yaml")
NEAR, FAR = 1024, 32 * 1024  # tokens


def built_in() -> dict[str, Any]:
    """The classes of the architectures that are built in, by name."""
    return {name: ARCHITECTURES.load(name) for name in ARCHITECTURES if ARCHITECTURES.entry_point(name) is None}


def description_of(name: str) -> Description:
    """What the class says of itself. Raises LookupError where it says nothing."""
    found = ARCHITECTURES.load(name).DESCRIPTION
    if found is None:
        raise LookupError(f"architecture '{name}' has no DESCRIPTION; see Description in ttbench/models/base.py")
    return found


def states() -> Iterator[str]:
    """The table of states, a line for each architecture."""
    yield "| architecture | state grows | state | weights published |"
    yield "|---|---|---|---|"
    for name, model_class in built_in().items():
        about, each = description_of(name), model_class.tiny().state_grows
        grows = about.grows or ("with every token" if each else "no")
        state = "of its parts" if about.state is None else about.state + (" a token" if each else "")
        yield f"| [`{name}`](#{name}) | {grows} | {state} | {about.published} |"


def sizes() -> Iterator[str]:
    """The table of sizes, a line for each architecture."""
    yield "| architecture | state grows | parameters | state at 1k, bytes | at 32k | FLOP of a token at 1k | at 32k |"
    yield "|---|---|---|---|---|---|---|"
    _, trainees = read_recipe(SIZES)
    # Of several models of one architecture the first: they differ in what they are trained on.
    first = {trainee.architecture: trainee for trainee in reversed(list(trainees.values()))}
    for name, model_class in built_in().items():
        if name in first:
            config = identify(first[name].config).config
            model = skeleton(model_class, config)
        else:
            model = model_class.tiny()
            config = model.config
        cost = model_class.cost(config, dtype_bytes=4)
        numbers = [model.num_params()[0], cost.state_nbytes(NEAR), cost.state_nbytes(FAR)]
        numbers += [round(cost.decode_flops(NEAR)), round(cost.decode_flops(FAR))]
        grows = "yes" if model.state_grows else "no"
        mark = "" if name in first else " (`tiny`)"
        yield f"| `{name}`{mark} | {grows} | " + " | ".join(f"{number:,}" for number in numbers) + " |"


def sections() -> Iterator[str]:
    """Each architecture's own words, with its formulas."""
    yield "\n\n".join(f"## {name}\n\n{description_of(name).text()}" for name in built_in())


def page(text: str) -> str:
    """The page with today's tables and sections between their marks."""
    for part, lines in (("states", states()), ("sizes", sizes()), ("sections", sections())):
        text = put(text, part, lines)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
