"""YAML as dataclasses: what is read, and every mistake with its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ttbench.errors import SuiteError, UnknownNameError
from ttbench.strict_yaml.nodes import read_yaml
from ttbench.strict_yaml.typed import Known, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    size: Annotated[int, Field(ge=1)]
    shares: Mapping[Annotated[str, Known("kind", ("red", "blue"))], float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    name: Annotated[str, Field(pattern="^[a-z]+$", description="small letters")]
    parts: tuple[Part, ...]
    pair: tuple[float, float] = (0.0, 0.0)
    kind: Literal["one", "two"] | None = None
    colour: Annotated[str, Known("colour", ("red", "blue"))] = "red"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    free: Mapping[str, Any] | None = None
    where: str = ""


GOOD = """\
name: abc
parts:
  - size: 3
    shares: {red: 1}
pair: [1, 2.5]
kind: two
colour: blue
rate: 0.25
free: {a: [1, null], b: {c: x}}
"""


def load(folder: Path, text: str, *, aliases: bool = False) -> Whole:
    path = folder / "x.yaml"
    path.write_text(text, encoding="utf-8")
    return read(read_yaml(path, noun="file", needs="keys", aliases=aliases), Whole, where="here")


def test_values_come_as_their_types(tmp_path: Path) -> None:
    found = load(tmp_path, GOOD)
    assert found == Whole(
        name="abc",
        parts=(Part(size=3, shares={"red": 1.0}),),
        pair=(1.0, 2.5),
        kind="two",
        colour="blue",
        rate=0.25,
        free={"a": [1, None], "b": {"c": "x"}},
        where="here",
    )
    assert [type(number) for number in found.pair] == [float, float]


def test_null_is_no_value_where_there_may_be_none(tmp_path: Path) -> None:
    found = load(tmp_path, "name: abc\nparts: [{size: 1, shares: ~}]\nkind: null\nfree: null\n")
    assert (found.parts[0].shares, found.kind, found.free) == (None, None, None)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("name: abc", "name: ABC", 1, "name must be small letters; got 'ABC'"),
        ("name: abc", "name: null", 1, "name must be small letters; got None"),
        ("name: abc\n", "", 1, "key 'name' is missing"),
        ("name: abc", "nam: abc", 1, "unknown key 'nam' .*; did you mean 'name'"),
        ("name: abc", "name: abc\nwhere: there", 2, "unknown key 'where'"),
        ("size: 3", "size: 0", 3, "size must be a whole number of at least 1; got 0"),
        ("size: 3", "size: true", 3, "size must be a whole number of at least 1; got True"),
        ("size: 3", "size: '3'", 3, "size must be a whole number of at least 1; got '3'"),
        ("size: 3", "sizes: 3", 3, "unknown key 'sizes' .*; did you mean 'size'"),
        ("{red: 1}", "{red: all}", 4, "shares of red must be a number; got 'all'"),
        ("pair: [1, 2.5]", "pair: [1]", 5, r"pair must be a list of 2: a number, a number; got \[1\]"),
        ("pair: [1, 2.5]", "pair: 1", 5, "pair must be a list of 2: a number, a number; got 1"),
        ("kind: two", "kind: three", 6, "kind must be one of one, two; got 'three'"),
        ("rate: 0.25", "rate: 1", 8, "rate must be a number of more than 0 and less than 1; got 1"),
        ("free: {a: [1, null], b: {c: x}}", "free: [1]", 9, "expected keys and values; got a list"),
    ],
)
def test_a_mistake_is_named_by_its_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    assert old in GOOD
    with pytest.raises(SuiteError, match=message) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert f"x.yaml:{line}" in str(caught.value)


@pytest.mark.parametrize(("old", "new", "line"), [("colour: blue", "colour: bleu", 7), ("{red: 1}", "{bleu: 1}", 4)])
def test_a_name_that_is_not_known_gets_the_nearest(tmp_path: Path, old: str, new: str, line: int) -> None:
    with pytest.raises(UnknownNameError, match=rf"'bleu' in .*x\.yaml:{line}; did you mean 'blue'"):
        load(tmp_path, GOOD.replace(old, new))


MERGED = """\
name: abc
parts:
  - &first {size: 3, shares: {red: 1}}
  - {<<: *first, size: 4}
  - *first
"""


def test_aliases_repeat_and_merge_where_they_are_allowed(tmp_path: Path) -> None:
    sizes = [(part.size, part.shares) for part in load(tmp_path, MERGED, aliases=True).parts]
    assert sizes == [(3, {"red": 1.0}), (4, {"red": 1.0}), (3, {"red": 1.0})]
    with pytest.raises(SuiteError, match=r"x\.yaml:3: anchors and aliases are not allowed"):
        load(tmp_path, MERGED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: abc\nparts: &a [*a]\n", "x.yaml:2: an alias stands inside of what it repeats"),
        ("name: abc\nparts: &a\n  - {<<: [1]}\n", "x.yaml:3: << is followed by"),
        (
            "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 7))]),
            "aliases make more than 100000 values",
        ),
    ],
)
def test_aliases_that_never_end_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        load(tmp_path, text, aliases=True)


def test_a_key_of_its_own_goes_before_a_merged_one_and_is_not_written_twice(tmp_path: Path) -> None:
    text = "name: abc\nparts:\n  - &a {size: 3}\n  - {size: 4, <<: *a}\n"
    assert [part.size for part in load(tmp_path, text, aliases=True).parts] == [3, 4]
    with pytest.raises(SuiteError, match=r"x\.yaml:4: key 'size' is written twice"):
        load(tmp_path, text.replace("size: 4, ", "size: 4, size: 5, "), aliases=True)
