"""The command line: options, exit codes, and which function answers which command. Nothing heavy is imported here.

Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 cells failed, 2 wrong use, 3 a gate did not hold,
130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ttbench.cli import kernel_app, options, streams
from ttbench.cli.surface import claiming, clusters, conversion, doctoring, exporting, gating, training
from ttbench.errors import TtbenchError, UsageError
from ttbench.version import __version__

if TYPE_CHECKING:
    from ttbench.cli.commands.run_command import Request


class CommandGroup(TyperGroup):
    """Turns a TtbenchError into one message on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TtbenchError as error:
            from ttbench.cli.console import print_error

            print_error(str(error))
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            # A path that the user gave, wherever it is asked for first; what else the system says is a fault of ours.
            if error.filename is None or error.errno not in (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG):
                raise
            from ttbench.cli.console import print_error

            name = str(error.filename)
            print_error(f"{name if len(name) < 100 else name[:97] + '...'}: {error.strerror}")
            raise typer.Exit(UsageError.exit_code) from error


app = typer.Typer(
    name="ttbench",
    cls=CommandGroup,
    help="Measure long-context quality, speed and memory of pretrained sequence models.",
    epilog="Start with: ttbench run perplexity --ctx 1k,4k",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUNS = Path("runs")
PLACED = {"device": "cpu", "dtype": "float32", "engine": "eager"}


def command(name: str | None = None, **settings: Any) -> Any:
    """`app.command` with the rules of `options.Command`."""
    return app.command(name, cls=options.Command, **settings)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ttbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@command()
@options.takes()
def run(
    target: options.Target,
    out: options.Out = RUNS,
    name: options.RunName = None,
    fresh: options.Fresh = False,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Measure a task or a suite.

    Cells that earlier runs in the same folder answered are not measured again, unless their code has changed.
    """
    from ttbench.cli.commands import run_command

    raise typer.Exit(run_command.run(_request(target, given, out=out, fresh=fresh, name=name), as_json=json))


@command()
@options.takes()
def plan(target: options.Target, out: options.Out = RUNS, json: options.Json = False, **given: Any) -> None:
    """Show what `run` would do and cost; start nothing."""
    from ttbench.cli.commands import run_command

    run_command.plan(_request(target, given, out=out), as_json=json)


def _request(target: str, given: dict[str, Any], *, out: Path, fresh: bool = False, name: str | None = None) -> Request:
    """The request that a command line stands for."""
    from ttbench.cli.commands.run_command import Request
    from ttbench.runs.options import from_flags

    return Request(target=target, options=from_flags(given), out=out, fresh=fresh, name=name)


@command()
def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Checkpoints, or settings of one: NAME@engine=hf,dtype=bfloat16, NAME@strategy=base.  [default: all]",
            autocompletion=options.complete("checkpoints"),
            show_default=False,
        ),
    ] = None,
    run: options.Read = None,
    logs: Annotated[
        bool, typer.Option("--from", help="A and B are folders of logs by lm-eval, inspect_ai or lighteval.")
    ] = False,
    form: options.TableFormat = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Compare checkpoints, or settings of one, pair by pair.

    Differences with confidence intervals and a verdict, on everything that both were measured on; of three and more
    also a leaderboard. All comparisons of a metric are judged together.
    """
    from ttbench.cli.commands import verdict_commands as verdicts

    if logs:
        verdicts.compare_foreign(names or [], runs=run or [], form=form, as_json=json)
    else:
        verdicts.compare(names or [], runs=run or [], root=out, form=form, as_json=json)


gating.fill(command)
claiming.fill(command)


@command()
def figures(
    folder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIR|RUN",
            help="Folders with a rows.parquet, or runs.  [default: all folders in results/]",
            autocompletion=options.complete("runs"),
            show_default=False,
        ),
    ] = None,
    paper: options.Paper = None,
    into: options.Into = None,
    form: options.TableFormat = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Rebuild tables and figures from their rows.

    The tables are CSV of six digits; --format markdown or latex writes each beside it too, csv every digit.
    """
    from ttbench.cli.commands import figure_commands

    figure_commands.figures(folder or [], paper=paper, into=into, form=form, root=out, as_json=json)


@command()
def report(
    run: options.Reported = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file.")] = Path("report.html"),
    json: options.Json = False,
) -> None:
    """Write verdicts, figures, tables and samples as one HTML file.

    It opens in any browser without a network. Needs the extra: pip install 'ttbench[report]'
    """
    from ttbench.cli.page import report_command as pages

    pages.report(run or [], out=out, root=RUNS, as_json=json)


@command("list")
def list_(
    noun: Annotated[
        str | None,
        typer.Argument(
            metavar="NOUN",
            help="tasks, architectures, corpora, checkpoints, experts, suites, papers, runs.  [default: all, in short]",
            autocompletion=options.complete("nouns"),
            show_default=False,
        ),
    ] = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """List tasks, checkpoints, suites, runs and more."""
    from ttbench.cli.commands import result_commands as results

    results.list_nouns(noun, root=out, as_json=json)


@command()
def show(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Id, part of it, folder, or last.", autocompletion=options.complete("runs")),
    ],
    cell: Annotated[
        str | None, typer.Argument(metavar="CELL", help="First letters of a cell's id.", show_default=False)
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=0, metavar="NUMBER", help="Of the cell, from 0: its prompt, answer and log-probabilities."),
    ] = None,
    form: options.TableFormat = None,
    checkpoint: options.Only = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Show a run, a cell or a sample of it, or published results.

    --format model-index prints what was measured of one checkpoint as metadata of a model card.
    """
    if form is not None or checkpoint is not None:
        from ttbench.cli.formats import format_commands as formats

        whole = cell is None and sample is None and not json
        formats.show_formatted(run, form, checkpoint=checkpoint, whole=whole, root=out)
        return
    from ttbench.cli.commands import result_commands as results

    results.show(run, cell, sample=sample, root=out, as_json=json)


exporting.fill(command)


runs_app = typer.Typer(
    cls=CommandGroup, help="Manage the folders of runs.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(runs_app, name="runs")
kernels_app = typer.Typer(
    cls=CommandGroup, help="List, prove and compile the fused kernels.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(kernel_app.fill(kernels_app), name="kernels")
clusters.fill(app)


@runs_app.command("rm", cls=options.Command)
def remove_runs(
    run: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs to delete: id, part of one, folder, or last.",
            autocompletion=options.complete("runs"),
        ),
    ],
    out: options.Out = RUNS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; also delete runs that have not ended.")] = False,
) -> None:
    """Delete runs.

    What they measured must be measured again, unless another run has taken it over.
    """
    from ttbench.cli.commands import result_commands as results

    results.remove_runs(run, root=out, yes=yes)


doctoring.fill(command)


def _placed(given: dict[str, Any]) -> dict[str, str]:
    """Where and how one checkpoint is opened, with the defaults of a run."""
    return {name: given[name] or default for name, default in PLACED.items()}


@command()
@options.takes(*PLACED, single=True)
def check(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR|ID",
            help="A checkpoint, or architecture:NAME for an architecture that has none yet.",
            autocompletion=options.complete("checkpoints"),
        ),
    ],
    ctx: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS", help="Length of text to check, such as 32k.  [default: its training context, at most 4k]"
        ),
    ] = None,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Check a model's steps, causality and states.

    Steps and splits of a text must give what one forward pass gives, no output may depend on later tokens, and a saved
    state must continue the text.
    """
    from ttbench.cli.commands import checkpoint_commands as checkpoints

    checkpoints.check(
        checkpoint,
        **_placed(given),
        ctx=ctx,
        as_json=json,
    )


@command()
@options.takes(*PLACED, "attention", "threads", single=True)
def generate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="NAME|DIR|ID", help="A checkpoint.", autocompletion=options.complete("checkpoints"))
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue; - reads it from stdin.")],
    num_tokens: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Tokens to write.")] = 128,
    json: options.Json = False,
    **given: Any,
) -> None:
    """Continue a text, greedily."""
    from ttbench.cli.commands import checkpoint_commands as checkpoints

    checkpoints.generate(
        checkpoint,
        prompt,
        num_tokens=num_tokens,
        **_placed(given),
        attention=given["attention"],
        threads=given["threads"],
        as_json=json,
    )


conversion.fill(command)


training.fill(command)


@app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lm_eval(ctx: typer.Context) -> None:
    """Run lm-eval's own command line.

    It takes the same checkpoints as the other commands. Options of lm-eval follow --, as in: ttbench lm-eval -- run
    --model_args checkpoint=ttt-linear --tasks piqa
    """
    from ttbench.cli.commands import lm_eval_command as harness

    raise typer.Exit(harness.lm_eval(ctx.args))


def main() -> None:
    """Entry point of the console script."""
    streams.run(app)
