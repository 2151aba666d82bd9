"""Training noise: how much a number moves when a model is trained again with another seed.

Checkpoints whose rows carry one `train_recipe` and several `train_seed` are trainings that only chance tells apart. The
standard deviation of their numbers (n - 1) is the training noise of the recipe at that point. A difference between two
checkpoints, one training each, moves by

    sd  =  sqrt(sd_a^2 + sd_b^2)

where a side whose own is not known is given the largest that is known at the point. A difference of less than twice of
it may be chance of training alone, whatever the documents say. Times, bytes and counts have none of it.

Numbers that do not move tell nothing: shares are often equal, at the ends because they must be. A training whose number
is not finite tells nothing either, nor do unlike checkpoints that say one recipe and one seed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ttbench.report import summary
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.variants import CONTENT, Side, read_variant
from ttbench.report.summary import A_BETTER, B_BETTER, WITHIN_NOISE
from ttbench.report.words import Record, records
from ttbench.types import Scalar

# Where no recipe was trained with several seeds.
NOT_KNOWN = "one training run each: training noise not known"
# Where a recipe was, and no spread is found.
NOT_ALIKE = "training noise not known: no number that moves was measured alike of two trainings of one model"
NOT_HERE = "training noise not known here: other seeds were measured, and not at these points"
WITHIN = 2.0  # standard deviations that a difference must reach
LEAST = 2  # seeds that a standard deviation needs


Content = tuple[Scalar, ...]  # digests of weights, config and tokenizer
Training = tuple[str, int]  # recipe and seed


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
    assumed: tuple[str, ...]  # sides whose own noise is not known


def beside_noise(comparisons: pd.DataFrame, sides: Sequence[Side], among: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The comparisons with what other seeds of training do to them, and without the wins that chance of training makes.

    Columns `training_sd` and `training_seeds` are there where several seeds of a recipe are; `attrs["training_noise"]`
    is a sentence on what is known.

    Args:
        comparisons: as `ttbench.report.comparison.compare.compare_sides` makes them.
        sides: all that stand in them.
        among: rows in which seeds are looked for. Seeds that nobody asked for tell as much as those in the comparisons.
    """
    rows = _together(among)
    known, trainings = spreads(rows), recipes_of(rows)
    if not known:
        several = Counter(recipe for recipe, _ in set(trainings.values())).values()
        comparisons.attrs["training_noise"] = NOT_ALIKE if max(several, default=0) >= LEAST else NOT_KNOWN
        return comparisons
    mine = {side.text: trainings.get(_contents(side.rows)[0]) for side in sides}
    recipes = {text: None if training is None else training[0] for text, training in mine.items()}
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
    made.attrs["training_noise"] = _sentence(known, entries, noises)
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


def _sentence(known: Sequence[SeedSpread], entries: Sequence[Record], noises: Sequence[DifferenceNoise | None]) -> str:
    judged = [noise for noise in noises if noise is not None]
    if not judged:
        return NOT_HERE
    many = max(spread.num_seeds for spread in known)
    assumed = sorted({name for noise in judged for name in noise.assumed})
    are = "is" if len(assumed) == 1 else "are"
    others = f"; {', '.join(assumed)}, whose own is not known, {are} taken to be as noisy as the noisiest that is"
    shown = [
        noise
        for entry, noise in zip(entries, noises, strict=True)
        if entry["verdict"] in (A_BETTER, B_BETTER) and entry["kind"] == summary.DIFFERENCE
    ]
    lacking = f"; it is not known for {shown.count(None)} of the {len(shown)} differences that documents show"
    return (
        "training noise of a difference: sqrt(sd_a^2 + sd_b^2), each sd over the trainings of a model that differ in "
        f"their seed alone (up to {many}); a difference of less than {WITHIN:.0f} times that is {WITHIN_NOISE}"
        f"{others if assumed else ''}{lacking if None in shown else ''}"
    )


