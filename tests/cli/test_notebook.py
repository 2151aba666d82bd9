"""The display of a run in a notebook, with a stand-in for IPython's `display`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import ttbench
from ttbench.cli.console import NotebookDisplay, display_here
from ttbench.runs.sweep import run_cells


class Shown:
    """What a notebook was given to show, as text and as HTML, each time."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.pages: list[str] = []

    def __call__(self, what: Any, *, display_id: bool) -> Shown:
        assert display_id
        self.update(what)
        return self

    def update(self, what: Any) -> None:
        self.texts.append(repr(what))
        self.pages.append(what._repr_html_())


def test_cells_are_counted_and_those_without_a_number_are_told(fakes: ModuleType, tmp_path: Path) -> None:
    plan, shown = fakes.mixed_plan(), Shown()
    run_cells(plan, out=tmp_path, progress=NotebookDisplay(shown))
    num_cells = len(plan.cells)
    assert shown.texts[0] == f"0/{num_cells} cells  starting"
    assert shown.texts[1].startswith(f"0/{num_cells} cells  {plan.cells[0].task}  {plan.cells[0].checkpoint.name}")
    assert shown.texts[-1] == f"{num_cells} cells: {num_cells} ok"
    assert f'<progress value="{num_cells:.3f}" max="{num_cells}">' in shown.pages[-1]
    # nothing is measured again, so there is nothing to show
    again = Shown()
    run_cells(plan, out=tmp_path, progress=NotebookDisplay(again))
    assert again.texts == []


def test_names_and_reasons_are_text(fakes: ModuleType) -> None:
    plan, shown = fakes.mixed_plan(), Shown()
    cell = plan.cells[0]
    cell = replace(cell, checkpoint=replace(cell.checkpoint, name="<b>模型 & co"))
    display = NotebookDisplay(shown)
    display.on_plan(replace(plan, cells=(cell,)), folder="runs/x", num_reused=0)
    display.on_cell_start(cell, index=1, num_cells=1, seconds_left=65.0)
    display.on_progress(cell, done=1, total=4, seconds_left=None)
    # a worker that died before its cell began
    display.on_cell_end(cell, status="killed", reason="signal <9>", seconds_left=0.0)
    display.on_cell_end(cell, status="killed", reason=None, seconds_left=0.0)
    assert "<b>模型 & co" in shown.texts[1]
    assert shown.texts[1].endswith("1 min 5 s left")
    assert "&lt;b&gt;模型 &amp; co" in shown.pages[1]
    assert 'value="0.250"' in shown.pages[2]
    assert "killed: signal <9>" in shown.texts[3]
    assert "signal &lt;9&gt;" in shown.pages[3]
    assert "<b>" not in "".join(shown.pages)


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=None)])
def test_outside_a_notebook_nothing_is_shown(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert display_here() is None
    monkeypatch.delitem(sys.modules, "IPython")
    assert display_here() is None


def test_run_shows_a_bar_in_the_kernel_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    shown = Shown()
    kernel = SimpleNamespace(
        get_ipython=lambda: SimpleNamespace(kernel=object()), display=SimpleNamespace(display=shown)
    )
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setattr("ttbench.runs.sweep.run", lambda *words, progress, **rest: given.append(progress))
    mine: Any = object()
    ttbench.run("perplexity")
    ttbench.run("perplexity", progress=mine)
    assert isinstance(given[0], NotebookDisplay)
    assert given[1] is mine
