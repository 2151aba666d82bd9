"""What a gate says: one line for each cell that is not as before, and one for each number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ttbench.report import words
from ttbench.report.statistics.stats import counted
from ttbench.types import Scalar

Rule = Literal["cell", "count", "quality", "time"]

# Green: nothing that a gate is there to stop.
EQUAL, WITHIN, NOT_SLOWER, SLOWER_ONCE = "equal", "within the margin", "needs no more", "needed more once only"
SHOWN_ONLY, NEW = "shown, not gated", "new"
GREEN = (EQUAL, WITHIN, NOT_SLOWER, SLOWER_ONCE, SHOWN_ONLY, NEW)
# Red.
LOST, CHANGED, ENDED = "lost", "changed", "ended otherwise"
WORSE, NOT_WITHIN = "worse than the margin", "not shown to be within the margin"
SLOWER, NOT_MEASURED = "needs more", "not comparable"
RED = (LOST, CHANGED, ENDED, WORSE, NOT_WITHIN, SLOWER, NOT_MEASURED)
# Neither yet: red only if fresh rounds say the same.
TO_CONFIRM = "needs more, to be confirmed"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLine:
    """One thing that a gate looked at."""

    rule: Rule
    verdict: str
    task: str
    checkpoint: str
    settings: Mapping[str, Scalar] = field(default_factory=dict)  # that tell it from others of the task
    point: Mapping[str, Scalar] = field(default_factory=dict)  # axis -> value
    metric: str | None = None  # None: the whole cell
    label: str | None = None
    unit: str | None = None
    statistic: str | None = None
    baseline: float | None = None
    candidate: float | None = None
    worse_by: float | None = None  # in the unit; of times and other ratios a share: 0.07 is 7 % more. Negative: better
    low: float | None = None  # of worse_by: two-sided 90 % interval, whose upper end is a one-sided bound at 95 %
    high: float | None = None
    margin: float | None = None  # of worse_by
    p: float | None = None  # times: one-sided, that it is slower by no more than the margin; by Holm over all times
    reason: str | None = None

    @property
    def red(self) -> bool:
        """Whether it alone makes the gate red."""
        return self.verdict in RED

    @property
    def place(self) -> str:
        """Where it stands: `at 1k, depth 0.5, corpus code`."""
        context = self.point.get("context_len")
        at = [] if context is None else [f"at {words.context(int(context))}"]
        axes = [
            value if isinstance(value, str) else f"{words.axis(name)} {words.plain(value)}"
            for name, value in self.point.items()
            if name != "context_len" and value is not None
        ]
        return ", ".join([*at, *axes, *filter(None, (words.setting(*pair) for pair in self.settings.items()))])

    @property
    def what(self) -> str:
        """Its name in words: `perplexity, ttt-linear: bits per byte at 1k`."""
        return f"{self.task}, {self.checkpoint}: {' '.join(filter(None, (self.label, self.place)))}".rstrip(": ")

    @property
    def numbers(self) -> str:
        """The numbers of baseline and candidate in one unit: `1.461 → 1.470 bits per byte`; empty without them."""
        if self.baseline is None or self.candidate is None:
            return ""
        pair = (self.baseline, self.candidate)
        scale = words.scale(self.unit or "1", pair, statistic=self.statistic or "ratio", digits=4)
        texts = [scale.text(value) for value in pair]
        if texts[0] == texts[1] and pair[0] != pair[1]:
            # too near for rounded numbers
            texts = [f"{value / scale.size:.10g}" for value in pair]
        unit = scale.unit if scale.unit == "%" else f" {scale.unit}".rstrip()
        return f"{texts[0]} → {texts[1]}{unit}"

    def to_json(self) -> dict[str, Any]:
        """Plain data, `red` included."""
        found = {name.name: getattr(self, name.name) for name in dataclasses.fields(self)}
        found |= {"settings": dict(self.settings), "point": dict(self.point), "red": self.red}
        return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in found.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a gate found, line by line, the red ones first."""

    run: str  # what was judged, as named
    baseline: str
    lines: tuple[GateLine, ...]
    slow_cells: frozenset[str] = frozenset()  # ids of the cells whose times fresh rounds must decide

    @property
    def red(self) -> tuple[GateLine, ...]:
        """The lines that make it red."""
        return tuple(line for line in self.lines if line.red)

    @property
    def to_confirm(self) -> tuple[GateLine, ...]:
        """Times that fresh rounds must decide."""
        return tuple(line for line in self.lines if line.verdict == TO_CONFIRM)

    @property
    def headline(self) -> str:
        """`red: 2 of 31`, what was looked at, and against what."""
        looked = ", ".join(counted(number, noun) for noun, number in self._counts().items() if number)
        word = f"red: {len(self.red)} of {len(self.lines)}" if self.red else "green"
        return f"{word} ({looked or 'nothing'}); {self.run} against {self.baseline}"

    def _counts(self) -> dict[str, int]:
        rules = [line.rule for line in self.lines]
        nouns = {"cell": "cell not as before", "count": "count", "quality": "quality number", "time": "time"}
        found = {noun: rules.count(rule) for rule, noun in nouns.items()}  # type: ignore[arg-type]
        cells = found.pop("cell not as before")
        return {**found, "line about cells" if cells == 1 else "lines about cells": cells}

    def to_json(self) -> dict[str, Any]:
        """Plain data: one verdict, and the lines."""
        return {
            "verdict": "red" if self.red else "undecided" if self.to_confirm else "green",
            "run": self.run,
            "baseline": self.baseline,
            "lines": [line.to_json() for line in self.lines],
        }


def in_order(lines: Sequence[GateLine]) -> tuple[GateLine, ...]:
    """Red first, then what is to be confirmed, then the rest; within each as found."""
    rank = {**dict.fromkeys(RED, 0), TO_CONFIRM: 1}
    return tuple(sorted(lines, key=lambda line: rank.get(line.verdict, 2)))
