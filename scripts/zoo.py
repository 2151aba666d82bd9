"""The table of the zoo in docs/zoo.md, made from the cards of its checkpoints: `make columns`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from made import put

from ttbench.checkpoints.checkpoint import zoo_names
from ttbench.checkpoints.naming import zoo_folders

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
LACKING = "-"  # what a card does not say


def lines() -> Iterator[str]:
    """The table: those that read text, best in `languages` first."""
    yield "| | " + " | ".join(COLUMNS) + " |"
    yield "|---|" + "---|" * len(COLUMNS)
    folders = zoo_folders()
    rows = []
    for name in zoo_names():
        card = (folders[name] / "card.md").read_text(encoding="utf-8")
        found = {heading: re.search(pattern, card) for heading, pattern in COLUMNS.items()}
        rows.append((name, {heading: each[1] if each else LACKING for heading, each in found.items()}))
    for name, cells in sorted(rows, key=lambda row: (row[1]["`languages`"] == LACKING, row[1]["`languages`"], row[0])):
        yield f"| `{name}` | " + " | ".join(cells.values()) + " |"


def page(text: str) -> str:
    """The text of docs/zoo.md with the table made anew."""
    return put(text, "zoo", lines())


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
