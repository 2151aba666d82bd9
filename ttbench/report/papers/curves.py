"""Numbers of a paper's figure as curves: what was published, what is a rerun, what stands in, and what was not run.

A row is a *rerun* only if nothing separates it from the paper: the authors' repository, at the commit that the preset
pins, with the parameters that it should have, on the protocol of the panel, and nothing in the row that says it may not
stand beside published numbers. Every other row of an architecture that the preset names is a *stand-in*, and says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ttbench.errors import UsageError
from ttbench.report import summary, words
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.seeds import trained_again
from ttbench.report.drawing.paper_panels import PUBLISHED, RERUN, STAND_IN, Curve, CurvePoint, place_name
from ttbench.report.papers.numbers import PublishedNumber
from ttbench.report.papers.preset import PanelNumber, PaperCheckpoint, PaperFigure, PaperModel, PaperPanel, Preset
from ttbench.report.summary import RowGroup
from ttbench.types import Metric, Scalar

SAME_SIZE = 0.01  # share that a count of parameters may differ by, for padded vocabularies
NOT_RUN = "not run"
_IDENTITY = ("checkpoint", "revision", "weights_digest")  # columns that tell checkpoints of one architecture apart
_SIZES = ((10**9, "B"), (10**6, "M"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperLine:
    """One line of a panel with what its table says of it; without points where nothing was run or printed."""

    word: str  # published, rerun, stand-in or not run
    name: str
    points: tuple[CurvePoint, ...] = ()
    unit: str = ""
    axis: str = ""
    evidence: str = ""
    checkpoint: str | None = None
    revision: str | None = None
    weights: str | None = None
    note: str = ""
    source: str = ""
    measured: PanelNumber | None = None  # by what it was measured
    label: str = ""  # of its metric, where it was measured
    stands_for: tuple[str, ...] = ()  # models of the figure

    @property
    def curve(self) -> Curve:
        assert self.word in (PUBLISHED, RERUN, STAND_IN)
        return Curve(word=self.word, name=self.name, points=self.points)  # pyright: ignore[reportArgumentType]


def size_name(num_params: int | None) -> str:
    """A count of parameters as papers write it: 125M, 1.3B."""
    for size, letter in _SIZES:
        if num_params is not None and num_params >= size:
            return f"{num_params / size:.3g}{letter}"
    return "" if num_params is None else str(num_params)


def published_lines(panel: PaperPanel, numbers: Sequence[PublishedNumber], *, kind: str) -> list[PaperLine]:
    """The published numbers of a panel, a line for each series, in the order of the paper.

    Raises UsageError where they are more or fewer than the panel counts.
    """
    if panel.printed is None:
        return [PaperLine(word=NOT_RUN, name=PUBLISHED, note=f"{NOT_RUN}: needs printed numbers: {panel.unprinted}")]
    chosen = [number for number in numbers if panel.printed.holds(number)]
    if len(chosen) != panel.points:
        raise UsageError(
            f"panel '{panel.title}' has {panel.points} points, but {len(chosen)} published numbers are of table "
            f"'{panel.printed.table}' and what else it asks for; correct `printed` or `points`"
        )
    found: dict[str, list[PublishedNumber]] = {}
    for number in chosen:
        found.setdefault(named(number, panel.series), []).append(number)
    lines = []
    for name, mine in found.items():
        axis = mine[0].axis
        points = tuple(
            CurvePoint(
                name=named(number, panel.category) if kind == "dots" else place_name(number.at or 0.0, axis),
                at=number.at,
                value=number.value,
                printed=number.printed,
            )
            for number in mine
        )
        notes = dict.fromkeys(number.note for number in mine if number.note)
        lines.append(
            PaperLine(
                word=PUBLISHED,
                name=name,
                points=points,
                unit=panel.unit,
                axis=axis,
                evidence=", ".join(dict.fromkeys(number.evidence for number in mine)),
                note="; ".join(notes),
                source="; ".join(dict.fromkeys(number.source for number in mine)),
            )
        )
    return lines


def named(number: PublishedNumber, naming: str) -> str:
    """What tells a published number from the others of its panel."""
    return size_name(number.num_params) if naming == "num_params" else str(getattr(number, naming))


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperRows:
    """Rows of one source, with the metrics that they carry."""

    part: Part
    metrics: Mapping[str, Sequence[Mapping[str, Any]]]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> PaperRows:
        """Rows as `ttbench.store.rows.read_rows` gives them; of trainings that differ in their seed alone the first."""
        again = trained_again(rows)
        first = rows.loc[~rows["checkpoint"].isin(list(again))].reset_index(drop=True) if again else rows
        return cls(part=all_rows(first), metrics=rows.attrs.get("metrics", {}))

    def groups(self, measured: PanelNumber) -> Iterator[RowGroup]:
        """The numbers of a panel: its metric along its axis, of the rows that have all that `where` asks."""
        declared = [each for each in self.metrics.get(measured.task, ()) if each["name"] == measured.metric]
        part = self.part.equal({"task": measured.task, **measured.where})
        if declared and len(part):
            axes = tuple(dict.fromkeys(("context_len", measured.along)))
            metric = dataclasses.replace(Metric.from_json(declared[0]), axes=axes)
            yield from summary.groups(part, measured.task, metric)


def measured_lines(
    preset: Preset, figure: PaperFigure, panel: PaperPanel, sources: Sequence[PaperRows]
) -> tuple[list[PaperLine], list[PaperLine]]:
    """Of one panel: lines that were run, reruns first, and models that were not rerun, with what each needs.

    Of our models, those that were measured by the paper's protocol stand in; where there are none, those that were
    measured as `stand_in` says. The first source that has a checkpoint under some settings is believed.
    """
    theirs = {model.name: [each for each in preset.checkpoints if each.model == model.name] for model in figure.models}
    run = [] if panel.measured is None else _all_lines(panel, panel.measured, figure, theirs, sources)
    reruns = [line for line in run if line.word == RERUN]
    others = [line for line in run if line.word == STAND_IN]
    if not others and panel.stand_in is not None:
        others = _all_lines(panel, panel.stand_in, figure, theirs, sources)
    missing = [
        PaperLine(
            word=NOT_RUN,
            name=model.name,
            note=needs(preset, panel, model, theirs[model.name]) + _no_stand_in(panel, model, others),
        )
        for model in figure.models
        if model.name not in {line.name for line in reruns}
    ]
    return [*reruns, *others], missing


def _all_lines(
    panel: PaperPanel,
    measured: PanelNumber,
    figure: PaperFigure,
    theirs: Mapping[str, Sequence[PaperCheckpoint]],
    sources: Sequence[PaperRows],
) -> list[PaperLine]:
    """Reruns of any source, and stand-ins of the one source that has most: those were measured alike."""
    reruns: dict[str, PaperLine] = {}
    ours: list[PaperLine] = []
    for source in sources:
        groups = list(source.groups(measured))
        found = [
            line
            for model in figure.models
            for line in _lines(panel, measured, figure, model, theirs[model.name], groups)
        ]
        for line in found:
            if line.word == RERUN:
                reruns.setdefault(line.name, line)
        stand_ins = [line for line in found if line.word == STAND_IN]
        ours = stand_ins if _num_points(stand_ins) > _num_points(ours) else ours
    return [*reruns.values(), *_told_apart(ours)]


def _num_points(lines: Sequence[PaperLine]) -> int:
    return sum(len(line.points) for line in lines)


def _told_apart(lines: Sequence[PaperLine]) -> list[PaperLine]:
    """Lines under names of their own: one checkpoint may stand in for two models, two checkpoints have one name."""
    names = [line.name for line in lines]
    return [
        line
        if names.count(line.name) == 1
        else dataclasses.replace(line, name=f"{line.name} {(line.weights or '')[:6]}".rstrip())
        for line in lines
    ]


def _no_stand_in(panel: PaperPanel, model: PaperModel, others: Sequence[PaperLine]) -> str:
    """What is said where no model of ours was measured in the place of theirs."""
    if (
        not model.architectures
        or (panel.measured is None and panel.stand_in is None)
        or any(model.name in line.stands_for for line in others)
    ):
        return ""
    return f"; no stand-in: no rows of {' or '.join(model.architectures)}"


def needs(preset: Preset, panel: PaperPanel, model: PaperModel, theirs: Sequence[PaperCheckpoint]) -> str:
    """What has to be there before a model can be rerun, in words."""
    parts = []
    for each in theirs:
        commit = f"@{each.revision}" if each.revision else " at a commit that is not known here"
        parts.append(f"{each.hub_id}{commit}{f' ({each.note})' if each.note else ''}")
    parts = [" and ".join(parts)] if parts else [model.needs or "weights, which nobody has published"]
    parts += [panel.measured.needs] if panel.measured is not None and panel.measured.needs else []
    command = f", then: ttbench run papers/{preset.name}" if theirs else ""
    return f"{NOT_RUN}: needs {', and '.join(parts)}{command}"


def _lines(
    panel: PaperPanel,
    measured: PanelNumber,
    figure: PaperFigure,
    model: PaperModel,
    theirs: Sequence[PaperCheckpoint],
    groups: Sequence[RowGroup],
) -> Iterator[PaperLine]:
    """What rows hold of a model, a line for each checkpoint under its settings, or one for all that are joined."""
    repositories = {each.hub_id for each in theirs}
    found: dict[tuple[Scalar, ...], list[RowGroup]] = {}
    for group in groups:
        mine = (
            _repository(group.line["checkpoint"]) in repositories or group.line["architecture"] in model.architectures
        )
        if mine and all(group.line.get(name) == value for name, value in model.where.items()):
            told = {name: value for name, value in group.line.items() if not (measured.joined and name in _IDENTITY)}
            found.setdefault(tuple(told.values()), []).append(group)
    heads = [summary.head(mine[0]) for mine in found.values()]
    _, _, varying = words.settings(heads) if heads else ([], [], [])
    for mine in found.values():
        line = _line(panel, measured, figure, model, theirs, mine, varying)
        if line.points:
            yield line


def _line(
    panel: PaperPanel,
    measured: PanelNumber,
    figure: PaperFigure,
    model: PaperModel,
    theirs: Sequence[PaperCheckpoint],
    groups: Sequence[RowGroup],
    varying: Sequence[str],
) -> PaperLine:
    why = [] if measured is panel.measured else [_departure(panel.measured, measured)]
    why += dict.fromkeys(reason for group in groups for reason in departures(group, theirs))
    points, lost = [], []
    for group in groups:
        place = group.point[measured.along]
        at = float(place) if isinstance(place, int | float) else None
        if at is None and (figure.kind == "curves" or place is None):
            continue
        name = str(place) if at is None else place_name(at, measured.along)
        if not len(group.rows):
            lost.append(f"no number at {name}: {group.ended[0]}")
            continue
        made = summary.estimate(group.rows, group.metric).map(lambda number: number * measured.factor)
        name = model.name if figure.kind == "dots" and at is not None else name
        points.append(CurvePoint(name=name, at=at, value=made.value, low=made.low, high=made.high))
    line = groups[0].line
    checkpoint = ", ".join(dict.fromkeys(str(group.line["checkpoint"]) for group in groups))
    revision, weights = (_shared(name, groups) for name in ("revision", "weights_digest"))
    told = words.told(summary.head(groups[0]), [each for each in varying if each != "checkpoint"])
    note = f"stands in for {model.name}: {'; '.join(why)}" if why else f"regenerated: {model.name}"
    return PaperLine(
        word=STAND_IN if why else RERUN,
        name=f"{line['architecture'] if measured.joined else checkpoint} {told}".rstrip() if why else model.name,
        points=tuple(sorted(points, key=lambda point: point.at or 0.0)),
        unit=panel.unit if measured.unit is None else measured.unit,
        axis=measured.along,
        evidence="measured",
        checkpoint=checkpoint,
        revision=revision,
        weights=weights,
        note="; ".join([note, *lost]),
        measured=measured,
        label=groups[0].metric.label,
        stands_for=(model.name,) if why else (),
    )


def _shared(name: str, groups: Sequence[RowGroup]) -> str | None:
    """What all groups of a line have in a column; None where they differ."""
    values = dict.fromkeys(group.line[name] for group in groups)
    value = next(iter(values)) if len(values) == 1 else None
    return None if value is None else str(value)


def _departure(paper: PanelNumber | None, ours: PanelNumber) -> str:
    """In what the protocol of a stand-in differs from the paper's."""
    if paper is None:
        return f"task {ours.task}, which is not what the paper measured"
    wanted = {"metric": paper.metric, **paper.where}
    had = {"metric": ours.metric, **ours.where}
    differ = [name for name in wanted if had.get(name) != wanted[name]]
    if paper.task != ours.task:
        return f"another task, {ours.task} for {paper.task}"
    told = [f"{_setting(name)} {had.get(name, 'any')} for {wanted[name]}" for name in differ]
    return f"another protocol: {', '.join(told)}" if told else "another protocol"


