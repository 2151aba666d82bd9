"""The command `export`. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ttbench.cli import options


def fill(command: Callable[..., Any]) -> None:
    """Add `export` to the commands."""

    @command()
    def export(
        run: Annotated[
            str,
            typer.Argument(
                metavar="RUN",
                help="Id, part of it, folder, or last; or a folder of results.",
                autocompletion=options.complete("runs"),
            ),
        ],
        to: Annotated[
            str,
            typer.Option(metavar="TOOL", help="wandb or mlflow.", autocompletion=options.complete("exporters")),
        ],
        folder: Annotated[
            Path | None,
            typer.Option("--dir", metavar="DIR", help="Its folder.  [default: exports/TOOL]", show_default=False),
        ] = None,
        checkpoint: options.Only = None,
        out: options.Out = Path("runs"),
        json: options.Json = False,
    ) -> None:
        """Write the numbers of a run for W&B or MLflow.

        Offline. Each needs its extra: pip install 'ttbench[wandb]' or 'ttbench[mlflow]'
        """
        from ttbench.cli.formats import export_command as exports

        exports.export(run, to=to, folder=folder, checkpoint=checkpoint, root=out, as_json=json)
