"""Training noise: how much a number moves when a model is trained again with another seed.

Checkpoints whose rows carry one `train_recipe` and several `train_seed` are trainings that only chance tells apart. The
standard deviation of their numbers (n - 1) is the training noise of the recipe at that point. A difference between two
checkpoints, one training each, moves by

    sd  =  sqrt(sd_a^2 + sd_b^2)

where a side whose own is not known is given the largest that is known at the point. A difference of less than twice of
it may be chance of training alone, whatever the documents say. Perplexities are compared by their ratio, so theirs is
that of logarithms. Times, bytes and counts have none of it.

Numbers that do not move tell nothing: shares are often equal, at the ends because they must be. Nor do shares that
differ by one trial, which is as little as they can. A training whose number is not finite tells nothing either, nor do
unlike checkpoints that say one recipe and one seed. Two settings of one training have no noise between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from ttbench.report import summary
from ttbench.report.columns import Part, all_rows
from ttbench.report.comparison.variants import CONTENT, Side, read_variant, sides
from ttbench.report.summary import A_BETTER, B_BETTER, WITHIN_NOISE
from ttbench.report.words import Record, records
from ttbench.types import Scalar

# Where no recipe was trained with several seeds.
NOT_KNOWN = "one training run each: training noise not known"
# Where a recipe was, and no spread is found, or none at the points of a comparison.
NOT_ALIKE = "training noise not known: no two trainings of one model have unlike numbers at one point by the same code"
NOT_HERE = "training noise not known: other seeds tell none at these points"
NO_DIFFERENCES = "times, bytes and counts have no training noise"
WITHIN = 2.0  # standard deviations that a difference must reach
LEAST = 2  # seeds that a standard deviation needs


Training = tuple[str, int]  # recipe and seed


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """Numbers of one recipe at one point, from one training for each seed."""

    recipe: str
    task: str
    metric: str
    place: Mapping[str, Scalar]  # settings and axes of the number
    num_seeds: int
    sd: float  # in the metric's unit; of a perplexity, of its logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceNoise:
    """What training with other seeds does to one difference."""

    sd: float  # in the unit of the difference; of a ratio, of its logarithm
    num_seeds: int  # of the recipes that it rests on
    fewest_seeds: int  # of one of these
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
    known, (trainings, unclear) = spreads(rows), _trainings(rows)
    several = max(Counter(recipe for recipe, _ in trainings.values()).values(), default=0) >= LEAST
    entries = records(comparisons)
    if not known:
        timed = entries and not any(entry["kind"] is None or is_moved(entry) for entry in entries)
        none = NO_DIFFERENCES if timed else NOT_ALIKE
        comparisons.attrs["training_noise"] = (none if several else NOT_KNOWN) + _unlike(unclear)
        return comparisons
    weights = {side.text: _weights(side.rows) for side in sides}
    recipes = {text: trainings[own][0] if own in trainings else None for text, own in weights.items()}
    alike = [weights[entry["a"]] == weights[entry["b"]] is not None for entry in entries]
    noises = [
        None if one_training else noise_of(entry, recipes, known)
        for entry, one_training in zip(entries, alike, strict=True)
    ]
    made = comparisons.copy()
    made.attrs = comparisons.attrs
    made["training_sd"] = pd.array([None if noise is None else noise.sd for noise in noises], dtype="Float64")
    made["training_seeds"] = pd.array([None if noise is None else noise.num_seeds for noise in noises], dtype="Int64")
    told = [
        WITHIN_NOISE
        if noise is not None and entry["verdict"] in (A_BETTER, B_BETTER) and is_within(entry, noise.sd)
        else entry["verdict"]
        for entry, noise in zip(entries, noises, strict=True)
    ]
    made["verdict"] = pd.Series(told, dtype=object, index=made.index)
    shown = [
        noise
        for entry, noise, one_training in zip(entries, noises, alike, strict=True)
        if entry["verdict"] in (A_BETTER, B_BETTER) and is_moved(entry) and not one_training
    ]
    made.attrs["training_noise"] = _sentence(known, noises, lacking=shown.count(None), of=len(shown)) + _unlike(unclear)
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


def _sentence(known: Sequence[SeedSpread], noises: Sequence[DifferenceNoise | None], *, lacking: int, of: int) -> str:
    judged = [noise for noise in noises if noise is not None]
    if not judged:
        return NOT_HERE
    most = max(spread.num_seeds for spread in known)
    # Student's t of the fewest seeds, beyond the rule's limit on either side
    exceeded = 200 * float(special.stdtr(min(noise.fewest_seeds for noise in judged) - 1, -WITHIN))
    assumed = sorted({name for noise in judged for name in noise.assumed})
    are = "is" if len(assumed) == 1 else "are"
    others = (
        f"; {', '.join(assumed)}, trained once or without a spread here, {are} taken to be as noisy as the noisiest "
    )
    missing = f"; it is not known for {lacking} of the {of} differences that are shown"
    return (
        "training noise of a difference: sqrt(sd_a^2 + sd_b^2), each sd over the trainings of a model that differ in "
        f"their seed alone (up to {most}); a difference of less than twice this root is {WITHIN_NOISE}; "
        f"two equally good models that are no noisier exceed it in up to {exceeded:.0f} of 100 cases"
        f"{f'{others}model at the same point' if assumed else ''}{missing if lacking else ''}"
    )


def _unlike(names: Sequence[str]) -> str:
    """What is said of checkpoints that cannot be told from the training that they name."""
    if not names:
        return ""
    return f"; {' and '.join(names)} say the same recipe and seed and are unlike, so none of them tells training noise"


def spreads(rows: pd.DataFrame) -> list[SeedSpread]:
    """The spread of every recipe with several seeds, at every point of every metric that training moves."""
    trainings = recipes_of(rows)
    counts = Counter(recipe for recipe, _ in trainings.values())
    several = {weights: training for weights, training in trainings.items() if counts[training[0]] >= LEAST}
    if not several:
        return []
    whole = all_rows(rows.loc[rows["weights_digest"].isin(sorted(several))].reset_index(drop=True))
    return [
        spread
        for task, metrics in summary.metrics_of(rows).items()
        for metric in metrics
        if metric.better != "neither" and metric.statistic != "count" and not summary.is_timing(metric)
        for spread in _of_metric(whole, task, metric, several)
    ]


def recipes_of(rows: pd.DataFrame) -> dict[str, Training]:
    """Weights -> recipe and seed, of those checkpoints whose rows say both.

    Of unlike checkpoints that say the same recipe and seed none is there: one was changed after its training, and it is
    not known which.
    """
    return _trainings(rows)[0]


def _trainings(rows: pd.DataFrame) -> tuple[dict[str, Training], list[str]]:
    """What `recipes_of` says, and the names of those that it leaves out."""
    names = ["weights_digest", "train_recipe", "train_seed"]
    if not set(names) <= set(rows.columns):
        return {}, []
    digests = [name for name in CONTENT if name in rows]
    told = rows[names].notna().all(axis=1)
    known = rows.loc[told, ["checkpoint", *digests, *names[1:]]].drop_duplicates()
    found: dict[str, Training] = {}
    unclear: list[str] = []
    for _, mine in known.groupby(names[1:], sort=False):
        # a digest that is missing, as in rows of an older schema, is no other one
        if any(mine[name].nunique() > 1 for name in digests):
            unclear += map(str, mine["checkpoint"].unique())
            continue
        recipe, seed = mine["train_recipe"].iloc[0], mine["train_seed"].iloc[0]
        found[str(mine["weights_digest"].iloc[0])] = (str(recipe), int(seed))
    return found, list(dict.fromkeys(unclear))


def _weights(rows: pd.DataFrame) -> str | None:
    """Those of a side, whose rows have one content."""
    found = rows["weights_digest"].dropna().tolist() if "weights_digest" in rows else []
    return str(found[0]) if found else None


def trained_again(rows: pd.DataFrame) -> dict[str, str]:
    """Checkpoints of the rows that are another one of them, trained with another seed -> that one, the first.

    First is the training with answers at the largest number of contexts, summed over tasks and corpora; of several that
    with the smallest seed.
    """
    trainings = recipes_of(rows)
    if not trainings:
        return {}
    places = [name for name in ("task", "corpus_digest", "context_len") if name in rows]
    answered = rows if "status" not in rows else rows.loc[rows["status"] == "ok"]
    num_answers = Counter(answered[["weights_digest", *places]].drop_duplicates()["weights_digest"])
    named: dict[str, set[str]] = {}
    for name, weights in rows[["checkpoint", "weights_digest"]].drop_duplicates().itertuples(index=False):
        named.setdefault(str(name), set()).add(str(weights))
    # A name that stands for several trainings, or for one that is not known, is left as it is.
    single = {name: own for name, (own, *more) in named.items() if not more and own in trainings}
    first: dict[str, tuple[int, int, str]] = {}  # of each recipe, among trainings with a name
    for weights in single.values():
        recipe, seed = trainings[weights]
        mine = (-num_answers[weights], seed, weights)
        first[recipe] = min(first.get(recipe, mine), mine)
    again = {}
    for name, own in single.items():
        best = first[trainings[own][0]][2]
        if own != best:
            again[name] = next(other for other, weights in single.items() if weights == best)
    return again


def first_trainings(texts: Sequence[str], again: Collection[str], *, names: Collection[str]) -> list[str]:
    """Which of these sides are compared and drawn unasked: not those trained `again`, unless two models are not left.

    Args:
        texts: sides as `ttbench.report.comparison.variants.read_variant` reads them.
        again: checkpoints that are another one, trained again.
        names: every checkpoint.
    """
    first = [text for text in texts if read_variant(text, names=names).name not in again]
    return first if len({read_variant(text, names=names).name for text in first}) > 1 else list(texts)


def first_sides(rows: pd.DataFrame, again: Collection[str]) -> list[str]:
    """The sides of these rows that are compared unasked, as `first_trainings` chooses them."""
    return first_trainings(sides(rows), again, names={*rows["checkpoint"]})


def drawn_trainings(table: pd.DataFrame) -> list[str]:
    """The checkpoints of a summary that figures show: of trainings that differ in their seed alone the first."""
    names = table["checkpoint"].dropna().unique().tolist()
    return first_trainings(names, table.attrs["trained_again"], names=names)


def _of_metric(
    whole: Part, task: str, metric: summary.Metric, trainings: Mapping[str, Training]
) -> Iterator[SeedSpread]:
    # Numbers of one version of the code only: another one moves them too.
    found: dict[tuple[str, Scalar, tuple[tuple[str, Scalar], ...]], dict[int, float]] = {}
    one_trial: dict[Any, float] = {}  # what it moves there
    for group in summary.groups(whole, task, metric):
        training = trainings.get(str(group.line["weights_digest"])) if len(group.rows) else None
        if training is None:
            continue
        recipe, seed = training
        settings = {name: value for name, value in group.line.items() if name not in summary.CONTENT}
        place = tuple({**settings, **group.point}.items())
        value = summary.estimate(group.rows, metric).value
        if metric.statistic == "exp_ratio":
            value = math.log(value)
        key = recipe, group.rows.first("code_digest"), place
        if metric.statistic == "proportion":
            one_trial[key] = metric.scale / float(group.rows.floats(metric.denominator).sum())
        # The same training under two names is one.
        if math.isfinite(value):
            found.setdefault(key, {})[seed] = value
    for key, values in found.items():
        recipe, _, place = key
        apart = max(values.values()) - min(values.values())
        if len(values) >= LEAST and apart > one_trial.get(key, 0.0) * (1 + 1e-9):
            yield SeedSpread(
                recipe=recipe,
                task=task,
                metric=metric.name,
                place=dict(place),
                num_seeds=len(values),
                sd=float(np.std(list(values.values()), ddof=1)),
            )


def noise_of(entry: Record, sides: Mapping[str, str | None], known: Sequence[SeedSpread]) -> DifferenceNoise | None:
    """Training noise of a comparison; None where no seed tells it, or training does not move what is compared.

    Args:
        entry: a record of `ttbench.report.comparison.compare.compare`.
        sides: name of a side -> its recipe, None where its rows do not say.
        known: what `spreads` found.
    """
    if not is_moved(entry) or entry["effect"] is None:
        return None
    here = _at(entry, known)
    if not here:
        return None
    largest = max(here.values(), key=lambda spread: spread.sd)
    own = {side: here.get(sides.get(entry[side]) or "") for side in ("a", "b")}
    used = [spread or largest for spread in own.values()]
    return DifferenceNoise(
        sd=math.hypot(*(spread.sd for spread in used)),
        num_seeds=sum({spread.recipe: spread.num_seeds for spread in used}.values()),
        fewest_seeds=min(spread.num_seeds for spread in used),
        assumed=tuple(str(entry[side]) for side, spread in own.items() if spread is None),
    )


def sd_at(place: Mapping[str, Any], recipe: str | None, known: Sequence[SeedSpread]) -> float | None:
    """Training noise of one number: its recipe's own, else the largest that is known at its place; None: no seed tells.

    Args:
        place: task, metric, settings and axes of the number.
    """
    here = _at(place, known)
    own = here.get(recipe or "") or max(here.values(), key=lambda spread: spread.sd, default=None)
    return None if own is None else own.sd


def _at(place: Mapping[str, Any], known: Sequence[SeedSpread]) -> dict[str, SeedSpread]:
    """The spreads of each recipe at a place; the largest where settings that move no noise tell several apart."""
    return {
        spread.recipe: spread
        for spread in sorted(known, key=lambda spread: spread.sd)
        if (spread.task, spread.metric) == (place["task"], place["metric"])
        # a setting in which the two sides differ is null in the comparison
        and all(
            place.get(name) in (value, None) for name, value in spread.place.items() if name not in summary.HARMLESS
        )
    }


def is_moved(entry: Record) -> bool:
    """Whether training again moves what a comparison compares, and the comparison is judged by itself."""
    return entry["restates"] is None and (entry["kind"] == summary.DIFFERENCE or entry["statistic"] == "exp_ratio")


def is_within(entry: Record, sd: float) -> bool:
    """Whether a difference is one that training again could make, whose standard deviation is `training_sd`."""
    size = entry["effect"] if entry["kind"] == summary.DIFFERENCE else math.log(entry["effect"])
    return bool(abs(size) < WITHIN * sd)
