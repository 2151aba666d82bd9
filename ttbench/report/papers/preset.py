"""Presets: what a paper measured and drew, as data in `suites/papers/NAME.yaml`.

A preset is a suite, whose tasks measure the authors' checkpoints by the paper's protocol (`ttbench run
papers/NAME`), with one more key, `paper`, that is read here:

    paper:
      name: ttt                          # file of results/published
      facts:                             # the protocol, each with the place in the paper that states it
        - {what: blocks, of: 125M, value: 12, source: table 3, printed: {table: "3", metric: blocks, variant: 125M}}
      checkpoints:                       # theirs: rows of another commit or size are no rerun
        - {model: TTT-Linear, hub_id: org/name, revision: null, num_params: 110420000}
      figures:
        - name: ablation
          where: table 1
          panels: [...]                  # published numbers, and which rows of a run stand beside them
          models: [...]                  # lines that can be run, and what runs in their place
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ttbench.errors import SuiteError, UnknownNameError
from ttbench.report.papers.numbers import PublishedNumber
from ttbench.strict_yaml.nodes import Node, read_yaml, suite_folders
from ttbench.strict_yaml.typed import read
from ttbench.types import Scalar

PAPERS = "papers"  # folder inside suites/
PAPER = "paper"  # key of a suite that `ttbench.runs.suite` leaves to this module
_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="small letters, digits, - and _")]
_HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="org/name")]
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit of 40 hexadecimal digits")]
_Count = Annotated[int, Field(ge=1)]
Naming = Literal["model", "variant", "benchmark", "metric", "method", "num_params"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrintedNumbers:
    """Which published numbers: those that have all these values; what is not given may be anything."""

    table: str
    paper: str | None = None  # file of results/published; None: the preset's own
    metric: str | None = None
    benchmark: str | None = None
    model: str | None = None
    method: str | None = None
    variant: str | None = None
    num_params: int | None = None
    parts: tuple[str, ...] = ()  # of `variant`

    def holds(self, number: PublishedNumber) -> bool:
        """Whether a number is one of them."""
        names = ("table", "metric", "benchmark", "model", "method", "variant", "num_params")
        wanted = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return all(getattr(number, name) == value for name, value in wanted.items()) and set(self.parts) <= set(
            number.parts
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact of a paper's protocol."""

    what: str
    value: Scalar
    source: str  # place in the paper
    of: str = ""  # which of its models or settings
    unit: str = ""
    printed: PrintedNumbers | None = None  # where `results/published` has it, in the same unit


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperCheckpoint:
    """A checkpoint of the authors, whose rows are a rerun."""

    model: str  # of the figures
    hub_id: _HubId
    num_params: _Count  # rows that differ by more than a hundredth are of something else
    revision: _Commit | None = None  # None: nobody has looked it up, so nothing can be called a rerun of it
    tokenizer: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelNumber:
    """Which rows of a run, and which number of them."""

    task: str
    metric: str
    where: Mapping[str, Scalar] = field(default_factory=dict)  # column of rows -> value
    along: str = "context_len"  # column that is the axis of curves
    label: str = "context, tokens"  # of that axis
    joined: bool = False  # one line of all checkpoints that share architecture and settings, as along their state
    factor: Annotated[float, Field(gt=0)] = 1.0  # a number of ours times this is in the panel's unit
    unit: str | None = None  # of the number, where it is not the panel's
    needs: str = ""  # data that must be there first, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperPanel:
    """One pair of axes of a figure."""

    title: str
    label: str  # of the values
    unit: str = ""
    better: Literal["higher", "lower"] = "lower"
    log: bool = False  # upright axis of curves
    x_label: str = ""  # of curves
    x_log: bool = True
    printed: PrintedNumbers | None = None
    series: Naming = "model"  # column of published numbers that tells lines apart
    category: Naming = "model"  # of dots: column that names the places
    points: Annotated[int, Field(ge=0)] = 0  # published numbers that `printed` finds
    unprinted: str = ""  # why there are none, where there are none
    measured: PanelNumber | None = None  # the paper's protocol
    stand_in: PanelNumber | None = None  # what is drawn of our models, where it is not `measured`


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperModel:
    """A line of a figure, or a place of dots, that could be run."""

    name: str
    architectures: tuple[str, ...] = ()  # whose checkpoints may stand in
    where: Mapping[str, Scalar] = field(default_factory=dict)  # settings of its rows, where one checkpoint has several
    needs: str = ""  # what a rerun needs, where no checkpoint is known


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """One figure or table of a paper."""

    name: _Name
    title: str
    where: str  # in the paper
    kind: Literal["curves", "dots"]
    panels: tuple[PaperPanel, ...]
    models: tuple[PaperModel, ...] = ()
    shown: tuple[str, ...] = ()  # lines in colour, at most six, the others being grey; none: the first six
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A paper: what it measured, with which checkpoints, and what it drew."""

    name: _Name
    source: str  # arXiv number and version
    facts: tuple[Fact, ...]
    figures: tuple[PaperFigure, ...]
    checkpoints: tuple[PaperCheckpoint, ...] = ()
    title: str = ""  # of the suite
    path: str = ""


def list_presets() -> dict[str, Path]:
    """Papers by name: those that ship with the package, and those in `./suites/papers`."""
    return {path.stem: path for folder in suite_folders() for path in sorted((folder / PAPERS).glob("*.yaml"))}


def find_preset(name: str) -> Preset:
    """The preset of a paper. Raises UnknownNameError with the nearest name, or what `read_preset` raises."""
    found = list_presets()
    if name not in found:
        raise UnknownNameError("paper", name, known=found)
    return read_preset(found[name])


def read_preset(path: Path) -> Preset:
    """Read and check the `paper` of a suite. Raises SuiteError or UnknownNameError with file and line."""
    top = read_yaml(path, noun="paper", needs="title, tasks and paper")
    keys = top.mapping(None)
    if PAPER not in keys:
        raise top.error(f"key '{PAPER}' is missing")
    node = keys[PAPER]
    title = keys["title"].text("title") if "title" in keys else ""
    preset = read(node, Preset, title=title, path=str(path))
    if preset.name != path.stem:
        raise node.error(f"name must be that of the file, '{path.stem}'; got '{preset.name}'")
    _check(preset, node)
    return preset


def _check(preset: Preset, node: Node) -> None:
    names = [figure.name for figure in preset.figures]
    if len(set(names)) < len(names) or not names:
        raise node.error("a paper has at least one figure, and no two of one name")
    models = {model.name for figure in preset.figures for model in figure.models}
    for checkpoint in preset.checkpoints:
        if checkpoint.model not in models:
            raise SuiteError(str(UnknownNameError("model", checkpoint.model, known=models, where=node.where)))
    for figure in preset.figures:
        for panel in figure.panels:
            if (panel.printed is None) == (not panel.unprinted):
                raise node.error(
                    f"panel '{panel.title}' of figure '{figure.name}' has either printed, which finds published "
                    "numbers, or unprinted, which says why there are none"
                )
