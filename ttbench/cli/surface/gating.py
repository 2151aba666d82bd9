"""`ttbench gate`: its options; `gate_command` does the work. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ttbench.cli import options

RUNS = Path("runs")


def read_margin(text: str) -> tuple[str | None, float]:
    """A margin: `0.01` for all bits per byte, or `retrieval=0.05` for one metric."""
    name, sign, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf") or (sign and not name):
        raise typer.BadParameter(f"'{text}' is no margin; write a number from 0, such as 0.005, or METRIC=0.05")
    return name or None, value


def fill(command: Callable[..., Any]) -> None:
    """Add the command by `app.command`."""

    @command()
    def gate(
        run: Annotated[
            str,
            typer.Argument(
                metavar="RUN",
                help="The run to judge: id, part of it, folder, or last.",
                autocompletion=options.complete("runs"),
            ),
        ],
        baseline: Annotated[
            str,
            typer.Option(
                metavar="DIR|RUN",
                help="What it is judged by: a folder with a rows.parquet, or a run.",
                autocompletion=options.complete("runs"),
            ),
        ],
        task: Annotated[
            list[str] | None, typer.Option(metavar="TASK", help="Judge these alone; may be repeated.  [default: all]")
        ] = None,
        margin: Annotated[
            list[Any] | None,
            typer.Option(
                parser=read_margin,
                metavar="BITS|METRIC=SIZE",
                help="How much worse may pass.  [default: the metric's smallest effect; 0.005 bits per byte]",
            ),
        ] = None,
        timing: Annotated[
            bool, typer.Option("--timing", help="Judge times and memory too: ten rounds a side, on one machine.")
        ] = False,
        again: Annotated[
            str | None,
            typer.Option(
                metavar="RUN",
                help="Fresh rounds of what is slower.  [default: they are measured]",
                autocompletion=options.complete("runs"),
            ),
        ] = None,
        markdown: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write a summary for a pull request.")
        ] = None,
        junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
        step_summary: Annotated[
            bool, typer.Option("--step-summary", help="Add the summary to the page of the GitHub Actions job.")
        ] = False,
        out: options.Out = RUNS,
        json: options.Json = False,
    ) -> None:
        """Judge a run by a baseline, for CI.

        Counts must be equal, quality equal or within a margin, and every cell of the baseline must be there. Exit code
        3 where something is red.
        """
        from ttbench.cli.commands import gate_command as gates

        gates.gate(
            run,
            baseline,
            tasks=task or [],
            margins=margin or [],
            timing=timing,
            again=again,
            files=gates.Files(markdown=markdown, junit=junit, step_summary=step_summary),
            root=out,
            as_json=json,
        )
