"""Training noise: how much a number moves when a model is trained again with another seed.

Checkpoints whose rows carry one `train_recipe` and several `train_seed` are trainings that only chance tells apart. The
standard deviation of their numbers (n - 1) is the training noise of the recipe at that point. A difference between two
checkpoints, one training each, moves by

    sd  =  sqrt(sd_a^2 + sd_b^2)

where a side without seeds of its own is given the largest that is known at the point. A difference of less than twice
of it may be chance of training alone, whatever the documents say. Times, bytes and counts have none of it.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ttbench.report import summary
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.variants import Side
from ttbench.report.summary import A_BETTER, B_BETTER, WITHIN_NOISE
from ttbench.report.words import Record, records
from ttbench.types import Scalar

# Where no recipe was trained with several seeds.
NOT_KNOWN = "one training run each: training noise not known"
WITHIN = 2.0  # standard deviations that a difference must reach
LEAST = 2  # seeds that a standard deviation needs


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """Numbers of one recipe at one point, from one training for each seed."""

    recipe: str
    task: str
    metric: str
    place: Mapping[str, Scalar]  # settings and axes of the number
    num_seeds: int
    sd: float  # in the metric's unit


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceNoise:
    """What training with other seeds does to one difference."""

    sd: float  # in the unit of the difference
    num_seeds: int  # of the recipes that it rests on
    assumed: tuple[str, ...]  # sides without seeds of their own


def beside_noise(comparisons: pd.DataFrame, sides: Sequence[Side], among: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The comparisons with what other seeds of training do to them, and without the wins that chance of training makes.

    Columns `training_sd` and `training_seeds` are there where several seeds of a recipe are; `attrs["training_noise"]`
    is a sentence on what is known.

    Args:
        comparisons: as `ttbench.report.comparison.compare.compare_sides` makes them.
        sides: all that stand in them.
        among: rows in which seeds are looked for. Seeds that nobody asked for tell as much as those in the comparisons.
    """
    known = spreads(_together(among))
    if not known:
        comparisons.attrs["training_noise"] = NOT_KNOWN
        return comparisons
    recipes = {side.text: next((recipe for recipe, _ in recipes_of(side.rows).values()), None) for side in sides}
    entries = records(comparisons)
    noises = [noise_of(entry, recipes, known) for entry in entries]
    made = comparisons.copy()
    made.attrs = comparisons.attrs
    made["training_sd"] = pd.array([None if noise is None else noise.sd for noise in noises], dtype="Float64")
    made["training_seeds"] = pd.array([None if noise is None else noise.num_seeds for noise in noises], dtype="Int64")
    told = [
        WITHIN_NOISE if entry["verdict"] in (A_BETTER, B_BETTER) and is_within(entry, noise) else entry["verdict"]
        for entry, noise in zip(entries, noises, strict=True)
    ]
    made["verdict"] = pd.Series(told, dtype=object, index=made.index)
    made.attrs["training_noise"] = _sentence(known, noises)
    return made