def protocol(measured: PanelNumber) -> str:
    """By what something was measured, in a few words: `code, fixed`, `batch size 1`."""
    return ", ".join(
        f"{_setting(name)} {value}" if isinstance(value, int) else str(value) for name, value in measured.where.items()
    )


def _setting(name: str) -> str:
    return name.removeprefix("param_").replace("_", " ")


def departures(group: RowGroup, theirs: Sequence[PaperCheckpoint]) -> list[str]:
    """What separates a number from a rerun of a checkpoint of the authors; nothing: it is a rerun."""
    rows = group.rows if len(group.rows) else group.failures
    if not len(rows):
        return []
    name, provenance, revision = (rows.first(column) for column in ("checkpoint", "provenance", "revision"))
    mine = [each for each in theirs if each.hub_id == _repository(name)]
    if not mine or provenance != "hub":
        return [f"{name} is {_ours(provenance)}"]
    checkpoint = mine[0]
    why = []
    if checkpoint.revision is None:
        why.append(f"commit {revision} of {name} is not pinned by the preset")
    elif revision != checkpoint.revision:
        why.append(f"commit {revision} of {name} is not {checkpoint.revision}")
    num_params = rows.first("num_params")
    if not isinstance(num_params, int) or abs(num_params / checkpoint.num_params - 1) > SAME_SIZE:
        why.append(f"its {num_params} parameters are not the {checkpoint.num_params} of {name}")
    if summary.checked(group) == summary.UNCHECKED:
        why.append("it was measured unchecked")
    return why + _not_comparable(rows)


def _repository(name: Scalar) -> str:
    """The repository of a checkpoint's name, which carries its commit where two commits were measured together."""
    return str(name).partition("@")[0]


def _ours(provenance: Scalar) -> str:
    kinds: Mapping[Scalar, str] = {
        "zoo": "a checkpoint of the zoo",
        "local": "a local folder",
        "random": "a published size with random weights",
        "memory": "a model in memory",
    }
    return kinds.get(provenance, "not the authors' checkpoint")


def _not_comparable(rows: Part) -> list[str]:
    """What the task itself says against standing beside published numbers."""
    if not any(value is False for value in rows.values("comparable_to_published")):
        return []
    reasons = [str(value) for value in rows.values("not_comparable_because") if value is not None]
    return [next(iter(reasons), "its rows are not comparable with published ones")]
