from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ttbench.lmeval.prefixes import MAX_DEPTH, MIN_SHARED, PrefixNode, share

LONG = tuple(range(100, 100 + 2 * MIN_SHARED))


def paths(node: PrefixNode, before: tuple[int, ...] = ()) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each leaf with the tokens read for it in nodes."""
    assert node.start == len(before)
    read = before + node.ids
    yield from ((leaf, read) for leaf in node.leaves)
    for child in node.children:
        yield from paths(child, read)


def assert_whole(prefixes: list[tuple[int, ...]]) -> PrefixNode:
    """Every request is a leaf once, behind tokens that are the beginning of its prefix."""
    tree = share(prefixes)
    found = dict(paths(tree))
    assert sorted(leaf for leaf, _ in paths(tree)) == list(range(len(prefixes)))
    assert all(prefixes[leaf][: len(read)] == read for leaf, read in found.items())
    return tree


def test_equal_prefixes_are_read_once_however_short() -> None:
    tree = assert_whole([(1, 2, 3), (4, 5), (1, 2, 3), (1, 2, 3)])
    assert [(child.ids, sorted(child.leaves)) for child in tree.children] == [((1, 2, 3), [0, 2, 3])]
    assert tree.leaves == (1,)
    assert tree.num_read([5, 4, 6, 7]) == 3 + 2 + 3 + 4 + 4


def test_different_prefixes_share_what_is_long_enough_to_pay_for_a_call() -> None:
    short, long = LONG[: MIN_SHARED - 1], LONG[:MIN_SHARED]
    assert not assert_whole([(*short, 1), (*short, 2)]).children
    assert [child.ids for child in assert_whole([(*long, 1), (*long, 2)]).children] == [long]


def test_worked_examples_stand_above_the_questions_that_follow_them() -> None:
    questions = [(*LONG, number, 7) for number in (1, 1, 2, 2, 2)]
    tree = assert_whole(questions)
    (examples,) = tree.children
    assert examples.ids == LONG
    assert [child.ids for child in examples.children] == [(1, 7), (2, 7)]
    assert tree.num_read([len(question) + 5 for question in questions]) == len(LONG) + 2 * 2 + 5 * 5


def test_a_request_may_end_where_others_go_on() -> None:
    tree = assert_whole([LONG, (*LONG, 1), LONG[:3]])
    (child,) = tree.children
    assert (child.ids, sorted(child.leaves), tree.leaves) == (LONG, [0, 1], (2,))


def test_nothing_is_a_plan_too() -> None:
    assert share([]) == PrefixNode(start=0, ids=(), leaves=(), children=())
    assert sorted(assert_whole([(), ()]).leaves) == [0, 1]


def test_saved_states_never_stand_above_each_other_without_end() -> None:
    chain = [tuple(range(MIN_SHARED * count)) for count in range(1, 3 * MAX_DEPTH)]
    depth, nodes = 0, [assert_whole(chain)]
    while nodes := [child for node in nodes for child in node.children]:
        depth += 1
    assert depth == MAX_DEPTH


@pytest.mark.parametrize("seed", range(5))
def test_any_requests_are_covered_and_never_cost_more_than_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stems = [tuple(rng.integers(0, 2, size=size).tolist()) for size in (0, 3, 90, 200)]
    prefixes = [
        stems[rng.integers(4)] + tuple(rng.integers(0, 2, size=rng.integers(0, 120)).tolist()) for _ in range(40)
    ]
    tree = assert_whole(prefixes)
    lengths = [len(prefix) + 4 for prefix in prefixes]
    assert tree.num_read(lengths) <= sum(lengths)
