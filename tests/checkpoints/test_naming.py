"""Names in a table: the shortest path that tells folders apart, never the zoo's, and refused where nothing does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttbench.checkpoints.naming import digests_of, tell_apart, zoo_folders
from ttbench.errors import UsageError


def names(fakes: ModuleType, *places: tuple[str, dict[str, Any]]) -> list[str]:
    found = [fakes.checkpoint(Path(path).name, path=path, weights_digest=path, **more) for path, more in places]
    name_of = tell_apart(found)
    return [name_of(checkpoint) for checkpoint in found]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["/x/a/checkpoint-500"], ["checkpoint-500"]),
        (["/x/a/checkpoint-500", "/x/b/checkpoint-500"], ["a/checkpoint-500", "b/checkpoint-500"]),
        (["/x/a/m", "/y/a/m", "/x/b/m", "/x/b/n"], ["x/a/m", "y/a/m", "b/m", "n"]),
        (["/m", "/x/m"], ["/m", "x/m"]),
        (["/x/transformer"], ["x/transformer"]),
    ],
    ids=["alone", "last name shared", "more of the path", "at the root", "called as the zoo's"],
)
def test_a_folder_is_called_by_the_shortest_path_that_tells_it_apart(
    fakes: ModuleType, paths: list[str], expected: list[str]
) -> None:
    assert names(fakes, *((path, {}) for path in paths)) == expected


def test_a_model_in_memory_that_is_called_as_the_zoos_keeps_a_name(fakes: ModuleType) -> None:
    checkpoint = fakes.checkpoint("transformer", path="", weights_digest="w", provenance="memory")
    assert tell_apart([checkpoint])(checkpoint) == "memory/transformer"


def test_the_zoo_keeps_its_name(fakes: ModuleType) -> None:
    zoo = ("/package/zoo/transformer", {"provenance": "zoo"})
    assert names(fakes, ("/x/transformer", {}), zoo) == ["x/transformer", "transformer"]


def test_two_revisions_of_the_hub_are_told_apart_by_their_commits(fakes: ModuleType) -> None:
    checkpoints = [
        fakes.checkpoint("org/m", path=f"/cache/{commit}", provenance="hub", revision=commit, weights_digest=commit)
        for commit in ("a" * 40, "b" * 40)
    ]
    name_of = tell_apart(checkpoints)
    assert [name_of(each) for each in checkpoints] == ["org/m@aaaaaaaa", "org/m@bbbbbbbb"]


def test_one_checkpoint_has_one_name_whatever_its_cost_is(fakes: ModuleType) -> None:
    one = fakes.checkpoint("m", path="/x/m")
    name_of = tell_apart([one, dataclasses.replace(one, cost=None)])
    assert name_of(one) == name_of(dataclasses.replace(one, cost=None)) == "m"


def test_what_nothing_tells_apart_is_refused(fakes: ModuleType) -> None:
    one = fakes.checkpoint("m", path="/x/m")
    with pytest.raises(UsageError, match="several checkpoints are called '/x/m'"):
        tell_apart([one, dataclasses.replace(one, weights_digest="changed meanwhile")])


def test_a_folder_has_the_digests_that_its_rows_have() -> None:
    from ttbench.checkpoints.checkpoint import resolve

    found = resolve("ttt-linear")
    assert digests_of(zoo_folders()["ttt-linear"]) == {
        "weights_digest": found.weights_digest,
        "config_digest": found.config_digest,
        "tokenizer_digest": found.tokenizer_digest,
    }
