"""Arguments and options that several commands share: types, metavariables, help. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer


def complete(noun: str) -> Callable[[str], list[str]]:
    """Shell completion of the names of a noun."""

    def names_like(incomplete: str) -> list[str]:
        from ttbench.cli.listing import names

        return [name for name in names(noun) if name.startswith(incomplete)]

    return names_like


def read_limit(text: str) -> int | str:
    """A count, or `all`."""
    if text == "all" or (text.isascii() and text.isdecimal() and int(text) > 0):
        return text if text == "all" else int(text)
    raise typer.BadParameter(f"'{text}' is neither a whole number of at least 1 nor the word all")


Target = Annotated[
    str,
    typer.Argument(
        metavar="TASK|SUITE",
        help="A task, or a suite by name or path of its YAML file.",
        autocompletion=complete("targets"),
        show_default=False,
    ),
]
Ctx = Annotated[
    str | None,
    typer.Option(
        metavar="TOKENS",
        help="Context lengths in tokens, k = 1024: 32k; 1k,4k,32k; 1k..32k doubles.  [default: the task's]",
    ),
]
Checkpoints = Annotated[
    list[str] | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME|DIR|ID",
        help="Zoo or catalogue name, folder, or hub id with @revision; may be repeated.  "
        "[default: the task's, mostly the whole zoo]",
        autocompletion=complete("checkpoints"),
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        metavar="CORPUS",
        help="code, kjv, genomes, text:PATH, hf:DATASET ...  [default: the task's own]",
        autocompletion=complete("corpora"),
    ),
]
Protocol = Annotated[
    str | None, typer.Option(metavar="NAME", help="Protocol of a task that has several, such as niah_multikey_2.")
]
Limit = Annotated[
    Any,
    typer.Option(
        parser=read_limit, metavar="COUNT|all", help="Documents or trials at most, or all.  [default: the task's]"
    ),
]
DepthMode = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Where needles stand: grid (fixed depths) or ruler (random depths).  [default: grid]"
    ),
]
Device = Annotated[str | None, typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:N.  [default: cpu]")]
Dtype = Annotated[
    str | None, typer.Option(metavar="DTYPE", help="float32, bfloat16, float16 or float64.  [default: float32]")
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="eager, or hf: any model of transformers, by its own code.  [default: eager]"),
]
Attention = Annotated[
    str | None, typer.Option(metavar="NAME", help="sdpa, eager or flash.  [default: the checkpoint's, mostly sdpa]")
]
Unchecked = Annotated[
    bool,
    typer.Option(
        "--unchecked", help="Also score models that look ahead or fail another probe; tables and figures mark them."
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, metavar="COUNT", help="Sequences in one batch.  [default: the task's]")
]
Threads = Annotated[
    int | None, typer.Option(min=1, metavar="COUNT", help="CPU threads.  [default: all cores, fewer under a CPU quota]")
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, metavar="NUMBER", help="Random seed for documents, windows and trials.  [default: 0]"),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the runs.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECONDS", help="Time limit of each cell.  [default: none]")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Measure again, even where an earlier run has the result.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
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
