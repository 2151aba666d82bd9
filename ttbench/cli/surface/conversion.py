"""`ttbench convert`: its options; `convert_command` does the work. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ttbench.cli import options


def fill(command: Callable[..., Any]) -> None:
    """Add the command by `app.command`."""

    @command()
    def convert(
        source: Annotated[
            Path,
            typer.Argument(metavar="SOURCE", help="File or folder as published: JAX train state, torch.save, GGUF."),
        ],
        out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the converted checkpoint.")],
        config: Annotated[
            str | None,
            typer.Option(
                metavar="FILE|NAME",
                help="config.json where the source has none: a file, or a preset by name.",
                show_default=False,
            ),
        ] = None,
        json: options.Json = False,
    ) -> None:
        """Convert a checkpoint from another format.

        The folder is written completely or not at all, and never over a folder that has files in it.
        """
        from ttbench.cli.commands import convert_command as convert_files

        convert_files.convert(source, out=out, config=config, as_json=json)
