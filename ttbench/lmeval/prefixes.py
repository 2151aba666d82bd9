"""Which requests share which tokens: a plan that reads every shared prefix once. Pure; no model is seen.

    Q: Ann found a ring. Why?\nA:| it was lost          prefix, then tail: the tokens that a request scores
    Q: Ann found a ring. Why?\nA:| she is glad          same prefix: read once, its state saved, loaded for each tail
    Q: Bob ...                                          other prefix: shared from the root as far as it is worth a call

A node is read after its parent. Requests that end there, or that branch off alone, are its leaves; several that go on
together are a child. lm-eval's few-shot examples come out as a node above the questions, by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Different prefixes share a call of their own from this many tokens on. A call over few tokens costs about as much as
# one over some dozens, so sharing less would save nothing. Equal prefixes are always shared.
MIN_SHARED = 64
# Nodes above each other at most: each holds one saved state.
MAX_DEPTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixNode:
    """Tokens that all requests at and below it begin with."""

    start: int  # tokens read before this node
    ids: tuple[int, ...]  # tokens read here; empty at a root
    leaves: tuple[int, ...]  # requests that need nothing shared beyond here
    children: tuple[PrefixNode, ...]

    @property
    def end(self) -> int:
        """Tokens read after this node."""
        return self.start + len(self.ids)

    def num_read(self, lengths: Sequence[int]) -> int:
        """Tokens read for this node and everything below it, for requests of these whole lengths."""
        below = sum(child.num_read(lengths) for child in self.children)
        return len(self.ids) + sum(lengths[leaf] - self.end for leaf in self.leaves) + below


def share(prefixes: Sequence[Sequence[int]]) -> PrefixNode:
    """The plan for requests with these prefixes, each possibly empty; leaves are places in `prefixes`."""
    order = sorted(range(len(prefixes)), key=lambda place: tuple(prefixes[place]))
    return _node([(tuple(prefixes[place]), place) for place in order], start=0, end=0, depth=0)


Entry = tuple[tuple[int, ...], int]  # prefix, and which request it is


def _node(entries: Sequence[Entry], *, start: int, end: int, depth: int) -> PrefixNode:
    """The node of entries, sorted by prefix, that agree up to `end`, when `start` tokens were read before."""
    leaves: list[int] = []
    children: list[PrefixNode] = []
    for group in _runs(entries, end) if depth < MAX_DEPTH else [list(entries)]:
        shared = _agreement(group[0][0], group[-1][0])
        if len(group) > 1 and shared > end and depth < MAX_DEPTH:
            children.append(_node(group, start=end, end=shared, depth=depth + 1))
        else:
            leaves += [place for _, place in group]
    ids = entries[0][0][start:end] if entries else ()
    return PrefixNode(start=start, ids=ids, leaves=tuple(leaves), children=tuple(children))


def _runs(entries: Sequence[Entry], end: int) -> Iterator[list[Entry]]:
    """Entries in sorted order, cut where neighbours share too little beyond `end` and are not equal."""
    run: list[Entry] = []
    shared = 0  # tokens that all of the run agree on
    for entry in entries:
        agreed = _agreement(run[-1][0], entry[0]) if run else 0
        whole = min(shared, agreed) if len(run) > 1 else agreed
        equal = bool(run) and entry[0] == run[0][0] == run[-1][0]
        if run and not equal and whole < end + MIN_SHARED:
            yield run
            run = []
        run.append(entry)
        shared = len(entry[0]) if len(run) == 1 else whole
    if run:
        yield run


def _agreement(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of first tokens that are equal."""
    most = min(len(a), len(b))
    if a[:most] == b[:most]:
        return most
    low, high = 0, most  # equal up to low, not up to high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
