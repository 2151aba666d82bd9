"""Figures are files with the same bytes each time, and show what the summary holds."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from rows import TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.report import words
from ttbench.report.drawing import figures
from ttbench.report.drawing.canvas import COLOURS, GREYS, style
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.table import summarise
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[3]
CONTEXTS = (512, 2048, 8192)
BROKEN = dataclasses.replace(TTT, failures={8192: ("too_short", "no document")})


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    models = [TRANSFORMER, BROKEN]
    return summarise(
        make_rows(
            perplexity_rows(models, CONTEXTS, num_documents=12, windows=1),
            needle_rows(models, CONTEXTS, num_haystacks=6),
            timing_rows(models, CONTEXTS, num_rounds=3, repeats=1),
        )
    )


def entries_of(table: pd.DataFrame, metric: str) -> list[words.Record]:
    return [entry for entry in words.records(table) if entry["metric"] == metric]


def test_figures_are_named_once_and_have_files_of_their_own() -> None:
    assert len({figure.name for figure in figures.FIGURES}) == len(figures.FIGURES)


def test_only_figures_with_numbers_are_available(table: pd.DataFrame) -> None:
    assert [figure.name for figure in figures.available(table)] == [
        "bits_per_byte",
        "needle",
        "needle_by_depth",
        "prefill",
        "state",
    ]
    single = summarise(make_rows(perplexity_rows([TTT], [512], num_documents=3)))
    assert figures.available(single) == ()


@pytest.mark.parametrize("name", ["bits_per_byte", "needle_by_depth"])
def test_a_figure_has_the_same_bytes_each_time_and_the_width_of_a_readme(
    table: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    figure = next(figure for figure in figures.FIGURES if figure.name == name)
    before = dict(matplotlib.rcParams)
    first = [path.read_bytes() for path in figures.draw(figure, table, tmp_path)]
    second = [path.read_bytes() for path in figures.draw(figure, table, tmp_path)]
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert imread(tmp_path / f"{name}.png").shape[1] == 1260
    svg = first[1].decode()
    assert "<dc:date>" not in svg
    assert len(first[0]) < 300_000


def test_a_curve_is_solid_as_far_as_it_was_trained_and_dashed_beyond(table: pd.DataFrame) -> None:
    with style():
        canvas = draw_curves(
            "t",
            entries_of(table, "bits_per_byte"),
            beneath=[entries_of(table, "bzip2_bits_per_byte")],
            names=["transformer", "ttt-linear"],
            log_y=False,
        )
    axes = canvas.axes[0]
    mine = [line for line in axes.lines if line.get_color() == COLOURS[0]]
    solid, dashed = mine[0], mine[1]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert np.asarray(solid.get_xdata()).tolist() == [512, 2048]
    assert np.asarray(dashed.get_xdata()).tolist() == [2048, 8192]
    tick = next(line for line in mine if line.get_marker() == "|")
    assert np.asarray(tick.get_xdata()).tolist() == [2048]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["512", "2k", "8k"]
    texts = [text.get_text() for text in axes.texts]
    assert {"transformer", "ttt-linear", "bzip2 -9", "too short"} <= set(texts)


def test_corpora_have_figures_of_their_own_with_their_own_references(tmp_path: Path) -> None:
    table = summarise(read_rows(ROOT / "results" / "genomics" / "cpu" / "rows.parquet"))
    (figure,) = figures.available(table)
    drawn = figures.draw(figure, table, tmp_path)
    assert [path.name for path in drawn if path.suffix == ".png"] == [
        "bits_per_base_genomes.png",
        "bits_per_base_genomes-strain.png",
    ]
    with style():
        canvas = draw_curves(
            "t",
            entries_of(table, "bits_per_base"),
            beneath=[entries_of(table, "markov_bits_per_base")],
            names=["dna-transformer", "dna-ttt-linear"],
            log_y=False,
        )
        canvas.draw_without_rendering()
    axes = canvas.axes[0]
    grey = [line for line in axes.lines if line.get_color() in GREYS and len(np.asarray(line.get_xdata())) > 2]
    assert len(grey) == 2
    assert all((np.diff(np.asarray(line.get_xdata())) > 0).all() for line in grey)
    # names too long to stand beside the lines stand beneath them, and none leaves the picture
    texts = [text for axes in canvas.axes for text in axes.texts]
    assert {"Markov, order 12 corpus genomes", "dna-ttt-linear corpus genomes-strain"} <= {
        text.get_text() for text in texts
    }
    assert max(text.get_window_extent().x1 for text in texts) <= canvas.bbox.x1


def test_names_at_the_ends_of_lines_never_touch() -> None:
    models = [Model(name=f"model-{index}", bits=1.5 + index / 1000) for index in range(6)]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=10, windows=1, noise=0.0)))
    with style():
        canvas = draw_curves(
            "t",
            entries_of(table, "bits_per_byte"),
            beneath=[],
            names=[model.name for model in models],
            log_y=False,
        )
        canvas.draw_without_rendering()
    boxes = sorted(
        (text.get_window_extent() for text in canvas.axes[0].texts if text.get_text().startswith("model-")),
        key=lambda box: box.y0,
    )
    assert len(boxes) == 6
    assert all(upper.y0 >= lower.y1 - 2 for lower, upper in itertools.pairwise(boxes))
    assert all(box.x1 <= canvas.bbox.x1 for box in boxes)


def test_a_heat_map_has_a_panel_per_checkpoint_and_a_number_or_a_status_everywhere(table: pd.DataFrame) -> None:
    with style():
        canvas = draw_heatmap("t", entries_of(table, "retrieval_by_depth"), x_axis="context_len", y_axis="depth")
    assert [axes.get_title() for axes in canvas.axes] == ["transformer", "ttt-linear"]
    whole, broken = ([text.get_text() for text in axes.texts] for axes in canvas.axes)
    # a number and its interval in each cell
    assert len(whole) == 2 * 15
    assert whole[:2] == ["83", "44-97"]
    assert "too short" in broken
    assert len(broken) == 2 * 10 + 1


def test_a_heat_map_of_other_axes_has_a_panel_for_each_place_on_the_third() -> None:
    table = summarise(read_rows(ROOT / "results" / "adapt" / "cpu" / "rows.parquet"))
    entries = entries_of(table, "dispatch")
    with style():
        canvas = draw_heatmap("t", entries, x_axis="sent_to", y_axis="domain")
    domains = ["code", "dna", "other", "prose", "recall"]
    assert [axes.get_title() for axes in canvas.axes] == ["transformer classifier", "transformer prompt"]
    for axes in canvas.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == domains
        numbers = [text.get_text() for text in axes.texts][::2]
        by_domain = [sum(map(int, numbers[at : at + 5])) for at in range(0, 25, 5)]
        assert all(98 <= total <= 101 for total in by_domain)  # rounded shares of one domain's prompts
        assert not axes.lines  # no training context on this axis
    assert [label.get_text() for label in canvas.axes[0].get_yticklabels()] == domains
