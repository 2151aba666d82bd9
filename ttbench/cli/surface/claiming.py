"""`ttbench claims`: the options; `verdict_commands` does the work. Nothing heavy is imported."""

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
    def claims(
        ids: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="ID", help="Claims to answer in full.  [default: all, in a table]", show_default=False
            ),
        ] = None,
        file: Annotated[
            Path | None,
            typer.Option(
                "--claims", metavar="FILE", help="YAML file with claims of your own.  [default: those of the field]"
            ),
        ] = None,
        run: Annotated[
            list[str] | None,
            typer.Option(
                metavar="RUN",
                help="Runs to read: id, part of one, folder or last; repeatable.  [default: all runs, then results/]",
                autocompletion=options.complete("runs"),
            ),
        ] = None,
        out: options.Out = RUNS,
        json: options.Json = False,
    ) -> None:
        """Hold claims of papers and press against what was measured.

        Each claim is supported, contradicted or not decided by a rule, and beside it stands whether the paper's own
        numbers bear it out.
        """
        from ttbench.cli.commands import verdict_commands as verdicts

        verdicts.claims(ids or [], file=file, runs=run or [], root=out, as_json=json)
