"""`ttbench status | cancel | collect`: the options; `cluster_commands` does the work. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttbench.cli import options

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Id, part of it, folder, or last.", autocompletion=options.complete("runs")),
]
RUNS = Path("runs")


def fill(app: typer.Typer) -> typer.Typer:
    """Add the commands to the command line."""

    @app.command("status", cls=options.Command)
    def status(run: Run, out: options.Out = RUNS, json: options.Json = False) -> None:
        """Show how far a run is, here or on a cluster."""
        from ttbench.cli.commands import cluster_commands as commands

        commands.status(run, root=out, as_json=json)

    @app.command("cancel", cls=options.Command)
    def cancel(run: Run, out: options.Out = RUNS) -> None:
        """Cancel what a run has submitted to a cluster.

        Cells that ended are kept; the command of the run submits the rest again.
        """
        from ttbench.cli.commands import cluster_commands as commands

        commands.cancel(run, root=out)

    @app.command("collect", cls=options.Command)
    def collect(run: Run, out: options.Out = RUNS, json: options.Json = False) -> None:
        """Take what a cluster's tasks left.

        Rows and tables of the cells that ended, and a status for every cell whose task is over.
        """
        from ttbench.cli.commands import cluster_commands as commands

        raise typer.Exit(commands.collect(run, root=out, as_json=json))

    return app
