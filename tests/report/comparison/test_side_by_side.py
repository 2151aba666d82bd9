"""Nothing of a comparison is lost in a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ttbench.report.comparison.side_by_side import SideBySide

HEAD = ["", "transformer-conv", "ttt-linear", "effect (95% interval)", "better"]
ROWS = [
    ["512 depth 0.75", "50", "100", "-50 points (-81 to 0)", "not shown"],
    ["8k* depth 1", "1,862", "178", "0 points (-39 to 39)", "transformer-conv"],
]


def lines_at(width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(SideBySide(HEAD, ROWS))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [70, 79, 80, 81, 88, 120])
def test_every_cell_stands_whole_at_any_width(width: int) -> None:
    lines = lines_at(width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    for row in ROWS:
        assert all(cell in text for cell in row)
    assert "".join("".join(lines).split()).count("conv") == 2


def test_with_room_enough_a_row_is_a_line() -> None:
    head, *rows = lines_at(120)
    assert head.split() == " ".join(HEAD).split()
    assert [row.split() for row in rows] == [" ".join(row).split() for row in ROWS]


def test_heads_break_before_the_last_column_moves() -> None:
    assert [len(lines_at(width)) for width in (120, 84, 70)] == [3, 4, 6]
    assert "better: transformer-conv" in "\n".join(lines_at(70))
    # beneath the second column: two before the first, which is as wide as `512 depth 0.75`, and two between
    assert [line.index("better:") for line in lines_at(70) if "better:" in line] == [2 + 14 + 2] * 2
