"""How the numbers of a page were made, and what must not be read out of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ttbench.report import summary, words
from ttbench.report.page.markup import Markup, element
from ttbench.report.page.pictures import scrolled
from ttbench.report.page.sections import PageSource, section
from ttbench.report.table import LEGEND
from ttbench.types import Metric

_STATISTICS = {
    "ratio": "{numerator} over {denominator}, each summed over all that counts",
    "exp_ratio": "exponential of {numerator} over {denominator}, each summed over all that counts",
    "proportion": "share: {numerator} over {denominator}",
    "median": "median of {numerator}{per}",
    "max": "highest {numerator}",
    "count": "{numerator}, counted exactly",
}
_GENERAL = (
    "Every number is made from rows: nats, bytes, counts, seconds. What is independent carries its uncertainty: a "
    "document, a haystack or a fresh process (round), never a token. With too few of them there is no interval, and "
    "the number says so.",
    "Ratios of sums have intervals by inverted sign flips and a studentised bootstrap over documents, shares have "
    "Wilson's, times have Student's t on the logarithms of rounds. Each interval beneath a number is for it alone; "
    "comparisons are judged by their own intervals, which hold together for all points of a metric.",
    "Timings are compared only within one machine, software and number of threads. Tokens of two tokenizers are not "
    "compared; bytes are.",
)


def method(sources: Sequence[PageSource]) -> Markup:
    """Statistics, the definition of each metric, marks, and what corpora and busy ceilings ask to be said."""
    marks = [element("li", f"{mark} {meaning}") for mark, meaning in LEGEND.items()]
    notes = [
        element("li", note)
        for note in dict.fromkeys(
            note for source in sources for found in source.table.attrs.get("task_notes", {}).values() for note in found
        )
    ]
    asked = [
        element("li", f"{task}: {', '.join(told)}")
        for source in sources
        for task in source.tasks
        if (told := words.settings(source.of_task(task))[1])
    ]
    return section(
        "method",
        "Method and caveats",
        [element("p", text) for text in _GENERAL],
        element("h3", "Marks beside numbers"),
        element("ul", marks),
        [element("h3", "What the corpora ask to be said"), element("ul", notes)] if notes else None,
        [element("h3", "What the tasks were asked for"), element("ul", asked)] if asked else None,
        element("h3", "Metrics"),
        _metrics(sources),
    )


def _metrics(sources: Sequence[PageSource]) -> Markup:
    heads = ("task", "metric", "unit", "better", "how it is made", "what is independent", "does not matter below")
    body = [
        element("tr", element("th", cells[0], scope="row"), [element("td", cell) for cell in cells[1:]])
        for cells in dict.fromkeys(row for source in sources for row in _rows(source))
    ]
    head = element("tr", [element("th", each, scope="col") for each in heads])
    table = element(
        "table", element("caption", "Metrics of these tasks"), element("thead", head), element("tbody", body)
    )
    return scrolled(table, label="metrics")


def _rows(source: PageSource) -> Iterator[tuple[str, ...]]:
    measured = {(entry["task"], entry["metric"]) for entry in source.entries}
    for task, metrics in summary.metrics_of(source.table).items():
        for metric in metrics:
            if (task, metric.name) in measured:
                yield (
                    task,
                    metric.label,
                    words.unit_words(metric.unit),
                    metric.better,
                    _made(metric),
                    metric.cluster or "nothing is repeated",
                    _smallest(metric),
                )


def _made(metric: Metric) -> str:
    named: dict[str, Any] = {
        "numerator": metric.numerator,
        "denominator": metric.denominator or "1",
        "per": f" over {metric.denominator}" if metric.denominator else "",
    }
    told = _STATISTICS[metric.statistic].format(**named)
    where = ", ".join(f"{key} is {value}" for key, value in metric.where.items())
    rounds = "; in each round alone, then the geometric mean" if summary.is_timing(metric) else ""
    same = f"; the same as {metric.restates}, which is judged for both" if metric.restates else ""
    return f"{told}{f', where {where}' if where else ''}{rounds}{same}"


def _smallest(metric: Metric) -> str:
    if metric.better == "neither":
        return ""
    relative = summary.is_timing(metric) or metric.statistic in ("exp_ratio", "count", "max")
    return f"{100 * metric.smallest_effect:g} %" if relative else f"{metric.smallest_effect:g}"
