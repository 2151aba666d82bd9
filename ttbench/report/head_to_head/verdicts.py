"""All pairs of some checkpoints, judged together: what a leaderboard, a page or a gate is made from.

    found = head_to_head(rows)                      all checkpoints in the rows
    found = head_to_head(rows, ["a", "b@engine=hf"])
    found.verdicts                                  one row per pair, metric, settings and point

All cells of one task and metric are one family (`ttbench.report.comparison.families`), so that a table of equal
checkpoints holds any false verdict in about 5 of 100.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.comparison.compare import compare_sides, read_side, require_two
from ttbench.report.comparison.seeds import first_sides, trained_again
from ttbench.report.comparison.variants import Side
from ttbench.report.head_to_head.crossings import Crossing, crossings
from ttbench.report.head_to_head.fronts import Front, fronts
from ttbench.report.head_to_head.leaderboard import Board, boards
from ttbench.report.summary import A_BETTER, B_BETTER, NOT_COMPARABLE, NOT_JUDGED


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadToHead:
    """What is shown of some checkpoints by everything that they were measured on."""

    names: tuple[str, ...]  # checkpoints, or settings of one, as they were asked for
    verdicts: pd.DataFrame  # one row per pair, metric, settings and point; columns in docs/columns.md
    boards: tuple[Board, ...]
    crossings: tuple[Crossing, ...]
    fronts: tuple[Front, ...]
    left_out: tuple[str, ...]  # sentences about rows of older code, and further seeds, that were not read
    training_noise: str  # what is known of it, in a sentence

    @property
    def num_comparable(self) -> int:
        """Comparisons that could be made, with or without a winner."""
        return sum(verdict != NOT_COMPARABLE for verdict in self.verdicts["verdict"].tolist())

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "names": list(self.names),
            "comparisons": words.records(self.verdicts),
            "leaderboard": [board.to_json() for board in self.boards],
            "crossings": [crossing.to_json() for crossing in self.crossings],
            "fronts": [front.to_json() for front in self.fronts],
            "notes": [*self.left_out, self.training_noise],
        }


def head_to_head(rows: pd.DataFrame | Sequence[pd.DataFrame], names: Sequence[str] | None = None) -> HeadToHead:
    """Compare every pair of checkpoints.

    Args:
        rows: those of all sides; or, with `names`, the rows of each side.
        names: checkpoints, or settings of them as `ttbench.report.comparison.variants` reads them; None: every
            checkpoint in the rows, and where one name stands for several, each of them; of trainings that differ in
            their seed alone the first.

    Columns of `verdicts`: those of `ttbench.report.comparison.compare.compare`, and `winner`, `said`, `family`. By its
    `kind`, `effect` is a - b or a / b; `low`, `high` and `joint_p` hold for all `num_points` comparisons of the family.

    Raises:
        UnknownNameError: no row of a checkpoint.
        UsageError: fewer than two sides, one given twice, or a side that stands for several contents.
    """
    if isinstance(rows, pd.DataFrame):
        again = trained_again(rows) if names is None else {}
        texts = first_sides(rows, again) if names is None else list(names)
        frames = [rows] * len(texts)
    else:
        assert names is not None, "rows of each side come with their names"
        again, texts, frames = {}, list(names), list(rows)
    if len(texts) < 2:
        raise UsageError(
            f"a comparison needs two checkpoints; the rows hold {' and '.join(map(repr, texts)) or 'none'}; measure "
            "another one: ttbench run TASK --checkpoint NAME"
        )
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice and len(texts) > 2:
        raise UsageError(f"'{twice[0]}' is named twice; name each checkpoint once")
    found = [read_side(own, text) for own, text in zip(frames, texts, strict=True)]
    pairs = list(itertools.combinations(found, 2))
    for (one, two), own in zip(pairs, (own for own, _ in itertools.combinations(frames, 2)), strict=True):
        if one.variant.settings == two.variant.settings:
            require_two(one, two, own)
    verdicts = _worded(compare_sides(pairs, among=frames))
    entries = words.records(verdicts)
    places = boards(entries)
    return HeadToHead(
        names=tuple(texts),
        verdicts=verdicts,
        boards=tuple(places),
        crossings=tuple(crossings(entries)),
        fronts=tuple(fronts(places, entries)),
        training_noise=verdicts.attrs["training_noise"],
        left_out=tuple(
            dict.fromkeys([*(text for one in found for text in one.left_out(found)), *_further(again, found)])
        ),
    )


def _further(again: Mapping[str, str], found: Sequence[Side]) -> Iterator[str]:
    """Which trainings were left out because another one of the same model is compared."""
    compared = {side.variant.name for side in found}
    for name, first in again.items():
        if first in compared and name not in compared:
            yield f"{name} is {first} trained again with another seed; name it to compare it"


def _worded(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The comparisons with the winner's name, the verdict in words, and the name of the family."""
    entries = words.records(verdicts)
    made = verdicts.copy()
    made.attrs = verdicts.attrs
    made["winner"] = pd.Series([winner(entry) for entry in entries], dtype=object, index=made.index)
    made["said"] = pd.Series([said(entry) for entry in entries], dtype=object, index=made.index)
    families = [f"{entry['task']}: {entry['metric']}" for entry in entries]
    made["family"] = pd.Series(families, dtype=object, index=made.index)
    return made


def winner(entry: words.Record) -> str | None:
    """The side of a comparison that is shown to be better."""
    return {A_BETTER: entry["a"], B_BETTER: entry["b"]}.get(entry["verdict"])


def said(entry: words.Record) -> str:
    """The verdict of a comparison with the checkpoint's name: `ttt-linear better`, `not comparable (why)`."""
    better = winner(entry)
    if better is not None:
        return f"{better} better"
    if entry["verdict"] in (NOT_COMPARABLE, NOT_JUDGED):
        return f"{entry['verdict']} ({entry['reason']})"
    return str(entry["verdict"])
