"""Which numbers of two sides stand for the same settings and points, so that they may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ttbench.errors import UsageError
from ttbench.report import summary, words
from ttbench.report.comparison.variants import VARIANT_SETTINGS
from ttbench.types import NO_ATTENTION, Scalar

Settings = tuple[tuple[str, Scalar], ...]
Points = dict[tuple[Scalar, ...], summary.RowGroup]


def by_settings(groups: Iterable[summary.RowGroup], *, leave_out: Sequence[str]) -> dict[Settings, Points]:
    """Numbers by settings and point. Raises UsageError when two of one side stand at one point."""
    found: dict[Settings, Points] = {}
    for group in groups:
        settings = tuple(
            (name, value) for name, value in group.line.items() if name not in (*summary.CONTENT, *leave_out)
        )
        points = found.setdefault(settings, {})
        point = tuple(value for axis, value in group.point.items() if axis not in leave_out)
        before = points.get(point)
        if before is not None and len(before.rows) and len(group.rows):
            raise UsageError(_ambiguous(before, group))
        if before is None or len(group.rows):  # a lost cell has no place on most axes
            points[point] = group
    return found


def spread(groups: dict[Settings, Points], other: Iterable[Settings]) -> dict[Settings, Points]:
    """`groups`, in which an architecture without attention stands under every attention of the other side."""
    found = {settings: points for settings, points in groups.items() if dict(settings).get("attention") != NO_ATTENTION}
    values = dict.fromkeys(value for settings in other for name, value in settings if name == "attention")
    for settings, points in groups.items():
        for value in values if settings not in found else ():
            found.setdefault(tuple((name, value if name == "attention" else own) for name, own in settings), points)
    return found


def _ambiguous(one: summary.RowGroup, two: summary.RowGroup) -> str:
    """Why two numbers stand at one point, and what to do."""
    name = one.line["checkpoint"]
    told = [{**group.line, **group.point} for group in (one, two)]
    names = (*VARIANT_SETTINGS, *one.point)
    differing = [setting for setting in names if told[0].get(setting) != told[1].get(setting)]
    if not differing:
        return f"rows of '{name}' stand twice at one point; compare the runs apart: {name}@run=ID"
    setting = differing[0]
    spellings = " or ".join(f"{name}@{setting}={words.plain(group[setting])}" for group in told)
    return f"rows of '{name}' differ in {', '.join(differing)}; say which are meant: {spellings}"


def differing_settings(a: Settings, b: Settings) -> str:
    """In which settings two sides differ, in words."""
    pairs = zip(a, b, strict=False)
    return ", ".join(f"{one[0].removeprefix('param_')} {one[1]} and {two[1]}" for one, two in pairs if one != two)
