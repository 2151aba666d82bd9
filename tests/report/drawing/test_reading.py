"""What a reader takes from a figure: values, ends of training, who is who; and what is told in words instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from rows import TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.report import words
from ttbench.report.drawing import figures
from ttbench.report.drawing.canvas import COLUMN, PAGE, Layout, style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.drawing.marks import log_ticks
from ttbench.report.drawing.overview import draw_overview
from ttbench.report.overview import overview
from ttbench.report.table import summarise
from ttbench.store.rows import read_rows

RESULTS = Path(__file__).parents[3] / "results"
CONTEXTS = (512, 8192)  # both models were trained for 2048
BROKEN = dataclasses.replace(TTT, failures={8192: ("too_long", "no room")})


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    models = [TRANSFORMER, TTT]
    quality = perplexity_rows(models, CONTEXTS, num_documents=12, windows=1)
    return summarise(make_rows(quality, timing_rows(models, CONTEXTS, num_rounds=3, repeats=1)))


def entries_of(table: pd.DataFrame, metric: str) -> list[words.Record]:
    return [entry for entry in words.records(table) if entry["metric"] == metric]


def curves(entries: list[Any], *, log_y: bool = False, layout: Layout = PAGE) -> Canvas:
    names = list(dict.fromkeys(entry["checkpoint"] for entry in entries))
    with style():
        canvas = draw_curves("t", entries, beneath=[], names=names, log_y=log_y, layout=layout)
        canvas.draw_without_rendering()
    return canvas


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 2000, [0.1, 1, 10, 100, 1000]), (1.4, 5.5, [1.5, 2, 3, 5]), (24, 27, [24, 24.5, 25, 25.5, 26, 26.5, 27])],
)
def test_a_logarithmic_axis_has_at_least_four_round_ticks(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == expected


def test_logarithmic_axes_say_that_they_are(table: pd.DataFrame) -> None:
    axes = curves(entries_of(table, "prefill_s"), log_y=True).axes[0]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 4
    assert axes.get_xlabel() == "context, tokens (log scale)"
    assert any(text.get_text().endswith("(log scale)") for text in axes.texts)


def test_a_timing_has_a_tick_and_whiskers_at_every_context_and_its_last_value_in_digits(table: pd.DataFrame) -> None:
    entries = entries_of(table, "prefill_s")
    axes = curves(entries, log_y=True).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["512", "8k"]
    assert not [band for band in axes.collections if "FillBetween" in type(band).__name__]
    ends = sorted(end for path in axes.collections for segment in _segments(path) for end in segment)
    scale = words.of_metric(entries)
    assert ends == pytest.approx(sorted(entry[end] / scale.size for entry in entries for end in ("low", "high")))
    last = {scale.text(entry["value"]) for entry in entries if entry["context_len"] == 8192}
    assert last <= {text.get_text() for text in axes.texts}


def _segments(path: Any) -> list[list[float]]:
    return [[point[1] for point in line] for line in path.get_segments()] if hasattr(path, "get_segments") else []


def test_the_end_of_the_training_context_stands_on_the_line_which_is_dashed_from_there(table: pd.DataFrame) -> None:
    entries = [entry for entry in entries_of(table, "prefill_s") if entry["checkpoint"] == "transformer"]
    axes = curves(entries, log_y=True).axes[0]
    (tick,) = (line for line in axes.lines if line.get_marker() == "|")
    size = words.of_metric(entries).size
    first, last = (entry["value"] / size for entry in entries)
    # 2048 is halfway between 512 and 8192 on a logarithmic axis, and so is the mean of logarithms
    assert np.asarray(tick.get_xdata()).tolist() == [2048]
    assert np.asarray(tick.get_ydata()).tolist() == pytest.approx([(first * last) ** 0.5])
    solid, dashed = axes.lines[:2]
    assert (solid.get_linestyle(), np.asarray(solid.get_xdata()).tolist()) == ("-", [512, 2048])
    assert (dashed.get_linestyle(), np.asarray(dashed.get_xdata()).tolist()) == ("--", [2048, 8192])


def test_nothing_runs_on_beyond_the_last_number_of_a_line() -> None:
    table = summarise(make_rows(perplexity_rows([TRANSFORMER, BROKEN], (512, 2048, 8192), num_documents=3, windows=1)))
    axes = curves(entries_of(table, "bits_per_byte")).axes[0]
    names = {text.get_text(): text.get_color() for text in axes.texts}
    broken = [
        line
        for line in axes.lines
        if line.get_color() == names["ttt-linear"] and line.get_transform() == axes.transData and len(line.get_xdata())  # pyright: ignore[reportArgumentType]
    ]
    assert max(np.asarray(line.get_xdata()).max() for line in broken) == 2048


@pytest.mark.parametrize(("number", "panels"), [(3, None), (4, 4)])
def test_lines_in_each_others_intervals_are_a_table_of_three_and_panels_of_more(
    number: int, panels: int | None, tmp_path: Path
) -> None:
    models = [Model(name=f"model-{index}", bits=2 + index / 1000) for index in range(number)]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=12, windows=1)))
    told = [text for text in figures.not_drawn(table) if text.startswith("**Bits per byte against context.**")]
    assert len(told) == (panels is None)
    assert ("bits_per_byte" in {figure.name for figure in figures.available(table)}) == (panels is not None)
    if panels is not None:
        assert len(curves(entries_of(table, "bits_per_byte")).axes) == panels


@pytest.mark.parametrize(("number", "panels"), [(6, 1), (7, 7)])
def test_no_colour_stands_for_two_models_and_more_than_six_have_panels(number: int, panels: int) -> None:
    models = [Model(name=f"model-{index}", bits=1.5 + index) for index in range(number)]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=3, windows=1)))
    canvas = curves(entries_of(table, "bits_per_byte"))
    assert len(canvas.axes) == panels
    if panels == 1:
        named = [text for text in canvas.axes[0].texts if text.get_text().startswith("model-")]
        assert len({text.get_color() for text in named}) == number
    else:
        titles = [axes.get_title(loc="left").partition(":")[0] for axes in canvas.axes]
        assert titles == [model.name for model in models]
        assert len({axes.get_ylim() for axes in canvas.axes}) == 1


def test_a_column_is_three_and_a_quarter_inches_with_letters_that_can_be_read(table: pd.DataFrame) -> None:
    seven = [Model(name=f"a-long-name/of-model-{index}", bits=1.5 + index) for index in range(7)]
    many = summarise(make_rows(perplexity_rows(seven, [512, 1024, 2048], num_documents=3, windows=1)))
    needles = summarise(make_rows(needle_rows([TRANSFORMER, TTT], CONTEXTS, num_haystacks=4)))
    found = overview(words.records(table), figures.headlines(table))
    assert found is not None
    drawn = [
        curves(entries_of(table, "bits_per_byte"), layout=COLUMN),
        curves(entries_of(table, "prefill_s"), log_y=True, layout=COLUMN),
        curves(entries_of(many, "bits_per_byte")[:9], layout=COLUMN),
        curves(entries_of(many, "bits_per_byte"), layout=COLUMN),
    ]
    with style():
        by_depth = entries_of(needles, "retrieval_by_depth")
        drawn.append(draw_heatmap("t", by_depth, x_axis="context_len", y_axis="depth", layout=COLUMN))
        drawn.append(draw_overview(found, layout=COLUMN))
        for canvas in drawn:
            canvas.draw_without_rendering()
            assert canvas.get_size_inches()[0] == 3.25
            texts = [*canvas.texts, *(text for axes in canvas.axes for text in axes.texts)]
            texts += [label for axes in canvas.axes if axes.axison for label in axes.get_yticklabels()]
            texts = [text for text in texts if text.get_text()]
            assert min(text.get_fontsize() for text in texts) >= 6
            for text in texts:
                box = text.get_window_extent()
                assert canvas.bbox.x0 - 1 <= box.x0, text.get_text()
                assert box.x1 <= canvas.bbox.x1 + 1, text.get_text()


def test_text_is_text_in_svg_and_pdf_has_fonts_that_publishers_take_and_no_date(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    figure = next(figure for figure in figures.declared(table) if figure.name == "prefill")
    drawn = figures.draw(figure, table, tmp_path)
    assert [path.name for path in drawn] == ["prefill.png", "prefill.svg", "prefill.pdf", "prefill_column.pdf"]
    assert ">ttt-linear</text>" in (tmp_path / "prefill.svg").read_text()
    first = (tmp_path / "prefill.pdf").read_bytes()
    assert b"CreationDate" not in first
    assert b"/Type3" not in first
    figures.draw(figure, table, tmp_path)
    assert (tmp_path / "prefill.pdf").read_bytes() == first
    assert figures.same_streams(tmp_path / "prefill.pdf", tmp_path / "prefill.pdf")
    assert not figures.same_streams(tmp_path / "prefill.pdf", tmp_path / "prefill_column.pdf")


def test_zeros_are_a_sentence_and_no_figure() -> None:
    rows = make_rows(needle_rows([TRANSFORMER, TTT], [512, 1024], num_haystacks=12))
    rows["hits"] = 0.0
    table = summarise(rows)
    assert not {"needle", "needle_by_depth"} & {figure.name for figure in figures.available(table)}
    told = [text for text in figures.not_drawn(table) if text.startswith("**Needles retrieved against context.**")]
    assert len(told) == 1
    assert "At 512, 1k tokens" in told[0]
    assert "0% everywhere, for transformer, ttt-linear; the 95% intervals end at " in told[0]


def test_a_heat_map_of_one_column_is_a_sentence() -> None:
    table = summarise(make_rows(needle_rows([TRANSFORMER], [512], num_haystacks=4)))
    (entry, *_) = entries_of(table, "retrieval_by_depth")
    assert "needle_by_depth" not in {figure.name for figure in figures.available(table)}
    (told,) = (text for text in figures.not_drawn(table) if text.startswith("**Needles retrieved, by context"))
    depths = [words.plain(each["depth"]) for each in entries_of(table, "retrieval_by_depth")]
    assert f"by depth {', '.join(depths)}: transformer {round(entry['value'] * 100)}, " in told


@pytest.mark.parametrize(("apart", "drawn"), [(0.0, False), (5.0, True)])
def test_three_models_that_cannot_be_told_apart_are_a_table(apart: float, drawn: bool) -> None:
    models = [Model(name=f"model-{index}", bits=2 + apart * index) for index in range(3)]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=12, windows=1)))
    assert ("bits_per_byte" in {figure.name for figure in figures.available(table)}) is drawn
    told = "".join(figures.not_drawn(table))
    assert ("| bits per byte | 512 | 1k |\n| --- | ---: | ---: |\n| model-0 | " in told) is not drawn


def test_the_memory_figure_draws_what_reading_takes_above_the_loaded_model() -> None:
    table = summarise(read_rows(RESULTS / "memory" / "cpu" / "rows.parquet"))
    (figure,) = (figure for figure in figures.available(table) if figure.name == "working_memory")
    (label,) = {entry["label"] for entry in entries_of(table, figure.metric)}
    assert label == "reading, above the loaded model"


def test_the_overview_has_a_row_per_model_with_quality_inside_training_and_timings_at_the_longest() -> None:
    models = [TRANSFORMER, TTT]
    quality = perplexity_rows(models, (512, 2048, 8192), num_documents=12, windows=1)
    table = summarise(make_rows(quality, timing_rows(models, CONTEXTS, num_rounds=3, repeats=1)))
    found = overview(words.records(table), figures.headlines(table))
    assert found is not None
    assert found.rows == ("transformer", "ttt-linear")
    assert {column.label: column.context_len for column in found.columns} == {
        "bits per byte": 2048,
        "prefill": 8192,
        "state in use": 8192,
    }
    bits = next(column for column in found.columns if column.label == "bits per byte")
    (expected,) = (
        entry
        for entry in entries_of(table, "bits_per_byte")
        if (entry["checkpoint"], entry["context_len"]) == ("ttt-linear", 2048)
    )
    assert bits.cells["ttt-linear"] == expected
    assert expected["low"] is not None
    assert overview(words.records(table.iloc[:0]), figures.headlines(table)) is None


def test_a_heat_map_with_one_number_at_each_context_is_a_sentence() -> None:
    table = summarise(read_rows(RESULTS / "recall" / "cpu" / "rows.parquet"))
    assert {figure.name for figure in figures.available(table)} == {"mqar", "copy"}
    (told,) = figures.not_drawn(table)
    # as table.csv has them
    found = [entry for entry in entries_of(table, "mqar_by_pairs") if entry["checkpoint"] == "transformer-conv"]
    percents = ", ".join(f"{100 * entry['value']:.0f}" for entry in sorted(found, key=lambda each: each["context_len"]))
    assert "by pairs 2, 4, 8, 16, 32: " in told
    assert f"transformer-conv {percents}%; " in told
