"""A roofline shows arithmetic over FLOP per byte, as the rows say, beneath ceilings that are the machine's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.image import imread

from ttbench.report import words
from ttbench.report.drawing import figures, rooflines
from ttbench.report.drawing.canvas import COLUMN, PAGE, style
from ttbench.report.drawing.rooflines import Roof, draw_roofline, points_of, roofs_of
from ttbench.report.table import render, summarise
from ttbench.tasks.latency import Latency

READ, PRODUCT = 1e10, 1e11  # ceilings: bytes/s and FLOP/s
# FLOP and bytes of a call, by phase; seconds of a call by context
NEEDS = {"prefill": (5e9, 1e7), "decode": (2e6, 1e6)}
SECONDS = {"prefill": {512: 0.1, 2048: 0.2}, "decode": {512: 4e-4, 2048: 5e-4}}


def rows_of(*, checkpoints: tuple[str, ...] = ("ttt-linear",), dtypes: tuple[str, ...] = ("float32",)) -> pd.DataFrame:
    """Rows of latency whose place in the roofline is known."""
    found: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        for dtype in dtypes:
            for phase, (flops, num_bytes) in NEEDS.items():
                for context_len, seconds in SECONDS[phase].items():
                    for round_ in range(3):
                        found.append(
                            {
                                "task": "latency",
                                "checkpoint": checkpoint,
                                "cell_id": f"{checkpoint}{dtype}{context_len}{round_}",
                                "sample": len(found),
                                "context_len": context_len,
                                "round": round_,
                                "status": "ok",
                                "phase": phase,
                                "call_s": seconds,
                                "call_flops": flops,
                                "call_bytes": num_bytes,
                                "ceiling_s": max(flops / PRODUCT, num_bytes / READ),
                                "ceiling_flops_per_s": PRODUCT * (2 if dtype == "bfloat16" else 1),
                                "ceiling_bytes_per_s": READ,
                                "corpus": None,
                                "dtype": dtype,
                                "device": "cpu",
                                "threads": 2,
                                "machine": "m",
                                "software": "s",
                                "batch_size": 1,
                                "engine": "eager",
                                "train_ctx": 2048,
                                "extrapolated": False,
                                "reason": None,
                            }
                        )
    rows = pd.DataFrame(found)
    rows.attrs["metrics"] = {"latency": [metric.to_json() for metric in Latency.metrics]}
    rows.attrs["figures"] = {"latency": [figure.to_json() for figure in Latency.figures or ()]}
    return rows


def entries(table: pd.DataFrame, metric: str) -> list[words.Record]:
    return [entry for entry in words.records(table) if entry["metric"] == metric]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return summarise(rows_of())


def test_the_table_tells_the_share_of_the_ceiling_by_phase(table: pd.DataFrame) -> None:
    shares = {(e["context_len"], e["phase"]): e["value"] for e in entries(table, "of_ceiling")}
    # 5e9 FLOP are 50 ms, 1e6 bytes 100 us
    assert shares == {
        (512, "prefill"): pytest.approx(50.0),
        (2048, "prefill"): pytest.approx(25.0),
        (512, "decode"): pytest.approx(25.0),
        (2048, "decode"): pytest.approx(20.0),
    }
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(table))
    said = console.export_text()
    assert "share of the machine's ceiling, by phase (%)" in said
    assert "50.0 GFLOP/s" in said or "GFLOP/s" in said


def test_a_point_lies_at_flop_per_byte_and_flop_per_second(table: pd.DataFrame) -> None:
    points = points_of(entries(table, "flops_per_s"), entries(table, "bytes_per_s"))
    found = {(p.entry["phase"], p.entry["context_len"]): (p.intensity, p.rate) for p in points}
    assert found["prefill", 512] == (pytest.approx(500.0), pytest.approx(5e10))
    assert found["decode", 2048] == (pytest.approx(2.0), pytest.approx(4e9))
    assert len(found) == 4


def test_the_ceiling_is_a_slope_up_to_its_ridge() -> None:
    roof = Roof(name="", bytes_per_s=READ, flops_per_s=PRODUCT)
    assert roof.ridge == 10.0
    assert [roof.at(x) for x in (1.0, 10.0, 1000.0)] == [1e10, 1e11, 1e11]


def test_each_dtype_has_a_ceiling_of_its_own() -> None:
    table = summarise(rows_of(dtypes=("float32", "bfloat16")))
    roofs = roofs_of(entries(table, "ceiling_bytes_per_s"), entries(table, "ceiling_flops_per_s"))
    found = {roof.name: roof.flops_per_s for roof in roofs}
    assert found == {"float32": pytest.approx(PRODUCT), "bfloat16": pytest.approx(2 * PRODUCT)}


def drawn(table: pd.DataFrame, layout: Any) -> Any:
    with style():
        return draw_roofline(
            "Roofline",
            entries(table, "flops_per_s"),
            moved=entries(table, "bytes_per_s"),
            memory=entries(table, "ceiling_bytes_per_s"),
            arithmetic=entries(table, "ceiling_flops_per_s"),
            names=sorted({entry["checkpoint"] for entry in words.records(table)}),
            layout=layout,
        )


@pytest.mark.parametrize("layout", [PAGE, COLUMN], ids=["page", "column"])
def test_points_ceilings_and_names_are_drawn(table: pd.DataFrame, layout: Any) -> None:
    canvas = drawn(table, layout)
    axes = canvas.axes[0]
    lines = [line.get_xydata().tolist() for line in axes.get_lines()]
    # in GFLOP/s: the ceiling bends at 10 FLOP per byte
    assert any([pytest.approx(10.0), pytest.approx(100.0)] == point for line in lines for point in line)
    assert [[pytest.approx(2.0), pytest.approx(5.0)], [pytest.approx(2.0), pytest.approx(4.0)]] in lines
    texts = [text.get_text() for part in canvas.axes for text in part.texts]
    assert "ttt-linear" in texts
    assert any(text.startswith("ceiling: 9.31 GiB/s, 100") for text in texts), texts
    low, high = axes.get_ylim()
    assert low < 4.0
    assert high > 100.0


def test_the_figure_of_the_task_is_drawn_with_the_others(table: pd.DataFrame, tmp_path: Path) -> None:
    assert "roofline" in [figure.name for figure in figures.available(table)]
    figure = next(figure for figure in figures.declared(table) if figure.name == "roofline")
    first = [path.read_bytes() for path in figures.draw(figure, table, tmp_path)]
    assert first == [path.read_bytes() for path in figures.draw(figure, table, tmp_path)]
    assert imread(tmp_path / "roofline.png").shape[1] == 1260


def test_without_ceilings_or_formulas_nothing_is_drawn() -> None:
    rows = rows_of()
    rows[["call_flops", "call_bytes", "ceiling_s"]] = None
    table = summarise(rows)
    assert "roofline" not in [figure.name for figure in figures.available(table)]
    assert not [text for text in figures.not_drawn(table) if "ceilings" in text]
    assert list(rooflines.drawable(entries(table, "flops_per_s"))) == []
