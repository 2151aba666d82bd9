"""The table of sizes in docs/architectures.md, made from the code: `make columns`.

Every architecture of `ttbench/zoo/recipe-synthetic.yaml`, which has all of them at one width, with the parameters of
the model that is built and the state and work that `cost` gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ttbench.checkpoints.checkpoint import identify
from ttbench.checkpoints.fit import skeleton
from ttbench.registry import ARCHITECTURES
from ttbench.training.recipe import RECIPE, read_recipe

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
SIZES = RECIPE.with_name("recipe-synthetic.yaml")
BEGIN, END = "<!-- sizes: made by `make columns` -->\n", "<!-- end of sizes -->\n"
NEAR, FAR = 1024, 32 * 1024  # tokens


def sizes() -> str:
    """The table, a line for each architecture that is built in."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "| architecture | state grows | parameters | state at 1k, bytes | at 32k | FLOP of a token at 1k | at 32k |"
    yield "|---|---|---|---|---|---|---|"
    _, trainees = read_recipe(SIZES)
    # Of several models of one architecture the first: they differ in what they are trained on.
    first = {trainee.architecture: trainee for trainee in reversed(list(trainees.values()))}
    for name in ARCHITECTURES:
        if ARCHITECTURES.entry_point(name) is not None:
            continue
        found = identify(first[name].config)
        model = skeleton(found.model_class, found.config)
        cost = found.model_class.cost(found.config, dtype_bytes=4)
        numbers = [model.num_params()[0], cost.state_nbytes(NEAR), cost.state_nbytes(FAR)]
        numbers += [round(cost.decode_flops(NEAR)), round(cost.decode_flops(FAR))]
        grows = "yes" if model.state_grows else "no"
        yield f"| `{name}` | {grows} | " + " | ".join(f"{number:,}" for number in numbers) + " |"


def page(text: str) -> str:
    """The page with today's table in the place of the one between the marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{sizes()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
