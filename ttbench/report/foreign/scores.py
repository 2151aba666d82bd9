"""What a log of any tool says of one document, and rows made of it, so that `compare` judges them as its own.

A document is known by a digest of what was asked and what was the answer, as the tool itself hashes it or as its reader
does; never by its number, since limits and orders differ. A benchmark is an axis: the comparisons of one metric over
all benchmarks are one family. Rows call a document an item, since their documents are texts of which windows are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from ttbench.errors import UsageError
from ttbench.types import Metric, digest

BENCHMARK, DOCUMENT = "benchmark", "item"
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKind:
    """What a tool's metric is; two logs that are compared must agree about it."""

    name: str
    better: Better
    statistic: Literal["proportion", "ratio", "exp_ratio"] = "ratio"
    unit: str = "1"
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentScore:
    """One metric of one document of one benchmark."""

    benchmark: str
    document: str  # digest
    prompt: str  # digest of what the model was given; empty: the log does not say
    metric: str
    value: float  # numerator
    weight: float = 1.0  # denominator: 1, or the words or bytes of a likelihood


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLog:
    """What one side of a comparison holds."""

    tool: str
    name: str  # folder or file
    scores: tuple[DocumentScore, ...]
    kinds: Mapping[str, MetricKind]  # by metric


def share_or_mean(name: str, values: Iterable[float], better: Better) -> MetricKind:
    """The kind of a score for each document: a proportion where all are 0 or 1, else a mean."""
    if set(values) <= {0.0, 1.0}:
        return MetricKind(name=name, better=better, statistic="proportion", unit="share")
    return MetricKind(name=name, better=better)


def finite(value: object, where: str) -> float:
    """A score as a number. Raises UsageError for what is none."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    raise UsageError(f"{where}: a score must be a finite number; got {value!r}")


def agreed(one: ForeignLog, two: ForeignLog) -> tuple[ForeignLog, ForeignLog]:
    """Both logs with one kind for each metric: a proportion on one side and a mean on the other are means.

    Raises UsageError where the logs are of two tools, which hash documents in different ways.
    """
    if one.tool != two.tool:
        raise UsageError(
            f"{one.name} holds logs of {one.tool} and {two.name} of {two.tool}; documents of two tools are not paired"
        )
    kinds = dict(one.kinds)
    for name, kind in two.kinds.items():
        held = kinds.setdefault(name, kind)
        if held.better != kind.better:
            raise UsageError(f"{one.name} and {two.name} disagree whether a lower or a higher {name} is better")
        if held.statistic == "proportion" != kind.statistic:
            kinds[name] = kind
    return replace(one, kinds=kinds), replace(two, kinds=kinds)


def as_rows(log: ForeignLog) -> pd.DataFrame:
    """Rows as `compare` reads them: a cell for each metric, a row for each document; units of one document repeated."""
    metrics = [_metric(kind, place) for place, kind in enumerate(log.kinds.values())]
    columns = {kind: metric.numerator for kind, metric in zip(log.kinds, metrics, strict=True)}
    seen: Counter[tuple[str, str, str]] = Counter()
    content = digest(repr((log.name, log.scores)))
    rows = []
    for score in log.scores:
        key = (score.benchmark, score.metric, score.document)
        # the same document again (an epoch, a repeated question) is an observation of its own in the same cluster
        number = int(digest(repr((key, seen[key])))[:15], 16)
        seen[key] += 1
        rows.append(
            {
                "task": log.tool,
                "checkpoint": log.name,
                "revision": None,
                "weights_digest": content,
                "cell_id": digest(repr((content, score.metric))),
                "run_id": content,
                "status": "ok",
                "sample": number,
                BENCHMARK: score.benchmark,
                DOCUMENT: score.document,
                columns[score.metric]: score.value,
                f"{columns[score.metric]}_weight": score.weight,
            }
        )
    frame = pd.DataFrame(rows)
    frame.attrs["metrics"] = {log.tool: [metric.to_json() for metric in metrics]}
    return frame


def _metric(kind: MetricKind, place: int) -> Metric:
    column = f"score_{place}"
    return Metric(
        name=kind.name,
        label=kind.name,
        unit=kind.unit,
        better=kind.better,
        statistic=kind.statistic,
        numerator=column,
        denominator=f"{column}_weight",
        scale=kind.scale,
        cluster=DOCUMENT,
        axes=(BENCHMARK,),
        smallest_effect=0.005 if kind.unit == "bit/byte" else 0.01,
    )


def remarks(one: ForeignLog, two: ForeignLog) -> list[str]:
    """What a reader must know: documents that only one side has, prompts that differ."""
    found = []
    for benchmark in dict.fromkeys(score.benchmark for log in (one, two) for score in log.scores):
        sides = [_documents(log, benchmark) for log in (one, two)]
        both = sides[0].keys() & sides[1].keys()
        for log, mine in zip((one, two), sides, strict=True):
            if len(both) < len(mine):
                lacking = f"{len(mine) - len(both)} of {len(mine)} documents of {log.name}"
                found.append(f"{benchmark}: {lacking} are not in the other")
        other = sum(sides[0][document] != sides[1][document] for document in both)
        if other:
            found.append(
                f"{benchmark}: {other} of {len(both)} documents were asked with other prompts (examples, templates), "
                "which the difference holds too"
            )
    return found


def _documents(log: ForeignLog, benchmark: str) -> dict[str, frozenset[str]]:
    """The prompts of each document."""
    found: dict[str, set[str]] = {}
    for score in log.scores:
        if score.benchmark == benchmark:
            found.setdefault(score.document, set()).add(score.prompt)
    return {document: frozenset(prompts) for document, prompts in found.items()}


def one_each(paths: Mapping[str, Sequence[object]], where: str) -> None:
    """Raise UsageError where a benchmark has several logs, of which none is the right one by itself."""
    for benchmark, held in paths.items():
        if len(held) > 1:
            raise UsageError(
                f"{where} holds {len(held)} logs of '{benchmark}' ({', '.join(map(str, held))}); name one of them, "
                "or a folder with one"
            )
