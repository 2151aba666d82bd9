"""The house rules that a program can see: imports point down, the bottom is light, files stay small."""

from __future__ import annotations

import ast
import collections
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ttbench"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "pandas", "datasets", "transformers", "lm_eval", "matplotlib", "scipy", "pyarrow")
LOOKED_FOR = (*HEAVY, "scipy.stats", "pydantic_core")

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def part_of(module: str) -> str:
    """`ttbench.corpora.corpus` -> `corpora`; `ttbench` -> `__init__`."""
    return [*module.split("."), "__init__"][1]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and full name of each import that can run, late ones too."""
    found: list[tuple[int, str]] = []
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{base}.{alias.name}" if base == "ttbench" else base) for alias in node.names]
        else:
            found += imports_of(node)
    return found


def test_imports_are_absolute() -> None:
    for path in FILES:
        for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
            assert not name.startswith("."), f"{path.name}:{line}: relative import"


def test_few_modules_lie_loose_and_a_room_holds_a_dozen_at_most() -> None:
    # One operation is one file of `kernels`, and one of `kernels/fused`, however many there are.
    held = collections.Counter(path.parent for path in FILES if not path.name.startswith("__"))
    assert held[PACKAGE] <= 8
    large = {str(room.relative_to(PACKAGE)) for room, number in held.items() if number > 12}
    assert large <= {"kernels", "kernels/fused"}


def test_no_module_imports_the_interface_that_imports_it() -> None:
    for path in FILES:
        if path not in (PACKAGE / "__init__.py", PACKAGE / "__main__.py"):
            names = {name for _, name in imports_of(ast.parse(path.read_text(encoding="utf-8")))}
            assert not names & {"ttbench", "ttbench.__version__"}, path


def contracts(root: Path) -> str:
    """What import-linter says of the package below `root`, under the contracts of pyproject.toml."""
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from importlinter.cli import lint_imports as f; sys.exit(f())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def test_imports_point_down_and_no_two_files_import_each_other() -> None:
    said = contracts(ROOT)
    assert said.startswith("exit 0\n"), said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("kernels/attention.py", "from ttbench.engines import ids", "Rooms"),
        ("tasks/draw.py", "def f():\n    from ttbench.store import store", "Rooms"),
        ("engines/ids.py", "from ttbench.engines import eager", "No two files"),
        ("report/words.py", "from ttbench.models import base", "A report"),
        ("wardrobe.py", "", "Rooms"),
    ],
)
def test_a_planted_import_breaks_its_contract(tmp_path: Path, file: str, line: str, contract: str) -> None:
    for path in FILES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    planted = tmp_path / "ttbench" / file
    planted.write_text((planted.read_text(encoding="utf-8") if planted.exists() else "") + f"\n\n{line}\n")
    said = contracts(tmp_path)
    assert not said.startswith("exit 0\n")
    broken = [words for words in said.splitlines() if words.endswith(" BROKEN")]
    assert any(words.startswith(contract) for words in broken), said


@pytest.mark.parametrize("part", ["report", "store", "tasks", "types", "errors", "registry"])
def test_torch_is_named_nowhere_in_the_torch_free_parts(part: str) -> None:
    for path in FILES:
        if part_of(module_of(path)) == part:
            names = {name.split(".")[0] for _, name in imports_of(ast.parse(path.read_text(encoding="utf-8")))}
            assert not names & {"torch", "transformers", "triton"}, path.name


def light_modules() -> list[str]:
    """Modules whose docstring says that they are torch-free, and those that must be."""
    always = {f"ttbench.{part}" for part in ("types", "errors", "registry", "cli.app", "runs.suite", "store.store")}
    claimed = {
        module_of(path)
        for path in FILES
        if re.search(r"\btorch-free\b", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "", re.I)
    }
    return sorted(claimed | always | {"ttbench"})


def loaded_after(modules: Sequence[str]) -> dict[str, set[str]]:
    """Which heavy packages a fresh interpreter holds after importing each of these modules, one after another.

    A module brings in nothing here that it would not bring in alone, so one process tells of all: where none is held
    at the end, none of them imports any. The first that holds one is the one to blame.
    """
    code = (
        "import importlib, json, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    print(json.dumps([name, [m for m in {LOOKED_FOR!r} if m in sys.modules]]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code, *modules], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: set(held) for name, held in map(json.loads, out.stdout.splitlines())}


def test_modules_that_say_so_import_no_torch_and_tables_need_no_scipy_stats() -> None:
    command = "ttbench.cli.commands.run_command"
    found = loaded_after([*light_modules(), command])
    assert list(found) == [*light_modules(), command]
    assert {name: held for name, held in found.items() if held & {"torch", "transformers"}} == {}
    # it takes half a second of every command that prints a table
    assert {name: held for name, held in found.items() if "scipy.stats" in held} == {}
    assert {"pandas", "scipy"} <= found[command]


def test_the_bottom_and_the_command_line_import_nothing_heavy() -> None:
    found = loaded_after(["ttbench", "ttbench.types", "ttbench.errors", "ttbench.registry", "ttbench.cli.app"])
    assert len(found) == 5
    assert {name: held for name, held in found.items() if held & {*HEAVY}} == {}


def test_a_worker_whose_memory_is_measured_holds_no_parser_of_its_readers() -> None:
    assert loaded_after(["ttbench.runs.worker"]) == {"ttbench.runs.worker": set()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_source_file_is_documented_and_at_most_400_lines_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), "a module says in its docstring what it is"
    assert path.stem not in FORBIDDEN_NAMES


def test_names_of_test_files_are_used_once() -> None:
    """pytest imports them by their names alone, and collects nothing at all where two are equal."""
    names = collections.Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []


def test_a_class_of_the_package_has_a_name_of_its_own() -> None:
    """One name, one thing."""
    names = collections.Counter(
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, number in names.items() if number > 1] == []


def test_no_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.-])/(?:work|root|home|opt|farm)/\w")
    for folder in ("ttbench", "suites", "docs", "scripts", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".yaml", ".md", ".sh", ".json"}:
                found = pattern.search(path.read_text(encoding="utf-8"))
                assert found is None, f"{path.relative_to(ROOT)}: {found}"