def _together(among: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of trainings that say their seed, of all frames."""
    unlike = list({id(frame): frame for frame in among if recipes_of(frame)}.values())
    if not unlike:
        return pd.DataFrame()
    if len(unlike) == 1:
        return unlike[0]
    every = pd.concat([frame.astype(object) for frame in unlike], ignore_index=True)
    every.attrs["metrics"] = {task: m for frame in unlike for task, m in frame.attrs.get("metrics", {}).items()}
    return every


def _sentence(known: Sequence[SeedSpread], noises: Sequence[DifferenceNoise | None]) -> str:
    many = max(spread.num_seeds for spread in known)
    assumed = sorted({name for noise in noises if noise is not None for name in noise.assumed})
    one, taken = ("one training", "is") if len(assumed) == 1 else ("one training each", "are")
    others = f"; {', '.join(assumed)}, {one}, {taken} taken to be as noisy as the noisiest of them" if assumed else ""
    return (
        f"training noise: the standard deviation over up to {many} trainings that differ in their seed alone; a "
        f"difference of less than {WITHIN:.0f} of them is {WITHIN_NOISE}{others}"
    )


def spreads(rows: pd.DataFrame) -> list[SeedSpread]:
    """The spread of every recipe with several seeds, at every point of every metric that training moves."""
    recipes = recipes_of(rows)
    counts = {
        recipe: len({seed for known, seed in recipes.values() if known == recipe}) for recipe, _ in recipes.values()
    }
    several = {weights for weights, (recipe, _) in recipes.items() if counts[recipe] >= LEAST}
    if not several:
        return []
    whole = all_rows(rows.loc[rows["weights_digest"].isin(sorted(several))].reset_index(drop=True))
    return [
        spread
        for task, metrics in summary.metrics_of(rows).items()
        for metric in metrics
        if metric.better != "neither" and metric.statistic != "count" and not summary.is_timing(metric)
        for spread in _of_metric(whole, task, metric, recipes)
    ]


def recipes_of(rows: pd.DataFrame) -> dict[str, tuple[str, int]]:
    """Weights -> recipe and seed, of those checkpoints whose rows say both."""
    names = ["weights_digest", "train_recipe", "train_seed"]
    if not set(names) <= set(rows.columns):
        return {}
    known = rows[names].dropna().drop_duplicates()
    return {str(weights): (str(recipe), int(seed)) for weights, recipe, seed in known.itertuples(index=False)}


def trained_again(rows: pd.DataFrame) -> dict[str, str]:
    """Checkpoints of the rows that are trained as another one of them, with a later seed -> that one, of the first."""
    recipes = recipes_of(rows)
    if not recipes:
        return {}
    named = rows[["checkpoint", "weights_digest"]].drop_duplicates()
    trainings: dict[str, set[tuple[str, int] | None]] = {}
    for name, weights in named.itertuples(index=False):
        trainings.setdefault(str(name), set()).add(recipes.get(str(weights)))
    # A name that stands for several trainings, or for one that is not known, is left as it is.
    known = {name: training for name, (training, *more) in trainings.items() if training is not None and not more}
    first: dict[str, tuple[int, str]] = {}
    for name, (recipe, seed) in known.items():
        first[recipe] = min(first.get(recipe, (seed, name)), (seed, name))
    return {name: first[recipe][1] for name, (recipe, seed) in known.items() if seed > first[recipe][0]}


def first_trainings(names: Sequence[str], again: Container[str]) -> list[str]:
    """Which of these checkpoints are compared and drawn unasked: not those trained `again`, unless two are not left."""
    first = [name for name in names if name not in again]
    return first if len(first) > 1 else list(names)


def _of_metric(
    whole: Part, task: str, metric: summary.Metric, recipes: Mapping[str, tuple[str, int]]
) -> Iterator[SeedSpread]:
    # Numbers of one version of the code only: another one moves them too.
    found: dict[tuple[str, Scalar, tuple[tuple[str, Scalar], ...]], dict[int, float]] = {}
    for group in summary.groups(whole, task, metric):
        if not len(group.rows):
            continue
        recipe, seed = recipes[str(group.line["weights_digest"])]
        settings = {name: value for name, value in group.line.items() if name not in summary.CONTENT}
        place = tuple({**settings, **group.point}.items())
        # The same training under two names is one.
        found.setdefault((recipe, group.rows.first("code_digest"), place), {})[seed] = summary.estimate(
            group.rows, metric
        ).value
    for (recipe, _, place), values in found.items():
        # Shares that are all 0, or all 1, do not move because they cannot: they tell nothing of other models.
        at_an_end = metric.statistic == "proportion" and set(values.values()) in ({0.0}, {1.0})
        if len(values) >= LEAST and not at_an_end:
            yield SeedSpread(
                recipe=recipe,
                task=task,
                metric=metric.name,
                place=dict(place),
                num_seeds=len(values),
                sd=float(np.std(list(values.values()), ddof=1)),
            )


def noise_of(entry: Record, sides: Mapping[str, str | None], known: Sequence[SeedSpread]) -> DifferenceNoise | None:
    """Training noise of a comparison; None where no seed tells it, or the comparison is no difference.

    Args:
        entry: a record of `ttbench.report.comparison.compare.compare`.
        sides: name of a side -> its recipe, None where its rows do not say.
        known: what `spreads` found.
    """
    if entry["kind"] != summary.DIFFERENCE or entry["effect"] is None:
        return None
    here = {
        spread.recipe: spread
        for spread in sorted(known, key=lambda spread: spread.sd)
        if (spread.task, spread.metric) == (entry["task"], entry["metric"])
        # a setting in which the two sides differ is null in the comparison
        and all(
            entry.get(name) in (value, None) for name, value in spread.place.items() if name not in summary.HARMLESS
        )
    }
    if not here:
        return None
    largest = max(here.values(), key=lambda spread: spread.sd)
    own = {side: here.get(sides.get(entry[side]) or "") for side in ("a", "b")}
    used = [spread or largest for spread in own.values()]
    return DifferenceNoise(
        sd=math.hypot(*(spread.sd for spread in used)),
        num_seeds=sum({spread.recipe: spread.num_seeds for spread in used}.values()),
        assumed=tuple(str(entry[side]) for side, spread in own.items() if spread is None),
    )


def is_within(entry: Record, noise: DifferenceNoise | None) -> bool:
    """Whether a difference is one that training again could make."""
    return noise is not None and abs(entry["effect"]) < WITHIN * noise.sd
