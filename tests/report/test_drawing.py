"""Figures of any names, on any installation: what cannot be drawn costs itself alone."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rows import TTT, make_rows, perplexity_rows

from ttbench.report import published as results
from ttbench.report import words
from ttbench.report.drawing import figures, fonts
from ttbench.report.drawing.canvas import style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.table import summarise


def named(name: str) -> pd.DataFrame:
    return summarise(make_rows(perplexity_rows([dataclasses.replace(TTT, name=name)], (512, 2048), num_documents=3)))


def drawn_texts(table: pd.DataFrame) -> list[str]:
    entries = [entry for entry in words.records(table) if entry["metric"] == "bits_per_byte"]
    with style():
        canvas = draw_curves("t", entries, beneath=[], names=list(table["checkpoint"]), log_y=False)
        canvas.draw_without_rendering()
        return [text.get_text() for axes in canvas.axes for text in axes.texts if text.get_window_extent().width]


@pytest.mark.parametrize("name", ["$x$", "a$b", r"$\frac{", r"$\frac$", "_hidden", "50%_{x}"])
def test_names_are_text_and_no_formulas(name: str) -> None:
    assert name in drawn_texts(named(name))


def test_every_point_of_a_line_is_in_the_file_and_nothing_frames_the_axes() -> None:
    buffer = io.BytesIO()
    with style():
        canvas = Figure()
        axes = canvas.subplots()
        # so nearly straight that a file of fewer points would look alike
        axes.plot(range(1000), [place + 1e-4 * (place % 2) for place in range(1000)], gid="nearly-straight")
        canvas.savefig(buffer, format="svg")
    _, _, line = buffer.getvalue().decode().partition('id="nearly-straight"')
    assert line.partition("</g>")[0].count("L ") == 999
    assert [name for name, spine in axes.spines.items() if spine.get_visible()] == ["left", "bottom"]


def test_a_notebook_s_backend_that_is_not_installed_changes_nothing() -> None:
    script = "from ttbench.report.drawing.canvas import style\nwith style(): print('styled')"
    variables = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_of_nobody"}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "styled\n"


def test_letters_that_no_font_has_are_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda preferred: iter([]))
    told: list[str] = []
    table = named("模型")
    (figure, *_) = figures.available(table)
    assert figures.draw(figure, table, tmp_path, warn=told.append)
    assert told == ["no installed font has 型模: boxes stand for these letters in bits_per_byte"]


def test_families_are_our_own_then_those_that_have_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"own": "ab", "z.ttf": "xy", "m.ttf": "xz", "n.ttf": "q"}
    monkeypatch.setattr(fonts.font_manager, "findfont", lambda name: "own")
    monkeypatch.setattr(fonts, "_letters", lambda path: set(held[path]))
    monkeypatch.setattr(fonts, "_installed", lambda preferred: iter([("Z", "z.ttf"), ("M", "m.ttf"), ("N", "n.ttf")]))
    assert fonts.families(["abba"], preferred=[]) == (["DejaVu Sans"], "")
    assert fonts.families(["ax"], preferred=[]) == (["DejaVu Sans", "Z"], "")
    assert fonts.families(["xz?\n"], preferred=[]) == (["DejaVu Sans", "Z", "M"], "?")


def test_the_user_s_own_families_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with matplotlib.rc_context({"font.family": ["Some Face", "serif"], "font.serif": ["First", "Second"]}):
        assert fonts.users_families() == ["Some Face", "First", "Second"]
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", list)
    (first, *_) = fonts._installed(["No Such Face", "DejaVu Serif"])
    assert first[0] == "DejaVu Serif"


def test_a_figure_that_cannot_be_drawn_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(figures, "draw_curves", broken)
    told: list[str] = []
    files = results.write_derived(named("a"), tmp_path, warn=told.append)
    assert [path.name for path in files] == ["table.csv"]
    assert told == ["figure bits_per_byte cannot be drawn: RuntimeError: no font; the tables are complete"]
    with pytest.raises(RuntimeError):
        results.write_derived(named("a"), tmp_path)
