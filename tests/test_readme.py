"""What the documents tell a reader to type exists, and what they link to is there."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import ttbench
from ttbench.cli.app import app
from ttbench.cli.listing import zoo_folders
from ttbench.registry import CORPORA, TASKS
from ttbench.runs.suite import parse_ctx, runnable_suites
from ttbench.runs.sweep import run_task

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GOALS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
# tasks that a page makes
PLUGGED = re.findall(r'ttbench\.tasks"\]\n(\w+) = ', (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8"))
PLACEHOLDERS = {"DIR", "RUN", "CHECKPOINT", "A", "B", "CELL", "MODEL"}


def blocks(document: Path, language: str) -> list[str]:
    """Fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)


def commands(program: str) -> list[Any]:
    """Every line in a shell block that begins with `program`, once."""
    found = {}
    for document in DOCUMENTS:
        for block in blocks(document, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                # where the shell sends the output is not the command's
                words = words[: words.index(">")] if ">" in words else words
                if words and words[0] == program:
                    found.setdefault(shlex.join(words), pytest.param(words[1:], id=shlex.join(words)))
    return list(found.values())


@pytest.mark.parametrize("words", commands("ttbench"))
def test_the_commands_in_the_documents_are_accepted(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    name, *rest = words
    assert name in group.commands
    # Parsed in full, not run: an unknown option or a missing argument raises.
    given = group.commands[name].make_context(name, list(rest)).params
    if name in ("run", "plan"):
        assert given["target"] in {*TASKS, *runnable_suites(), *PLUGGED}
        assert all(parse_ctx(each) for each in given["ctx"] or [])
        assert given["corpus"] is None or given["corpus"].partition(":")[0] in {*CORPORA, "text", "hf"}
        named = given["checkpoints"] or []
    else:
        named = given.get("names" if name == "compare" else "checkpoint") or []
    for checkpoint in [named] if isinstance(named, str) else named:
        known = set(zoo_folders()) | PLACEHOLDERS | {"transformer", "transformer-conv", "ttt-linear"}
        # a hub id, a folder, or the name of an architecture
        assert checkpoint in known or {"@", "/", ":"} & set(checkpoint)


@pytest.mark.parametrize("words", commands("make"))
def test_the_goals_in_the_documents_exist(words: list[str]) -> None:
    assert {word for word in words if "=" not in word} <= GOALS


def test_the_readme_leads_with_the_two_commands() -> None:
    (first, *_) = blocks(ROOT / "README.md", "sh")
    assert [line.split("#")[0].split() for line in first.splitlines()] == [["make", "bench"], ["make", "test"]]


def test_the_python_in_the_readme_is_the_interface() -> None:
    (block,) = blocks(ROOT / "README.md", "python")
    calls = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        assert call.func.attr in ttbench.__all__
        function = run_task if call.func.attr == "run" else ttbench.load
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        inspect.signature(function).bind(*call.args, **keywords)
    assert len(calls) == 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (document.parent / target).exists(), target


def test_every_decision_is_in_the_index_under_its_own_number() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [name[:4] for name in pages] == sorted({name[:4] for name in pages}), "a number is given twice"
    for name in pages:
        assert index.count(f"[{name[:4]}]({name})") == 1
        assert (folder / name).read_text(encoding="utf-8").startswith(f"# {name[:4]}. ")


def test_every_command_and_every_goal_is_in_a_document() -> None:
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "start.md")
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    group: Any = typer.main.get_command(app)
    assert [name for name in group.commands if f"ttbench {name}" not in text] == []
    assert {"bench", "test", "setup", "check", "docs", "format", "help"} <= set(re.findall(r"make ([a-z]+)", text))


def test_the_readme_is_for_the_first_five_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
