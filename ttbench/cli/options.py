"""Arguments and options of commands: those of a run from `ttbench.runs.options`, and what else several commands share.

Nothing heavy is imported here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ttbench.runs.options import Flag, flags

# The error of the command line's parser: what BadParameter is a kind of.
WrongUse: Any = typer.BadParameter.__base__


def complete(noun: str) -> Callable[[str], list[str]]:
    """Shell completion of the names of a noun."""

    def names_like(incomplete: str) -> list[str]:
        from ttbench.cli.listing import names

        return [name for name in names(noun) if name.startswith(incomplete)]

    return names_like


def takes(*names: str, single: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command options of `ttbench.runs.options`, all of them where none is named; they arrive by keyword.

    Args:
        single: one value of each, also of those that a run sweeps.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        parameters = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        first = [each for each in parameters if each.default is inspect.Parameter.empty]
        rest = [each for each in parameters if each.default is not inspect.Parameter.empty]
        given = [_parameter(name, flags()[name], single=single) for name in names or flags()]
        merged = [*first, *given, *rest]
        command.__signature__ = own.replace(parameters=merged)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in merged}
        return command

    return wrap


def _parameter(name: str, flag: Flag, *, single: bool) -> inspect.Parameter:
    """An option of a run as a parameter that Typer reads."""
    many = not single and (flag.many or flag.swept)
    reader = None if flag.read is None else _parser(flag.read)
    option = typer.Option(
        flag.spelt(name),
        metavar=flag.metavar or None,
        help=flag.help,
        min=flag.least,
        parser=reader,
        autocompletion=complete(flag.complete) if flag.complete else None,
    )
    if flag.kind is bool:
        hint, default = Annotated[bool, option], False
    elif reader is not None:
        hint, default = Annotated[Any, option], None
    elif many:
        hint, default = Annotated[list[flag.kind] | None, option], None  # type: ignore[name-defined]
    else:
        hint, default = Annotated[flag.kind | None, option], None  # type: ignore[name-defined]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)


def _parser(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parse


class Command(TyperCommand):
    """A command that refuses an option given twice, and knows a task's parameter that is mistaken for an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        except WrongUse as error:
            hint = _as_parameter(self, getattr(error, "option_name", ""), ctx)
            if hint:
                raise WrongUse(hint, ctx=ctx) from error
            raise
        once = [each for each in given if each.param_type_name == "option" and not each.multiple]
        for option in dict.fromkeys(once):
            if once.count(option) > 1:
                raise WrongUse(f"{option.opts[0]} is given {once.count(option)} times; give it once", ctx=ctx)
        return super().parse_args(ctx, args)


def _as_parameter(command: TyperCommand, option: str, ctx: Any) -> str:
    """What to write for an unknown option that is a parameter of some task; empty where it is none."""
    name = option.lstrip("-").replace("-", "_")
    if not name or not any(each.name == "params" for each in command.params):
        return ""
    import dataclasses

    from ttbench.registry import TASKS

    tasks = [each for each in TASKS if name in {item.name for item in dataclasses.fields(TASKS.load(each).Params)}]
    return f"{option} is a parameter of {', '.join(tasks)}; write --param {name}=VALUE" if tasks else ""


Target = Annotated[
    str,
    typer.Argument(
        metavar="TASK|SUITE",
        help="A task, or a suite by name or path of its YAML file; task:NAME or suite:NAME where both have the name.",
        autocompletion=complete("targets"),
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs.")]


def read_name(text: str) -> str:
    """The name of a run, which becomes part of a folder's name."""
    if re.fullmatch(r"[\w][\w.-]{0,63}", text) is None:
        raise typer.BadParameter(f"'{text}' is no name: up to 64 letters, digits, dots, hyphens and underscores")
    return text


RunName = Annotated[
    Any,
    typer.Option("--name", parser=read_name, metavar="NAME", help="Name of the run, appended to its folder."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again, even where an earlier run has the result.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
TableFormat = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help="Tables as markdown, latex (booktabs) or csv.", show_default=False),
]
Only = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME",
        help="Its rows alone.  [default: all]",
        autocompletion=complete("checkpoints"),
        show_default=False,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Entries of the recipe.  [default: all of them]", show_default=False),
]
Recipe = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A recipe in YAML.  [default: the zoo's]", show_default=False)
]
Share = Annotated[
    float, typer.Option(metavar="SHARE", help="Train on this share of the recipe's tokens: 0.12 for a brief look.")
]
Replay = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Train nothing new: run the first steps of this checkpoint's training again, and compare losses and rows "
        "with its card.",
    ),
]
ReplaySteps = Annotated[
    int | None, typer.Option("--steps", metavar="COUNT", min=50, help="Steps of --replay.  [default: 200]")
]
Grid = Annotated[
    str | None,
    typer.Option(
        metavar="RATES",
        help="Ship nothing: try these learning rates (2e-3,4e-3) with 12 % of the tokens, and score the trials on "
        "valid rows.",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME|DIR|ID",
        help="The base.  [default: the recipe's]",
        autocompletion=complete("checkpoints"),
        show_default=False,
    ),
]
Paper = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Draw a paper's figures instead, its published numbers beside these rows: ttbench list papers.",
        autocompletion=complete("papers"),
        show_default=False,
    ),
]
Into = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="First merge the rows of these runs into this folder; of a paper, where its figures go.  "
        "[default for a paper: figures/NAME]",
        show_default=False,
    ),
]
Reported = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN",
        help="Runs by id, part of one, folder or last, or folders of results.  [default: all runs, else results/]",
        autocompletion=complete("runs"),
        show_default=False,
    ),
]
Read = Annotated[
    list[str] | None,
    typer.Option(
        metavar="RUN",
        help="Runs to read: id, part of one, folder or last; may be repeated.  [default: all runs, else results/]",
        autocompletion=complete("runs"),
    ),
]
