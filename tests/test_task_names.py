"""No built-in task is known by name outside its own folder: the frame asks a task, and never which one it is."""

from __future__ import annotations

import ast
from pathlib import Path

from ttbench.registry import TASKS
from ttbench.report.tidy import HEAD, TAIL
from ttbench.store.rows import COLUMNS

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
    "engines/check.py": {"perplexity"},  # a probe
    "machine/doctor.py": {"memory"},  # of the machine
    "machine/cgroups.py": {"memory"},  # a controller of control groups
    "models/titans/memory_layer.py": {"memory"},  # a part of a state
    "runs/in_memory.py": {"memory"},  # where a model came from
    "cli/commands/result_commands.py": {"memory"},  # of the machine
    "models/titans/titans_config.py": {"memory"},  # a part of the model, whose work is told
    "report/foreign/lm_eval_logs.py": {"perplexity"},  # a metric of lm-eval
    "report/page/sections.py": {"memory"},  # of the machine
    "report/papers/curves.py": {"memory"},  # where a model came from
    "report/papers/numbers.py": {"perplexity"},  # a word in the names of published metrics
    "runs/executors/ray_executor.py": {"memory"},  # a resource that Ray is asked for
}

# Columns that several tasks share, by one meaning, and words of other things.
COLUMNS_ALLOWED = {
    "report/words.py": {"document"},  # whose rows are windows of it
    "report/page/pictures.py": {"phase"},  # of a roofline, as below
    "report/page/charts.py": {"phase", "filter"},  # the same; what Vega does with what is missing
    "report/page/document.py": {"recipe"},  # of a prompt
    "report/page/listings.py": {"recipe"},  # the same
    "report/page/sections.py": {"source"},  # a class of the page's style
    "report/drawing/paper_panels.py": {"position"},  # a word in the labels of axes
    "report/claims/telling.py": {"source"},  # of a claim
    "report/papers/numbers.py": {"source"},  # of a published number
    "report/papers/write.py": {"source"},  # the same
    "report/papers/curves.py": {"comparable_to_published", "not_comparable_because"},  # what a row says against it
    "report/foreign/scores.py": {"item"},  # of a benchmark that another tool ran
    "report/foreign/lm_eval_logs.py": {"acc", "acc_norm", "filter", "document"},  # words of lm-eval's own files
    "report/drawing/rooflines.py": {"phase"},  # the two whose rates are told apart by mark
    "report/notes.py": {"ceilings_busy"},  # of the ceilings that `drawing/rooflines.py` draws
    "report/statistics/stats.py": {"document", "haystack"},  # what a cluster is, where nobody says
    "cli/price.py": {"document", "num_documents"},  # what a limit chose from
    "cli/sample.py": {"recipe"},  # from which a prompt is made again
    "cli/commands/result_commands.py": {"recipe", "domain"},  # the same; of an expert
    "runs/evidence.py": {"recipe"},
    "cli/listing.py": {"domain", "weight_bytes", "source"},  # of an expert; of a checkpoint; of a paper
    "cli/as_json.py": {"state_bytes"},  # of an estimate
    "cli/commands/checkpoint_commands.py": {"num_tokens"},  # that `generate` wrote
}


def texts_of(path: Path) -> set[str]:
    """The texts among the constants of a module."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def held(path: Path) -> set[str]:
    """Names of tasks among the texts of a module, and of its imports from a task's folder."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported = {module.split(".")[2] for module in modules if module.startswith("ttbench.tasks.")}
    return (texts_of(path) | imported) & NAMES


def test_no_module_outside_tasks_holds_the_name_of_a_task() -> None:
    outside = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] != "tasks"]
    found = {str(path.relative_to(PACKAGE)): held(path) for path in outside if path.name != "registry.py"}
    assert {path: names for path, names in found.items() if names} == ALLOWED


def test_no_report_and_no_command_names_a_column_that_a_task_alone_has() -> None:
    """Its task says what a column counts and how a sample is shown: reports know the columns that all rows have."""
    own = {name for task in NAMES for name in TASKS.load(task).columns or {}} - set(COLUMNS) - set(HEAD) - set(TAIL)
    paths = [*(PACKAGE / "report").rglob("*.py"), *(PACKAGE / "cli").rglob("*.py"), PACKAGE / "runs" / "evidence.py"]
    found = {str(path.relative_to(PACKAGE)): texts_of(path) & own for path in paths}
    assert {path: names for path, names in found.items() if names} == COLUMNS_ALLOWED
