"""Writes docs/mutants.md: how many mutants of each module were killed, the survivors, and the gaps that were closed."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence

from mutant_outcomes import Mutant, Outcome, history, population
from mutant_tests import ROOT

PAGE = ROOT / "docs" / "mutants.md"
CLOSED = "## Gaps that a test has closed\n"
BY_HAND = "## By hand\n"


def reasons() -> dict[str, str]:
    """Why survivors live, by key, as the page says."""
    rows = re.finditer(r"^\| `([0-9a-f]{16})` \| .* \| (.*) \|$", _page(), re.M)
    return {row.group(1): row.group(2).strip() for row in rows}


def page(wanted: Sequence[Mutant], outcomes: Sequence[Outcome], *, command: str) -> str:
    """The page, from the outcomes of a sample and from what was written on it by hand."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    killed, untried = sum(each.killed_by is not None for each in outcomes), len(wanted) - len(outcomes)
    closed = _closed(outcomes)
    lines = [
        "# Mutants",
        "",
        "Would the tests notice a wrong number? `make mutants` changes the code in small ways, one at a time (`<` for",
        "`<=`, 2 for 1, `log10` for `log`, an argument left out), runs the tests each time, and writes this page: a",
        "sample of the mutations of each module, drawn by seed. A survivor changes nothing that matters, as its reason",
        "says, or is a gap in the tests. Where modules draw, sizes and colours are left alone. A change after which",
        "the module cannot be imported counts for nothing.",
        "",
        f"Written by `{command}` at commit {commit.strip()}. A mutant meets the tests of its own module first, then",
        "all others that import it and call the changed function, each time for two processor minutes at most.",
        "",
        f"**{killed} of {len(outcomes)} mutants were killed ({killed / max(len(outcomes), 1):.1%}).**"
        + (f" {untried} of the sample were not tried." if untried else " Every module was tried."),
        "Many tests were written for mutants of this sample that lived at first (below, under closed gaps): of",
        "mutations outside the sample a larger share would live.",
        "",
        "| module | mutations | tried | killed |",
        "|---|---:|---:|---:|",
    ]
    for path in sorted({mutant.path for mutant in wanted}):
        here = [each for each in outcomes if each.path == path]
        alive = sum(each.killed_by is None for each in here)
        lines.append(f"| `{path}` | {len(population(path, ROOT))} | {len(here)} | {len(here) - alive} |")
    lines += ["", "## Survivors", "", "| key | where | change | why it lives |", "|---|---|---|---|"]
    known = reasons()
    for each in _in_order(each for each in outcomes if each.killed_by is None):
        lines.append(f"| `{each.key}` | {_place(each)} | {_change(each)} | {known.get(each.key, '')} |")
    lines += ["", CLOSED, "| where | change | test |", "|---|---|---|", *closed]
    _, heading, rest = _page().partition(BY_HAND)
    return "\n".join(lines) + "\n" + (f"\n{heading}{rest}" if heading else "")


def _page() -> str:
    return PAGE.read_text("utf-8") if PAGE.is_file() else ""


def _closed(outcomes: Sequence[Outcome]) -> list[str]:
    """Rows of mutants that lived in an earlier run and are dead now, and the rows that the page has already."""
    lived = {each.key for each in history() if each.killed_by is None}
    gaps = _in_order(each for each in outcomes if each.killed_by and each.key in lived)
    rows = [f"| {_place(each)} | {_change(each)} | `{(each.killed_by or '').partition('[')[0]}` |" for each in gaps]
    section = _page().partition(CLOSED)[2].partition("\n## ")[0]
    before = [line for line in section.splitlines() if line.startswith("| `")]
    new = {row.rpartition(" | ")[0] for row in rows}
    return sorted([*rows, *(row for row in before if row.rpartition(" | ")[0] not in new)])


def _in_order(outcomes: Iterator[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda each: (each.path, each.function, each.after))


def _place(each: Outcome) -> str:
    return f"`{each.path.removeprefix('ttbench/')}` {each.function}"


def _change(each: Outcome) -> str:
    return f"`{each.before}` becomes `{each.after}`".replace("|", "\\|")
