"""`ttbench doctor`: the options; `doctor_command` does the work. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ttbench.cli import options

RUNS = Path("runs")


def fill(command: Callable[..., Any]) -> None:
    """Add the command to the app."""

    @command()
    def doctor(
        hub: Annotated[bool, typer.Option("--hub", help="Also ask whether the Hugging Face hub answers.")] = False,
        out: options.Out = RUNS,
        json: options.Json = False,
    ) -> None:
        """Show what can run here and what distorts timings."""
        from ttbench.cli.commands import doctor_command as machine

        machine.doctor(root=out, hub=hub, as_json=json)
