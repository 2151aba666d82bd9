"""`ttbench doctor`: what this machine can run, and what would distort its timings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from rich.text import Text

from ttbench.cli import console
from ttbench.cli.console import Column
from ttbench.machine.doctor import examine


def doctor(*, root: Path, hub: bool, as_json: bool) -> None:
    """Print every check; a check that is not good says what to do, and is no failure of the command."""
    checks = examine(runs=root, hub=hub)
    if as_json:
        console.print_json([dataclasses.asdict(check) for check in checks])
        return
    rows = []
    for check in checks:
        mark = Text("ok", style="green") if check.ok else Text("look", style="yellow")
        rows.append((mark, check.name, check.value if check.ok else f"{check.value}\n-> {check.advice}"))
    console.print_table(rows, [Column(""), Column("what"), Column("found", wrap=True)])
    concerns = sum(not check.ok for check in checks)
    console.say("all checks passed" if concerns == 0 else f"{concerns} of {len(checks)} checks need attention")
