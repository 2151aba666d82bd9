"""The changes that `make mutants` makes to code, told one by one, and which tests it runs on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import mutant_outcomes
import mutant_reach
from mutations import mutations

SCRIPTS = sys.path.pop(0)


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


MODULE = "class A:\n    def f(self):\n        return [x for x in g()]\ndef g():\n    return [1]\n"
TESTS = """
import pytest
from ttbench import module

@pytest.fixture(scope="module")
def shared():
    return module.A().f()

def test_slow(shared):
    sum(range(10**7))

def test_quick():
    assert module.g() == [1]

def test_wrong():
    assert module.A().f() == [2]
"""


def test_a_mutant_meets_the_tests_that_call_what_it_changes_the_quickest_first(tmp_path: Path) -> None:
    (tmp_path / "ttbench").mkdir()
    (tmp_path / "ttbench" / "__init__.py").touch()
    (tmp_path / "ttbench" / "module.py").write_text(MODULE)
    (tmp_path / "test_module.py").write_text(TESTS)
    script = (
        "import pathlib, pytest, mutant_reach\n"
        "reach = mutant_reach.Reach(pathlib.Path.cwd(), pathlib.Path('reach.json'))\n"
        "pytest.main(['-p', 'no:cacheprovider', 'test_module.py'], plugins=[reach])"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), SCRIPTS))}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=variables, check=True, capture_output=True)
    reached = mutant_reach.read(tmp_path / "reach.json")
    # one that fails on the code as it is judges nothing; what a fixture of the module calls counts for all
    names = {"": ["test_quick", "test_slow"], "A.f": ["test_quick", "test_slow"], "g": ["test_quick", "test_slow"]}
    for function, expected in {**names, "h": []}.items():
        found = mutant_reach.chosen(reached, path="ttbench/module.py", function=function)
        assert [each.test.rpartition("::")[2] for each in found] == expected
    assert mutant_reach.chosen(reached, path="ttbench/other.py", function="g") == []


def test_a_module_that_cannot_be_imported_makes_room_for_another_mutant(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("a = 1\nb = True\nc = 0.5\n")
    path, known = "module.py", dict[str, mutant_outcomes.Outcome]()
    order = list(mutant_outcomes.drawn(path, tmp_path, seed=0))
    assert len(order) == 3
    assert list(mutant_outcomes.sample(path, tmp_path, num_mutants=1, seed=0, known=known)) == order[:1]
    known[order[0].key] = mutant_outcomes.outcome(order[0], "tests/test_module.py", tmp_path)
    assert list(mutant_outcomes.sample(path, tmp_path, num_mutants=1, seed=0, known=known)) == order[:2]
