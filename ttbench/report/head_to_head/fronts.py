"""Quality against cost: which checkpoints no other one is shown to beat on both.

A checkpoint leaves the front only where one other checkpoint is shown to be better in quality and in cost; a point that
merely looks worse stays. Quality stands at its context of the leaderboard, cost (seconds, bytes of what is counted) at
the same context where both were measured there, else at its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttbench.report import words
from ttbench.report.head_to_head.leaderboard import Board, is_ranked, relation, shared_values
from ttbench.report.summary import NOT_COMPARABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A checkpoint on a front or behind it."""

    name: str
    quality: float
    cost: float
    beaten_by: tuple[str, ...]  # shown to be better on both; empty: on the front


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """One measure of quality against one of cost."""

    task: str  # of the quality
    quality: str  # metric
    quality_label: str  # with the settings that tell it from others
    quality_context: int  # tokens
    cost_task: str
    cost: str  # metric
    cost_label: str
    cost_context: int  # tokens
    members: tuple[Member, ...]  # the best quality first

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def fronts(boards: Sequence[Board], entries: Sequence[words.Record]) -> list[Front]:
    """A front for each pair of a quality and a cost of which two checkpoints have both.

    Args:
        boards: of these comparisons.
        entries: comparisons of all pairs.
    """
    able = [entry for entry in entries if is_ranked(entry) and entry["verdict"] != NOT_COMPARABLE]
    costs = [board for board in boards if board.is_cost and _is_paid(board)]
    found = [_front(quality, cost, able) for quality in boards if not quality.is_cost for cost in costs]
    return [front for front in found if len(front.members) > 1]


def _is_paid(board: Board) -> bool:
    """Seconds, and bytes that are counted: a peak of one process is no property of a checkpoint."""
    return board.unit == "s" or board.statistic == words.COUNT


def _front(quality: Board, cost: Board, able: Sequence[words.Record]) -> Front:
    ours = _at(able, quality, quality.context_len)
    # the cost of reading what the quality was measured on, where that is known of most
    same, own = _at(able, cost, quality.context_len), _at(able, cost, cost.context_len)
    theirs = same if len(same) >= len(own) else own
    better, cheaper = relation(ours), relation(theirs)
    values, prices = shared_values(ours), shared_values(theirs)
    order = [place.name for place in quality.places if place.name in prices and place.name in values]
    members = tuple(
        Member(
            name=name,
            quality=values[name],
            cost=prices[name],
            beaten_by=tuple(other for other in order if name in better[other] and name in cheaper[other]),
        )
        for name in order
    )
    return Front(
        task=quality.task,
        quality=quality.metric,
        quality_label=_called(quality),
        quality_context=quality.context_len,
        cost_task=cost.task,
        cost=cost.metric,
        cost_label=_called(cost),
        cost_context=theirs[0]["context_len"],
        members=members,
    )


def _at(able: Sequence[words.Record], board: Board, context_len: int) -> list[words.Record]:
    metric = [entry for entry in able if (entry["task"], entry["metric"]) == (board.task, board.metric)]
    _, _, varying = words.settings(metric)
    return [e for e in metric if e["context_len"] == context_len and words.told(e, varying) == board.settings]


def _called(board: Board) -> str:
    return ", ".join(filter(None, (board.label, board.settings)))
