"""Charts as Vega-Lite: curves against the context, heat maps and rooflines, with what the pointer shows of each mark.

Only altair is used to make them. Colours and sizes of letters come from the page, which has a light and a dark dress.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ttbench.report import words
from ttbench.report.drawing.rooflines import Point, Roof
from ttbench.report.page.markup import spelled
from ttbench.report.words import Record, Scale

CONTEXT = "context_len"
HEIGHT = 300  # pixels, of curves
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
# Letters on cividis: light on its dark half.
_DARK_BELOW = 55
_TOOLTIP = ("where", "number", "interval", "basis", "remarks")
_TITLES = {"where": "context", "number": "value", "interval": "95% interval", "basis": "rests on", "remarks": "note"}
Spec = dict[str, Any]


def remarks(entry: Record) -> list[str]:
    """What must be known beside a number: each caveat in a few words."""
    found = []
    if entry["value"] is None:
        found.append(f"{entry['status']}{': ' + str(entry['reason']) if entry['reason'] else ''}")
    if entry["extrapolated"] is True:
        found.append("beyond the training context")
    if entry.get("noisy") is True:
        found.append("noisy: quartiles more than 10 % of the median apart")
    if entry.get("checked") in words.CHECKED:
        found.append(words.CHECKED[entry["checked"]][1])
    if entry["value"] is not None and entry["low"] is None and entry["reason"]:
        found.append(entry["reason"] if entry["method"] == "exact" else f"no interval: {entry['reason']}")
    if entry["value"] is not None and entry["num_failed"]:
        found.append(f"{entry['num_failed']} of its cells failed")
    return [spelled(text) for text in found]


def value_text(entry: Record, scale: Scale) -> str:
    """The number with its unit; the status of a cell without one."""
    if entry["value"] is None:
        return str(entry["status"]).replace("_", " ")
    unit = "" if scale.unit == entry["label"] else scale.unit
    return f"{scale.text(entry['value'])}{'' if unit == '%' else ' '}{unit}".strip()


def interval_text(entry: Record, scale: Scale) -> str:
    """`1.401 to 1.472`, or nothing."""
    return "" if entry["low"] is None else f"{scale.text(entry['low'])} to {scale.text(entry['high'])}"


def _told(entry: Record, scale: Scale) -> dict[str, Any]:
    """What the pointer shows of a number."""
    beyond = "" if entry["extrapolated"] is not True else ", beyond training"
    return {
        "where": f"{words.context(entry[CONTEXT])} tokens{beyond}",
        "number": value_text(entry, scale),
        "interval": interval_text(entry, scale) or "none",
        "basis": "" if entry["value"] is None else words.basis([entry]),
        "remarks": "; ".join(remarks(entry)),
    }


def _tooltip(*first: tuple[str, str]) -> list[alt.Tooltip]:
    named = [*first, *((name, _TITLES[name]) for name in _TOOLTIP)]
    return [alt.Tooltip(field=name, type="nominal", title=title) for name, title in named]


def curves(
    lines: Mapping[str, Sequence[Record]],
    references: Mapping[str, Sequence[Record]],
    scale: Scale,
    *,
    domain: Sequence[str],
    log_y: bool,
    description: str,
) -> Spec:
    """Lines against the context, with a band or whiskers of their 95 % intervals.

    Args:
        lines: by name, entries of one metric.
        references: what they are read against, by name: thin grey lines.
        scale: of all of them.
        domain: names in the order of their colours; those without a line are not in the legend.
        log_y: whether the upright axis is logarithmic.
        description: for readers who hear the page.
    """
    entries = [entry for line in lines.values() for entry in line]
    timed = entries[0]["cluster"] == "round"
    made = [_point(name, entry, scale) for name, line in lines.items() for entry in line if entry["value"] is not None]
    beneath = [
        _point(name, entry, scale) for name, line in references.items() for entry in line if entry["value"] is not None
    ]
    lost = [_point(name, entry, scale) for name, line in lines.items() for entry in line if entry["value"] is None]
    contexts = sorted({entry[CONTEXT] for part in (entries, *references.values()) for entry in part})
    drawn = [name for name in domain if name in lines]
    x, y = _context_axis(contexts), _value_axis(entries, scale, log=log_y)
    chosen = alt.selection_point(fields=["line"], bind="legend", name="chosen")
    # one legend for colours and shapes
    legend = alt.Legend(title=None, values=drawn, symbolOpacity=1)
    colour = alt.Color("line:N", scale=alt.Scale(domain=list(domain)), legend=legend)
    shape = alt.Shape("line:N", scale=alt.Scale(domain=list(domain), range=_shapes(len(domain))), legend=legend)
    shown = alt.condition(chosen, alt.value(1), alt.value(0.12))
    tooltip = _tooltip(("line", "checkpoint"))

    def of(points: Sequence[Mapping[str, Any]]) -> alt.Chart:
        return alt.Chart(alt.InlineData(values=list(points))).encode(x=x, y=y, color=colour)

    layers: list[Any] = []
    banded = [point for point in made if point["low"] is not None]
    if banded:
        ends = of(banded).encode(y=_value_axis(entries, scale, log=log_y, field="low:Q"), y2="high:Q")
        faint = alt.condition(chosen, alt.value(0.15), alt.value(0.02))
        rules = ends.mark_rule(strokeWidth=1.4).encode(opacity=shown)
        layers.append(rules if timed else ends.mark_area().encode(opacity=faint))
    if beneath:
        under = alt.Chart(alt.InlineData(values=beneath)).encode(x=x, y=y)
        layers.append(under.mark_line(strokeWidth=1.2, strokeDash=[2, 3], color="#808080").encode(detail="line:N"))
        layers.append(_ends(beneath, x, y))
    for part, dashes in (("solid", []), ("dashed", [6, 4])):
        if points := [point for point in made if point[part]]:
            layers.append(of(points).mark_line(strokeWidth=2, strokeDash=dashes).encode(opacity=shown))
    for beyond in (False, True):
        if points := [point for point in made if point["extrapolated"] is beyond]:
            marks = of(points).mark_point(filled=not beyond, size=55, strokeWidth=1.8)
            layers.append(marks.encode(shape=shape, opacity=shown))
    for row, name in enumerate(dict.fromkeys(each["line"] for each in lost)):
        mine = alt.Chart(alt.InlineData(values=[each for each in lost if each["line"] == name]))
        crosses = mine.mark_point(shape="cross", angle=45, filled=True, size=70)
        layers.append(crosses.encode(x=x, y=alt.value(HEIGHT - 9 - 14 * row), color=colour, tooltip=tooltip))
    # what the pointer meets is larger than what is drawn
    around = alt.Chart(alt.InlineData(values=[*made, *beneath]))
    around = around.mark_point(filled=True, size=420, opacity=0, color="#808080")
    layers.append(around.encode(x=x, y=y, tooltip=tooltip))
    layers[0] = layers[0].add_params(chosen)
    chart = alt.layer(*layers).properties(width="container", height=HEIGHT, description=description)
    return _plain(chart)


def _point(name: str, entry: Record, scale: Scale) -> dict[str, Any]:
    numbers = {"x": entry[CONTEXT], **_sizes(entry, scale)}
    extrapolated = entry["extrapolated"] is True
    return {**numbers, "line": name, "extrapolated": extrapolated, **_segments(entry), **_told(entry, scale)}


def _sizes(entry: Record, scale: Scale) -> dict[str, Any]:
    return {
        key: None if entry[name] is None else float(f"{entry[name] / scale.size:.7g}")
        for key, name in (("y", "value"), ("low", "low"), ("high", "high"))
    }


def _segments(entry: Record) -> dict[str, bool]:
    """Which part of a line a point belongs to; the last one inside the training context begins the dashed part."""
    inside = entry["extrapolated"] is not True
    return {"solid": inside, "dashed": not inside or bool(entry.get("last_inside"))}


def _ends(beneath: Sequence[Mapping[str, Any]], x: alt.X, y: alt.Y) -> Any:
    """Names of references above the ends of their lines."""
    last: dict[str, Mapping[str, Any]] = {}
    for point in beneath:
        if point["line"] not in last or point["x"] >= last[point["line"]]["x"]:
            last[point["line"]] = point
    marks = alt.Chart(alt.InlineData(values=list(last.values())))
    return marks.mark_text(align="right", dy=-6, fontSize=11, color="#808080").encode(x=x, y=y, text="line:N")


def _shapes(number: int) -> list[str]:
    return [SHAPES[index % len(SHAPES)] for index in range(number)]


def _context_axis(contexts: Sequence[int]) -> alt.X:
    labels = json.dumps({str(context_len): words.context(context_len) for context_len in contexts})
    axis = alt.Axis(
        values=list(contexts), labelExpr=f"{labels}['' + datum.value]", title="context, tokens (log)", grid=False
    )
    return alt.X("x:Q", scale=alt.Scale(type="log", base=2, nice=False, padding=12), axis=axis)


def _value_axis(entries: Sequence[Record], scale: Scale, *, log: bool, field: str = "y:Q") -> alt.Y:
    first = entries[0]
    title = ", ".join(dict.fromkeys(filter(None, (first["label"], scale.unit))))
    if first["statistic"] == "proportion":
        return alt.Y(field, title=title, scale=alt.Scale(domain=[0, 100]))
    positive = all(entry["value"] > 0 for entry in entries if entry["value"] is not None)
    if log and positive:
        return alt.Y(field, title=f"{title} (log)", scale=alt.Scale(type="log", nice=True))
    return alt.Y(field, title=title, scale=alt.Scale(zero=False, nice=True))


def heatmap(
    entries: Sequence[Record], scale: Scale, *, x_axis: str, y_axis: str, xs: Sequence[Any], ys: Sequence[Any]
) -> Spec:
    """One panel of shares between 0 and 1: `x_axis` to the right, `y_axis` downwards."""
    beyond = {entry[CONTEXT] for entry in entries if entry["extrapolated"] is True}
    across = {x: f"{place(x_axis, x)}{'*' if x_axis == CONTEXT and x in beyond else ''}" for x in xs}
    down = {y: place(y_axis, y) for y in ys}
    cells = [
        {
            "x": across[entry[x_axis]],
            "y": down[entry[y_axis]],
            "v": None if entry["value"] is None else round(entry["value"] / scale.size, 3),
            "text": value_text(entry, scale).removesuffix("%"),
            **_told(entry, scale),
        }
        for entry in entries
        if entry[x_axis] is not None and entry[y_axis] is not None
    ]
    heads, sides = list(across.values()), list(down.values())
    angle = 0 if max(map(len, heads)) <= 6 else -40
    x = alt.X("x:N", sort=heads, scale=alt.Scale(domain=heads), axis=_places(x_axis, angle=angle))
    y = alt.Y("y:N", sort=sides, scale=alt.Scale(domain=sides), axis=_places(y_axis))
    base = alt.Chart(alt.InlineData(values=cells)).encode(x=x, y=y, tooltip=_tooltip(("y", words.axis(y_axis))))
    shades = alt.Color("v:Q", scale=alt.Scale(scheme="cividis", domain=[0, 100]), legend=None)
    light = alt.condition(f"isValid(datum.v) && datum.v < {_DARK_BELOW}", alt.value("white"), alt.value("#1a1a1a"))
    tiles = base.mark_rect(invalid="filter").encode(color=shades)
    texts = base.mark_text(fontSize=11).encode(text="text:N", color=light)
    described = f"heat map, {words.axis(y_axis)} by {words.axis(x_axis)}; the table beneath holds its numbers"
    return _plain(alt.layer(tiles, texts).properties(width="container", height=30 * len(ys), description=described))


def place(axis: str, value: Any) -> str:
    """A place on an axis: `1k` of the context, `0.5` of a depth."""
    return words.context(value) if axis == CONTEXT else spelled(words.plain(value))


def _places(axis: str, *, angle: int = 0) -> alt.Axis:
    title = "context, tokens" if axis == CONTEXT else words.axis(axis)
    return alt.Axis(title=title, grid=False, ticks=False, domain=False, labelAngle=angle)


def roofline(
    lines: Mapping[str, Sequence[Point]], roofs: Sequence[Roof], scale: Scale, *, domain: Sequence[str]
) -> Spec:
    """Arithmetic reached against FLOP per byte moved, under the ceilings of the machine; both axes logarithmic."""
    values = [
        {
            "x": float(f"{point.intensity:.6g}"),
            "y": float(f"{point.rate / scale.size:.6g}"),
            "line": name,
            "phase": point.entry["phase"],
            "filled": point.entry["phase"] != "prefill",
            **_told(point.entry, scale),
        }
        for name, points in lines.items()
        for point in points
    ]
    least, most = min(each["x"] for each in values), max(each["x"] for each in values)
    corners = []
    for roof in roofs:
        reach = sorted({least / 1.5, roof.ridge, max(most, roof.ridge) * 1.5})
        name = f"ceiling {roof.name}".strip()
        corners += [{"x": x, "y": roof.at(x) / scale.size, "roof": spelled(name)} for x in reach]
    x = alt.X("x:Q", title="FLOP per byte of weights and state (log)", scale=alt.Scale(type="log", nice=False))
    y = alt.Y("y:Q", title=f"arithmetic, {scale.unit} (log)", scale=alt.Scale(type="log"))
    colour = alt.Color("line:N", scale=alt.Scale(domain=list(domain)), legend=alt.Legend(title=None, values=[*lines]))
    shape = alt.Shape("phase:N", legend=alt.Legend(title=None))
    base = alt.Chart(alt.InlineData(values=values)).encode(x=x, y=y, color=colour, shape=shape)
    marks = base.mark_point(size=70, strokeWidth=2).encode(tooltip=_tooltip(("line", "checkpoint"), ("phase", "phase")))
    layers: list[Any] = [marks]
    if corners:
        ceiling = alt.Chart(alt.InlineData(values=corners)).mark_line(color="#808080", strokeWidth=1.5)
        layers.insert(0, ceiling.encode(x=x, y=y, detail="roof:N"))
    described = "arithmetic reached against FLOP per byte; the table beneath holds its numbers"
    return _plain(alt.layer(*layers).properties(width="container", height=HEIGHT, description=described))


def _plain(chart: alt.LayerChart | alt.FacetChart) -> Spec:
    """The checked specification, without the colours of altair's own theme."""
    spec = chart.to_dict()
    spec.pop("config", None)
    spec.pop("$schema", None)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec
