"""The command line: options, exit codes, and which function answers which command. Nothing heavy is imported here.

Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 cells failed, 2 wrong use, 3 a gate did not hold,
130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ttbench import __version__
from ttbench.cli import options, streams
from ttbench.errors import TtbenchError

if TYPE_CHECKING:
    from ttbench.cli.run_command import Request


class Group(TyperGroup):
    """Turns a TtbenchError into one message on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TtbenchError as error:
            from ttbench.cli.console import print_error

            print_error(str(error))
            raise typer.Exit(error.exit_code) from error


app = typer.Typer(
    name="ttbench",
    cls=Group,
    help="Measure long-context quality, speed and memory of pretrained sequence models.",
    epilog="Start with: ttbench run perplexity --ctx 1k,4k",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RUNS = Path("runs")


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


@app.command()
def run(
    target: options.Target,
    ctx: options.Ctx = None,
    checkpoint: options.Checkpoints = None,
    corpus: options.Corpus = None,
    protocol: options.Protocol = None,
    limit: options.Limit = None,
    depth_mode: options.DepthMode = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    attention: options.Attention = None,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    seed: options.Seed = None,
    out: options.Out = RUNS,
    timeout: options.Timeout = None,
    unchecked: options.Unchecked = False,
    fresh: options.Fresh = False,
    json: options.Json = False,
) -> None:
    """Measure a task or a suite.

    Cells that earlier runs in the same folder answered are not measured again, unless their code has changed.
    """
    from ttbench.cli import run_command as measure

    raise typer.Exit(measure.run(_request(locals()), as_json=json))


@app.command()
def plan(
    target: options.Target,
    ctx: options.Ctx = None,
    checkpoint: options.Checkpoints = None,
    corpus: options.Corpus = None,
    protocol: options.Protocol = None,
    limit: options.Limit = None,
    depth_mode: options.DepthMode = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    attention: options.Attention = None,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    seed: options.Seed = None,
    out: options.Out = RUNS,
    timeout: options.Timeout = None,
    unchecked: options.Unchecked = False,
    json: options.Json = False,
) -> None:
    """Show what `run` would do and cost; start nothing."""
    from ttbench.cli import run_command as measure

    measure.plan(_request(locals()), as_json=json)


def _request(given: dict[str, Any]) -> Request:
    """The options of `run` and `plan` by name, as the request they stand for."""
    from ttbench.cli.run_command import Request
    from ttbench.runs.request import Options

    names = ("ctx", "corpus", "protocol", "limit", "depth_mode", "device", "dtype", "engine", "attention")
    names += ("batch_size", "threads", "seed", "timeout")
    options = Options(
        checkpoints=tuple(given["checkpoint"] or ()) or None,
        unchecked=given["unchecked"] or None,
        **{name: given[name] for name in names},
    )
    return Request(target=given["target"], options=options, out=given["out"], fresh=given.get("fresh", False))


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="A checkpoint, or one of its settings: NAME@engine=hf,dtype=bfloat16, NAME@strategy=base.",
            autocompletion=options.complete("checkpoints"),
        ),
    ],
    second: Annotated[
        str,
        typer.Argument(
            metavar="B",
            help="The checkpoint or setting to compare it with.",
            autocompletion=options.complete("checkpoints"),
        ),
    ],
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN",
            help="Runs to read: id, part of one, folder or last; may be repeated.  [default: all runs, else results/]",
            autocompletion=options.complete("runs"),
        ),
    ] = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Compare two checkpoints, or two settings of one.

    Differences with confidence intervals and a verdict, on everything that both were measured on.
    """
    from ttbench.cli import result_commands as results

    results.compare(first, second, runs=run or [], root=out, as_json=json)


@app.command()
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
    into: Annotated[
        Path | None, typer.Option(metavar="DIR", help="First merge the rows of these runs into this folder.")
    ] = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Rebuild tables and figures from their rows."""
    from ttbench.cli import result_commands as results

    results.figures(folder or [], into=into, root=out, as_json=json)


