"""The house rules that a program can see: imports point down, the bottom is light, files stay small."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ttbench"
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "pandas", "datasets", "transformers", "lm_eval", "matplotlib", "scipy", "pyarrow")

BASE = {"types", "errors", "clusters", "stats", "registry", "names", "cache", "disk"}
# Module or sub-package -> those it may import. A late import counts like any other; TYPE_CHECKING does not.
MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "cache": {"errors"},
    "disk": set(),
    "names": set(),
    "streams": {"errors", "console"},
    "clusters": set(),
    "stats": {"errors", "clusters"},
    "registry": {"errors"},
    "code": {"types", "errors", "registry"},
    "kernels": BASE,
    "models": BASE | {"kernels"},
    "strict_yaml": BASE,
    "catalogue": BASE | {"strict_yaml"},
    "harness": BASE | {"code", "catalogue", "models"},
    "lmeval": BASE | {"harness"},
    "adapt": BASE | {"strict_yaml", "models", "harness"},
    "work": {"types"},
    "rates": {"work"},
    "tasks": BASE | {"harness", "lmeval", "adapt", "work"},
    "estimate": BASE | {"tasks", "work"},
    "record": BASE,
    "rows": BASE | {"record"},
    "store": BASE | {"record", "rows"},
    "report": BASE | {"record", "rows", "store"},
    "plan": BASE | {"code", "harness", "tasks", "estimate", "work"},
    "calibrate": BASE | {"harness", "tasks"},
    "calibration": BASE | {"code", "harness", "store", "estimate", "plan", "rates", "work"},
    "evidence": BASE | {"harness", "record", "store"},
    "suite": BASE | {"plan", "strict_yaml"},
    "request": BASE | {"harness", "tasks", "plan", "suite", "store"},
    "progress": BASE | {"plan", "estimate"},
    "process": BASE | {"harness", "store"},
    "worker": BASE | {"code", "harness", "tasks", "record", "store"},
    "executor": BASE | {"harness", "tasks", "plan", "process", "progress", "record", "store"},
    "sweep": BASE | {"harness", "plan", "progress", "record", "request", "executor", "store"},
    "convert": BASE | {"models", "harness"},
    "recipe": BASE | {"harness"},
    "train": BASE | {"models", "harness", "recipe"},
    "grid": BASE | {"models", "harness", "recipe", "train"},
    "card": BASE | {"harness", "recipe", "sweep", "store", "train"},
    "doctor": BASE | {"harness"},
    "widths": set(),
    "console": BASE | {"plan", "suite", "widths"},
    "commands": BASE
    | {
        "adapt",
        "harness",
        "evidence",
        "record",
        "rows",
        "store",
        "report",
        "plan",
        "suite",
        "request",
        "calibration",
        "estimate",
        "sweep",
        "recipe",
        "train",
        "grid",
        "card",
        "doctor",
    }
    | {"catalogue", "console", "convert", "lmeval"},
    "options": BASE | {"commands"},
    "cli": BASE | {"streams", "request", "commands", "console", "options"},
}
TOP = {"__init__", "__main__"}  # may import anything
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def part_of(module: str) -> str:
    """`ttbench.corpora.data` -> `harness`; `ttbench` -> `__init__`."""
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_are_absolute_and_point_down(path: Path) -> None:
    here = part_of(module_of(path))
    for line, name in imports_of(ast.parse(path.read_text(encoding="utf-8"))):
        assert not name.startswith("."), f"{path.name}:{line}: relative import"
        if name.split(".")[0] != "ttbench" or here in TOP:
            continue
        there = part_of(name)
        if there in ("__init__", "__version__", here):
            continue
        assert here in MAY_IMPORT, f"{path.name}: give '{here}' its line in MAY_IMPORT"
        assert there in MAY_IMPORT[here], f"{path.name}:{line}: {here} must not import {there}"


def test_the_layers_have_no_cycle() -> None:
    order: list[str] = []
    left = {part: set(below) for part, below in MAY_IMPORT.items()}
    while left:
        ready = sorted(part for part, below in left.items() if below <= set(order))
        assert ready, f"a cycle among {sorted(left)}"
        order += ready
        left = {part: below for part, below in left.items() if part not in ready}
    assert order[0] in BASE


@pytest.mark.parametrize("part", ["report", "store", "suite", "tasks", "types", "errors", "stats", "registry"])
def test_torch_is_named_nowhere_in_the_torch_free_parts(part: str) -> None:
    for path in FILES:
        if part_of(module_of(path)) == part:
            names = {name.split(".")[0] for _, name in imports_of(ast.parse(path.read_text(encoding="utf-8")))}
            assert not names & {"torch", "transformers", "triton"}, path.name


def light_modules() -> list[str]:
    """Modules whose docstring says that they are torch-free, and those that must be."""
    always = {f"ttbench.{part}" for part in ("types", "errors", "registry", "cli", "stats", "suite", "store")}
    claimed = {
        module_of(path)
        for path in FILES
        if re.search(r"\btorch-free\b", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "", re.I)
    }
    return sorted(claimed | always | {"ttbench"})


def loaded_by(module: str) -> set[str]:
    """Which heavy packages a fresh interpreter holds after importing `module`."""
    code = f"import json, sys, {module}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout))


@pytest.mark.parametrize("module", light_modules())
def test_modules_that_say_so_import_no_torch(module: str) -> None:
    assert not loaded_by(module) & {"torch", "transformers"}


@pytest.mark.parametrize(
    "module", ["ttbench", "ttbench.types", "ttbench.errors", "ttbench.registry", "ttbench.cli.app"]
)
def test_the_bottom_and_the_command_line_import_nothing_heavy(module: str) -> None:
    assert loaded_by(module) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_source_file_is_documented_and_at_most_400_lines_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text)), "a module says in its docstring what it is"
    assert path.stem not in FORBIDDEN_NAMES


def test_every_module_of_the_layer_table_exists() -> None:
    missing = [part for part in MAY_IMPORT if not (PACKAGE / part).is_dir() and not (PACKAGE / f"{part}.py").is_file()]
    assert missing == []


def test_no_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.-])/(?:work|root|home|opt|farm)/\w")
    for folder in ("ttbench", "suites", "docs", "scripts", "tests"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".yaml", ".md", ".sh", ".json"}:
                found = pattern.search(path.read_text(encoding="utf-8"))
                assert found is None, f"{path.relative_to(ROOT)}: {found}"
