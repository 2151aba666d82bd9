"""`ttbench train` and `train-experts`: the options; `checkpoint_commands` and `experts_command` do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ttbench.cli import options
from ttbench.errors import UsageError


def fill(command: Any) -> None:
    """Add the commands to the program; `command` makes one."""

    @command()
    @options.takes("threads", single=True)
    def train(
        names: options.Names = None,
        recipe: options.Recipe = None,
        out: Annotated[Path, typer.Option(metavar="DIR", help="Where the finished checkpoints go.")] = Path("trained"),
        share: options.Share = 1.0,
        grid: options.Grid = None,
        replay: options.Replay = None,
        steps: options.ReplaySteps = None,
        as_json: options.Json = False,
        **given: Any,
    ) -> None:
        """Train checkpoints of the zoo again.

        Without names it trains all of them. An interrupted training continues where it stopped.
        """
        from ttbench.cli.commands import checkpoint_commands as checkpoints

        if replay is not None:
            checkpoints.replay(replay, names or [], num_steps=steps, threads=given["threads"], as_json=as_json)
        elif steps is not None:
            raise UsageError("--steps is the number of steps that --replay NAME runs again; name a checkpoint with it")
        elif grid is not None:
            checkpoints.grid(names or [], grid, recipe=recipe, threads=given["threads"], as_json=as_json)
        else:
            checkpoints.train(names or [], recipe=recipe, share=share, out=out, threads=given["threads"])

    @command("train-experts")
    @options.takes("threads", single=True)
    def train_experts(
        names: options.Names = None,
        recipe: options.Recipe = None,
        checkpoint: options.Base = None,
        out: Annotated[Path, typer.Option(metavar="DIR", help="Where the finished experts go.")] = Path("experts"),
        **given: Any,
    ) -> None:
        """Train experts for `run adapt`.

        The weights of the base model are not changed.
        """
        from ttbench.cli.commands import experts_command as experts

        experts.train_experts(names or [], recipe=recipe, checkpoint=checkpoint, out=out, threads=given["threads"])