def spreads(rows: pd.DataFrame) -> list[SeedSpread]:
    """The spread of every recipe with several seeds, at every point of every metric that training moves."""
    trainings = recipes_of(rows)
    counts = Counter(recipe for recipe, _ in trainings.values())
    several = {content: training for content, training in trainings.items() if counts[training[0]] >= LEAST}
    if not several:
        return []
    weights = sorted({str(content[0]) for content in several})
    whole = all_rows(rows.loc[rows["weights_digest"].isin(weights)].reset_index(drop=True))
    return [
        spread
        for task, metrics in summary.metrics_of(rows).items()
        for metric in metrics
        if metric.better != "neither" and metric.statistic != "count" and not summary.is_timing(metric)
        for spread in _of_metric(whole, task, metric, several)
    ]


def recipes_of(rows: pd.DataFrame) -> dict[Content, Training]:
    """Recipe and seed of those checkpoints whose rows say both, by their content.

    Of unlike checkpoints that say the same recipe and seed none is there: one was changed after its training, and it is
    not known which.
    """
    names = [*CONTENT, "train_recipe", "train_seed"]
    if not set(names) <= set(rows.columns):
        return {}
    told = rows["train_recipe"].notna() & rows["train_seed"].notna()
    known = rows.loc[told, names].drop_duplicates()
    found = {
        tuple(None if pd.isna(part) else part for part in content): (str(recipe), int(seed))
        for *content, recipe, seed in known.itertuples(index=False)
    }
    counts = Counter(found.values())
    return {content: training for content, training in found.items() if counts[training] == 1}


def _contents(rows: pd.DataFrame) -> list[Content]:
    found = rows[[*CONTENT]].drop_duplicates()
    return [tuple(None if pd.isna(part) else part for part in content) for content in found.itertuples(index=False)]


def trained_again(rows: pd.DataFrame) -> dict[str, str]:
    """Checkpoints of the rows that are another one of them, trained with another seed -> that one, the first.

    First is the one with answers at most contexts of most tasks; of several, that of the smallest seed.
    """
    trainings = recipes_of(rows)
    if not trainings:
        return {}
    known: dict[str, Training] = {}
    for name, mine in rows.groupby("checkpoint", sort=False):
        found = {trainings.get(content) for content in _contents(mine)}
        # A name that stands for several trainings, or for one that is not known, is left as it is.
        if len(found) == 1 and None not in found:
            known |= {str(name): training for training in found if training is not None}
    answered = rows.loc[rows["status"] == "ok", ["checkpoint", "task", "context_len"]].drop_duplicates()
    num_answers = Counter(answered["checkpoint"])
    first: dict[str, tuple[int, int, str]] = {}
    for name, (recipe, seed) in known.items():
        mine = (-num_answers[name], seed, name)
        first[recipe] = min(first.get(recipe, mine), mine)
    return {name: first[recipe][2] for name, (recipe, seed) in known.items() if seed != first[recipe][1]}


def first_trainings(texts: Sequence[str], again: Collection[str]) -> list[str]:
    """Which of these sides are compared and drawn unasked: not those trained `again`, unless two are not left."""
    first = [text for text in texts if read_variant(text, names=again).name not in again]
    return first if len(first) > 1 else list(texts)


def _of_metric(
    whole: Part, task: str, metric: summary.Metric, trainings: Mapping[Content, Training]
) -> Iterator[SeedSpread]:
    # Numbers of one version of the code only: another one moves them too.
    found: dict[tuple[str, Scalar, tuple[tuple[str, Scalar], ...]], dict[int, float]] = {}
    for group in summary.groups(whole, task, metric):
        training = trainings.get(tuple(group.rows.first(name) for name in CONTENT)) if len(group.rows) else None
        if training is None:
            continue
        recipe, seed = training
        settings = {name: value for name, value in group.line.items() if name not in summary.CONTENT}
        place = tuple({**settings, **group.point}.items())
        # The same training under two names is one.
        value = summary.estimate(group.rows, metric).value
        if math.isfinite(value):
            found.setdefault((recipe, group.rows.first("code_digest"), place), {})[seed] = value
    for (recipe, _, place), values in found.items():
        if len(values) >= LEAST and len({*values.values()}) > 1:
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
