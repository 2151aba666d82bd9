"""No built-in task is known by name outside its own folder: the frame asks a task, and never which one it is."""

from __future__ import annotations

import ast
from pathlib import Path

from ttbench.registry import TASKS

PACKAGE = Path(__file__).parents[1] / "ttbench"
NAMES = {name for name in TASKS if TASKS[name].startswith("ttbench.")}
# Where a task's name is another word, or one task is asked for as a user asks for it.
ALLOWED = {
    "adapt/domains.py": {"recall"},  # a domain of prompts
    "corpora/training_rows/mixture.py": {"recall", "needle"},  # kinds of rows to train on
    "training/grid.py": {"recall", "needle"},  # the same
    "training/recipe.py": {"recall", "needle"},  # the same
    "code.py": {"adapt"},  # a room
    "cli/commands/checkpoint_commands.py": {"probe"},  # a column of what `check` prints
    "training/card.py": {"perplexity", "needle", "recall"},  # a model's card runs two tasks; the third is a kind of row
    "engines/check.py": {"perplexity"},  # a probe
    "machine/doctor.py": {"memory"},  # of the machine
    "machine/cgroups.py": {"memory"},  # a controller of control groups
    "models/titans/memory_layer.py": {"memory"},  # a part of a state
    "runs/in_memory.py": {"memory"},  # where a model came from
    "cli/commands/result_commands.py": {"memory"},  # of the machine
}


def held(path: Path) -> set[str]:
    """Names of tasks among the texts of a module, and of its imports from a task's folder."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported = {module.split(".")[2] for module in modules if module.startswith("ttbench.tasks.")}
    return (texts | imported) & NAMES


def test_no_module_outside_tasks_holds_the_name_of_a_task() -> None:
    outside = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "tasks"]
    found = {str(path.relative_to(PACKAGE)): held(path) for path in outside if path.name != "registry.py"}
    assert {path: names for path, names in found.items() if names} == ALLOWED
