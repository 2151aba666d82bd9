"""`ttbench kernels list | verify | build`: the options; `kernel_commands` does the work. Nothing heavy is imported."""

from __future__ import annotations

from typing import Annotated

import typer

from ttbench.cli import options

Named = Annotated[list[str] | None, typer.Argument(metavar="[OP]...", help="Ops to take.  [default: all]")]


def fill(kernels_app: typer.Typer) -> typer.Typer:
    """Add the commands to an empty group."""

    @kernels_app.command("list", cls=options.Command)
    def list_kernels(json: options.Json = False) -> None:
        """List the ops that have a fused kernel, and what stands for them on this machine."""
        from ttbench.cli.commands import kernel_commands as kernels

        kernels.show(as_json=json)

    @kernels_app.command("verify", cls=options.Command)
    def verify(
        ops: Named = None,
        device: Annotated[
            str | None,
            typer.Option(metavar="DEVICE", help="cuda, or cpu to interpret.  [default: cuda if there is one]"),
        ] = None,
        json: options.Json = False,
    ) -> None:
        """Hold every fused kernel against its float64 reference.

        Without a GPU the kernels are interpreted, in float32. Two draws of inputs at odd and at published sizes, memory
        that was not written filled with NaN, and twice for equal bits.
        """
        from ttbench.cli.commands import kernel_commands as kernels

        kernels.verify(ops or (), device=device, as_json=json)

    @kernels_app.command("build", cls=options.Command)
    def build(
        ops: Named = None,
        write: Annotated[
            bool, typer.Option("--write", help="Replace the committed manifest by what was built.")
        ] = False,
        json: options.Json = False,
    ) -> None:
        """Compile every fused kernel for GPUs that need not be here.

        Registers, spilled bytes and shared memory of each, held against the committed manifest and its bounds.
        """
        from ttbench.cli.commands import kernel_commands as kernels

        kernels.build(ops or (), write=write, as_json=json)

    return kernels_app
