"""Tables in terminals of every width: no number loses a digit or its unit."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

import pytest

from ttbench.cli import console
from ttbench.cli.console import Column
from ttbench.cli.widths import wrap

COLUMNS = [Column("name"), Column("by", wrap=True), Column("params", numeric=True), Column("time", numeric=True)]
ROWS = [
    (
        "ttt-linear-125m-books-2k-finetuned-on-code-v3",
        "the authors, in 1,048,576 steps at 1e-5",
        "1.04 M",
        "3 min 20 s",
    ),
    ("模型", "somebody", "178 KiB", None),
]


def printed(width: int, monkeypatch: pytest.MonkeyPatch, **options: bool) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    buffer = io.StringIO()
    with redirect_stdout(buffer):
        console.print_table(ROWS, COLUMNS, title="what is here", caption="-: not known", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("width", [1, 7, 20, 24, 30, 40, 50, 60, 80, 100, 200])
def test_every_number_stands_whole_on_one_line(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(width, monkeypatch).splitlines()
    for number in ("1,048,576", "1e-5", "1.04 M", "178 KiB", "3 min 20 s"):
        assert any(re.search(rf"(?<![\d,.]){re.escape(number)}(?![\d,.])", line) for line in lines), (width, number)


@pytest.mark.parametrize("width", [1, 24, 40, 60, 80])
def test_no_letter_is_lost(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(width, monkeypatch)
    joined = sorted(text.replace("\n", "").replace(" ", ""))
    whole = sorted(printed(200, monkeypatch).replace("\n", "").replace(" ", ""))
    # a row printed by itself says its heads again
    assert all(joined.count(letter) >= whole.count(letter) for letter in set(whole))


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100])
def test_lines_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.cells import cell_len

    assert max(cell_len(line.rstrip()) for line in printed(width, monkeypatch).splitlines()) <= width


def test_a_wide_terminal_has_one_line_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(printed(140, monkeypatch).splitlines()) == 1 + 1 + len(ROWS) + 1


def test_text_is_broken_between_its_pieces_and_never_inside_a_number() -> None:
    assert wrap("transformer-conv", 12) == ["transformer-", "conv"]
    assert wrap("at 1e-5 or 0.125, 1,048,576", 8) == ["at 1e-5", "or", "0.125,", "1,048,576"]
    assert wrap("a" * 60, 10) == ["a" * 24, "a" * 24, "a" * 12]
    assert wrap("one\ntwo", 10) == ["one", "two"]
