"""Which observations of two checkpoints are of the same targets.

    same tokenizer     sample by sample: equal seed, number, cluster and text columns (document, haystack, recipe)
    other tokenizer    cluster by cluster: documents of which both scored the same bytes

Two places on one axis (two strategies) number their samples apart, so that there the text columns alone tell them. In
all of them, a pair whose denominators differ is not a pair.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from ttbench.report.summary import RowGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Raw sums over the targets that both scored, one entry per pair, [N] each."""

    a: np.ndarray
    b: np.ndarray
    denominator: np.ndarray
    clusters: np.ndarray | None  # labels
    units: Sequence[Hashable]  # what is independent, under one label in every comparison: clusters, else observations


def pair(one: RowGroup, two: RowGroup, *, free: Collection[str] = ()) -> Shared | None:
    """Pair the observations of two groups of one metric; None when they share no target.

    Args:
        one, two: the groups.
        free: axes on which they stand at different places.
    """
    metric = one.metric
    if one.line["tokenizer_digest"] == two.line["tokenizer_digest"]:
        names = one.rows.columns.names
        own = [name for name in names[names.index("sample") + 1 :] if isinstance(one.rows.first(name), str)]
        own = [name for name in own if name not in free]
        keys = [
            "seed",
            *([] if free else ["sample"]),
            *own,
            *([metric.cluster] if metric.cluster not in (None, *own) else []),
        ]
        shared = _join(one, two, keys)
        if shared is not None:
            return shared
    return None if metric.cluster is None else _join(one, two, [metric.cluster])


def _join(one: RowGroup, two: RowGroup, keys: Sequence[str]) -> Shared | None:
    cluster = one.metric.cluster
    a, b = _sums(one, keys), _sums(two, keys)
    # in an order that neither side decides, so that sums of both ways round are equal to the last bit
    pairs = sorted((key for key in a if key in b and a[key][1] == b[key][1]), key=repr)
    if not pairs:
        return None
    clusters = None if cluster is None else [str(key[keys.index(cluster)]) for key in pairs]
    return Shared(
        a=np.array([a[key][0] for key in pairs]),
        b=np.array([b[key][0] for key in pairs]),
        denominator=np.array([a[key][1] for key in pairs]),
        clusters=None if clusters is None else np.array(clusters),
        units=pairs if clusters is None else clusters,
    )


def _sums(group: RowGroup, keys: Sequence[str]) -> dict[tuple[Hashable, ...], tuple[float, float]]:
    """Numerator and denominator summed over equal keys, in order of first appearance."""
    columns = [group.rows.values(name).tolist() for name in keys]
    numerators = group.rows.floats(group.metric.numerator).tolist()
    denominators = group.rows.floats(group.metric.denominator).tolist()
    sums: dict[tuple[Hashable, ...], tuple[float, float]] = {}
    for key, numerator, denominator in zip(zip(*columns, strict=True), numerators, denominators, strict=True):
        before = sums.get(key, (0.0, 0.0))
        sums[key] = (before[0] + numerator, before[1] + denominator)
    return sums
