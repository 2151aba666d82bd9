"""The changes that `make mutants` makes to code, told one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from mutations import mutations

sys.path.pop(0)


def changed(source: str) -> set[str]:
    """The lines that mutations of a source of one line become."""
    return {each.after for each in mutations(source) if each.compiles()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("seen = a < b", {"seen = a <= b"}),
        ("seen = a <= b == c", {"seen = a < b == c", "seen = a <= b != c"}),
        ("x = a - b * c", {"x = a + b * c", "x = a - b / c"}),
        ("x = a is not b", {"x = a is b"}),
        ("x = a and b", {"x = a or b"}),
        ("x = not a", {"x = (a)"}),
        ("x = -a", {"x = (a)"}),
        ("x = 1", {"x = 2"}),
        ("x = 9", {"x = 8", "x = 10"}),
        ("x = 0.5", {"x = 1.0"}),
        ("x = True", {"x = False"}),
        ("x += y", {"x -= y"}),
        ("bits = math.log(x)", {"bits = math.log10(x)"}),
        ("x = f(a, ddof=b)", {"x = f(a)"}),
        ("x = f(k=a, j=b)", {"x = f(j=b)", "x = f(k=a)"}),
        ("x = y[a:b]", {"x = y[(a) + 1:b]", "x = y[a:(b) + 1]"}),
        ("for i in range(n): pass", {"for i in range((n) + 1): pass"}),
        ("x = a if b else c", {"x = a if not (b) else c"}),
        ("seen.add(x)", {"pass"}),
        ("é = 'é' if a > b else é", {"é = 'é' if a >= b else é", "é = 'é' if not (a > b) else é"}),
    ],
)
def test_a_line_is_changed_in_each_of_these_ways(source: str, expected: set[str]) -> None:
    assert changed(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import a",
        "raise ValueError(f'{1 + 1} of {2}')",
        "x: tuple[1, 2]",
        "x = f'{a + b}'",
        "x = a + 'text'",
        "x = f(label=y)",
        "if TYPE_CHECKING:\n    x = 1",
    ],
)
def test_what_computes_nothing_is_left_alone(source: str) -> None:
    assert changed(source) == set()


def test_a_mutation_says_where_it_is_and_keeps_its_key_when_lines_move() -> None:
    source = "class A:\n    def f(self):\n        return 1\n"
    (before,), (after,) = mutations(source), mutations("import a\n\n" + source)
    assert (before.function, before.line, after.line) == ("A.f", 3, 5)
    assert before.key("x.py") == after.key("x.py") != before.key("y.py")
    assert before.source == source.replace("1", "2")
