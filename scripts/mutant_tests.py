"""Which tests would notice a change to a module: its own, then all others that import it."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Beside the test file that mirrors a module, or in its place: those that were written for it.
TESTS = {
    "report/statistics/clusters.py": ["tests/report/statistics/test_stats.py"],
    "kernels/gating.py": ["tests/kernels/test_neural_memory.py"],
    "report/comparison/effects.py": ["tests/report/comparison/test_compare.py"],
    "report/comparison/matching.py": [
        "tests/report/comparison/test_compare.py",
        "tests/report/comparison/test_variants.py",
    ],
    "report/comparison/pairing.py": ["tests/report/comparison/test_compare.py"],
    "report/statistics/coverage.py": ["tests/report/statistics/test_clusters.py"],
    "report/summary.py": ["tests/report/test_table.py", "tests/report/comparison/test_compare.py"],
    "report/statistics/stats.py": ["tests/report/statistics/test_clusters.py"],
    "tasks/adapt/adapt_metrics.py": ["tests/report/test_task_metrics.py"],
    "tasks/genomics/genomics.py": ["tests/report/test_task_metrics.py"],
    "tasks/needle/haystack.py": ["tests/tasks/needle/test_prompts.py", "tests/tasks/needle/test_needle.py"],
    "tasks/needle/needle.py": ["tests/machine/test_work.py"],
    "tasks/needle/riddle.py": ["tests/tasks/needle/test_prompts.py"],
    "tasks/perplexity/blocks.py": ["tests/tasks/perplexity/test_perplexity.py", "tests/tasks/test_shared_passes.py"],
    "tasks/perplexity/perplexity_metrics.py": [
        "tests/report/test_task_metrics.py",
        "tests/tasks/perplexity/test_perplexity.py",
    ],
    "tasks/recall/sequences.py": ["tests/tasks/recall/test_recall.py"],
    "tasks/windows.py": ["tests/tasks/perplexity/test_perplexity.py", "tests/machine/test_work.py"],
}


@functools.cache
def tests_of(path: str) -> tuple[list[str], list[str]]:
    """Test files in two rounds: the module's own, and all others that import it, directly or by what they import."""
    below = path.removeprefix("ttbench/")
    mirror = ROOT / "tests" / Path(below).parent / f"test_{Path(below).name}"
    own = [str(mirror.relative_to(ROOT))] if mirror.is_file() else []
    own += [test for test in TESTS.get(below, []) if test not in own]
    module = path.removesuffix(".py").replace("/", ".")
    direct = [name for name, imported in _imports().items() if module in imported]
    near = {module, *(each for each in _package() if module in _package()[each])}
    others = [name for name, imported in _imports().items() if near & imported]
    if not own:
        own, direct = direct, []
    rest = sorted(set(direct + others) - set(own))
    if "/kernels/" in path or "/models/" in path:
        rest = [name for name in rest if "/kernels/" in name or "/conformance/" in name or "/models/" in name]
    return own, rest


def _names(path: Path) -> set[str]:
    """Modules that a file imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@functools.cache
def _imports() -> dict[str, set[str]]:
    """What each test file imports, by itself, by its conftest.py or by a helper beside it."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    helpers = {path.stem: _names(path) for path in (ROOT / "tests").rglob("*.py") if path not in files}
    found: dict[str, set[str]] = {}
    for path in files:
        names = _names(path)
        beside = _names(path.parent / "conftest.py") if (path.parent / "conftest.py").is_file() else set()
        found[str(path.relative_to(ROOT))] = names.union(beside, *(helpers.get(n, ()) for n in names))
    return found


@functools.cache
def _package() -> dict[str, set[str]]:
    paths = (ROOT / "ttbench").rglob("*.py")
    return {str(path.relative_to(ROOT)).removesuffix(".py").replace("/", "."): _names(path) for path in paths}


def digest(names: Sequence[str], root: Path) -> str:
    """Of files below a root, by which an outcome knows whether they have changed since."""
    return hashlib.sha256(b"".join((root / name).read_bytes() for name in sorted(set(names)))).hexdigest()[:16]
