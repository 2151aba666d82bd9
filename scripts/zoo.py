"""The tables of the zoo in docs/zoo.md, made from the cards of its checkpoints: `make columns`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from made import put, table

from ttbench.checkpoints.checkpoint import zoo_names
from ttbench.checkpoints.naming import zoo_folders
from ttbench.training.recipe import first_seeds

PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
# Heading -> what the card says of it.
COLUMNS = {
    "parameters": r"\| parameters \| ([\d,]+);",
    "state at 4k, bytes": r"\| state \| .*, ([\d,]+) at 4,096 \(float32\)",
    "`languages`": r"`languages`, blocks of 4096 \| ([\d.]+) ",
    "`code`": r"`code`, blocks of 4096 \| ([\d.]+) ",
    "needles at 512": r"needles retrieved at 512, of 100 in `kjv` \| ([\d.]+) ",
    "at 4k": r"needles retrieved at 4096, of 100 in `kjv` \| ([\d.]+) ",
    "core hours": r"\| time \| ([\d.]+) CPU hours",
}
SEEN = ("`languages`", "`code`", "needles at 512", "at 4k")  # that a seed may move
LACKING = "-"  # what a card does not say


def lines(names: Iterable[str], columns: Iterable[str] = tuple(COLUMNS)) -> Iterator[str]:
    """A table of these checkpoints: those that read text, best in `languages` first."""
    headings = [*columns]
    folders = zoo_folders()
    rows = []
    for name in names:
        card = (folders[name] / "card.md").read_text(encoding="utf-8")
        found = {heading: re.search(pattern, card) for heading, pattern in COLUMNS.items()}
        rows.append((name, {heading: each[1] if each else LACKING for heading, each in found.items()}))
    rows.sort(key=lambda row: (row[1]["`languages`"] == LACKING, row[1]["`languages`"], row[0]))
    yield from table(("", *headings), ((f"`{name}`", [cells[heading] for heading in headings]) for name, cells in rows))


def page(text: str) -> str:
    """The text of docs/zoo.md with its tables made anew: the first seed of each model; all seeds of those with more."""
    first = first_seeds(zoo_names())
    again = [name for name in zoo_names() if name not in first]
    several = [name for name in first if any(other.startswith(f"{name}-seed") for other in again)]
    return put(put(text, "zoo", lines(first)), "seeds", lines((*several, *again), SEEN))


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