@app.command("list")
def list_(
    noun: Annotated[
        str | None,
        typer.Argument(
            metavar="NOUN",
            help="tasks, architectures, corpora, checkpoints, experts, suites or runs.  [default: all, in short]",
            autocompletion=options.complete("nouns"),
            show_default=False,
        ),
    ] = None,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """List tasks, checkpoints, suites, runs and more."""
    from ttbench.cli import result_commands as results

    results.list_nouns(noun, root=out, as_json=json)


@app.command()
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
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Show a run, a cell or a sample of it, or published results."""
    from ttbench.cli import result_commands as results

    results.show(run, cell, sample=sample, root=out, as_json=json)


@app.command()
def doctor(
    hub: Annotated[bool, typer.Option("--hub", help="Also ask whether the Hugging Face hub answers.")] = False,
    out: options.Out = RUNS,
    json: options.Json = False,
) -> None:
    """Show what can run here and what distorts timings."""
    from ttbench.cli import doctor_command as machine

    machine.doctor(root=out, hub=hub, as_json=json)


@app.command()
def check(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR|ID",
            help="A checkpoint, or architecture:NAME for an architecture that has none yet.",
            autocompletion=options.complete("checkpoints"),
        ),
    ],
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    ctx: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS", help="Length of text to check, such as 32k.  [default: its training context, at most 4k]"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Check a model's steps, causality and states.

    Steps and splits of a text must give what one forward pass gives, no output may depend on later tokens, and a saved
    state must continue the text.
    """
    from ttbench.cli import checkpoint_commands as checkpoints

    checkpoints.check(
        checkpoint,
        device=device or "cpu",
        dtype=dtype or "float32",
        engine=engine or "eager",
        ctx=ctx,
        as_json=json,
    )


@app.command()
def generate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="NAME|DIR|ID", help="A checkpoint.", autocompletion=options.complete("checkpoints"))
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue; - reads it from stdin.")],
    num_tokens: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Tokens to write.")] = 128,
    device: options.Device = None,
    dtype: options.Dtype = None,
    engine: options.Engine = None,
    attention: options.Attention = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Continue a text, greedily."""
    from ttbench.cli import checkpoint_commands as checkpoints

    checkpoints.generate(
        checkpoint,
        prompt,
        num_tokens=num_tokens,
        device=device or "cpu",
        dtype=dtype or "float32",
        engine=engine or "eager",
        attention=attention,
        threads=threads,
        as_json=json,
    )


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="File or folder as published: JAX train state, torch.save, GGUF.")
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
    from ttbench.cli import convert_command as conversion

    conversion.convert(source, out=out, config=config, as_json=json)


@app.command()
def train(
    names: options.Names = None,
    recipe: options.Recipe = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the finished checkpoints go.")] = Path("trained"),
    share: options.Share = 1.0,
    grid: options.Grid = None,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Train checkpoints of the zoo again.

    Without names it trains all of them. An interrupted training continues where it stopped.
    """
    from ttbench.cli import checkpoint_commands as checkpoints

    if grid is not None:
        checkpoints.grid(names or [], grid, recipe=recipe, threads=threads, as_json=as_json)
    else:
        checkpoints.train(names or [], recipe=recipe, share=share, out=out, threads=threads)


@app.command("lm-eval", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lm_eval(ctx: typer.Context) -> None:
    """Run lm-eval's own command line.

    It takes the same checkpoints as the other commands. Options of lm-eval follow --, as in: ttbench lm-eval -- run
    --model_args checkpoint=ttt-linear --tasks piqa
    """
    from ttbench.cli import lm_eval_command as harness

    raise typer.Exit(harness.lm_eval(ctx.args))


@app.command("train-experts")
def train_experts(
    names: options.Names = None,
    recipe: options.Recipe = None,
    checkpoint: options.Base = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the finished experts go.")] = Path("experts"),
    threads: options.Threads = None,
) -> None:
    """Train experts for `run adapt`.

    The weights of the base model are not changed.
    """
    from ttbench.cli import experts_command as experts

    experts.train_experts(names or [], recipe=recipe, checkpoint=checkpoint, out=out, threads=threads)


def main() -> None:
    """Entry point of the console script."""
    streams.run(app)
