"""Figures are files with the same bytes each time, and show what the summary holds."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from matplotlib.text import Text
from rows import TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.registry import TASKS
from ttbench.report import words
from ttbench.report.drawing import figures
from ttbench.report.drawing.canvas import COLOURS, COLUMN, GREYS, PAGE, Layout, new_sheet, style, subtitle
from ttbench.report.drawing.curves import draw_curves
from ttbench.report.drawing.heatmaps import draw_heatmap
from ttbench.report.published import rows_bytes
from ttbench.report.table import summarise
from ttbench.store.rows import read_rows
from ttbench.types import Figure

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
    names = [figure.name for task in TASKS for figure in TASKS.load(task).figures or ()]
    assert len(names) > 10
    assert len(names) == len(set(names))


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
    figure = next(figure for figure in figures.declared(table) if figure.name == name)
    before = dict(matplotlib.rcParams)
    first = [path.read_bytes() for path in figures.draw(figure, table, tmp_path)]
    second = [path.read_bytes() for path in figures.draw(figure, table, tmp_path)]
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert imread(tmp_path / f"{name}.png").shape[1] == 1260
    svg = first[1].decode()
    assert "<dc:date>" not in svg
    assert len(first[0]) < 300_000


@pytest.mark.parametrize(("layout", "second"), [(PAGE, 0.354375), (COLUMN, 0.279375)], ids=["page", "column"])
def test_title_and_settings_begin_at_the_same_place_of_a_sheet_of_any_height(
    table: pd.DataFrame, layout: Layout, second: float
) -> None:
    for body in (1.0, 6.0):
        sheet = new_sheet("t", subtitle(entries_of(table, "bits_per_byte")), [], layout=layout, body=body)
        title, settings = sheet.canvas.texts[:2]
        assert (title.get_text(), settings.get_text()[:15]) == ("t", "lower is better")
        width, height = sheet.canvas.get_size_inches()
        inches = [(text.get_position()[0] * width, (1 - text.get_position()[1]) * height) for text in (title, settings)]
        assert np.ravel(inches) == pytest.approx([0.12, 0.12, 0.12, second])


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


@pytest.mark.parametrize("share", [1, 2], ids=["all", "half"])
def test_a_reference_that_was_counted_on_a_part_of_what_was_scored_says_so(table: pd.DataFrame, share: int) -> None:
    entries = entries_of(table, "bits_per_byte")
    most = entries[0]["num_clusters"]
    counted = most // share
    reference = [{**entry, "num_clusters": counted} for entry in entries_of(table, "bzip2_bits_per_byte")]
    with style():
        canvas = draw_curves("t", entries, beneath=[reference], names=["transformer", "ttt-linear"], log_y=False)
    said = " ".join(" ".join(text.get_text() for text in canvas.texts).split())
    assert (f"bzip2 -9: {counted} of the {most} documents" in said) == (share > 1)


def test_cells_without_a_number_have_a_cross_each_below_all_numbers() -> None:
    broken = [dataclasses.replace(model, failures=BROKEN.failures) for model in (TRANSFORMER, TTT)]
    table = summarise(make_rows(perplexity_rows(broken, CONTEXTS, num_documents=12, windows=1)))
    entries = entries_of(table, "bits_per_byte")
    with style():
        canvas = draw_curves("t", entries, beneath=[], names=["transformer", "ttt-linear"], log_y=False)
    (axes,) = canvas.axes
    crosses = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if line.get_marker() == "x"]
    assert crosses == [[0.05], [pytest.approx(0.115)]]
    height = (axes.transData + axes.transAxes.inverted()).transform
    lows = [height((1, entry["low"]))[1] for entry in entries if entry["low"] is not None]
    assert 0.115 < min(lows) < 0.3
    # the second line is thinner, so that the first shows beneath it
    widths = [line.get_linewidth() for line in axes.lines if line.get_solid_capstyle() == "round"]
    assert widths == pytest.approx([2.3, 2.0])


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


def test_a_figure_of_one_corpus_has_the_references_of_that_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[set[str], list[set[str]]]] = []

    def watched(title: str, entries: Any, *, beneath: Any, **options: Any) -> Any:
        drawn.append(({e["corpus"] for e in entries}, [{e["corpus"] for e in part} for part in beneath]))
        return draw_curves(title, entries, beneath=beneath, **options)

    monkeypatch.setattr(figures, "draw_curves", watched)
    table = summarise(read_rows(ROOT / "results" / "genomics" / "cpu" / "rows.parquet"))
    (figure,) = figures.available(table)
    figures.draw(figure, table, tmp_path)
    # two bits a base, a Markov model and two compressors beneath each
    # once for a page and once for a column
    assert drawn == [({corpus}, [{corpus}] * 4) for corpus in ("genomes", "genomes-strain") for _ in range(2)]


def test_names_at_the_ends_of_lines_never_touch() -> None:
    models = [Model(name=f"model-{index}", bits=1.5 + index / 1000) for index in range(6)]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=10, windows=1, noise=0.0)))
    # without intervals, which would lie in each other, so that each line has axes of its own
    entries = [{**entry, "low": None, "high": None} for entry in entries_of(table, "bits_per_byte")]
    with style():
        canvas = draw_curves(
            "t",
            entries,
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


@pytest.mark.parametrize("layout", [PAGE, COLUMN], ids=["page", "column"])
def test_names_above_small_multiples_keep_to_their_panels_and_say_what_tells_lines_apart(layout: Layout) -> None:
    models = [Model(name=f"a-model-with-a-long-name-{index}", bits=1.5 + index / 1000) for index in range(4)]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=10, windows=1)))
    # each batch size has rounds of its own, as tasks of one suite may have
    entries = [
        {**entry, "batch_size": size, "param_rounds": rounds}
        for size, rounds in ((1, 5), (8, 3))
        for entry in entries_of(table, "bits_per_byte")
    ]
    shown = [model.name for model in models]
    with style():
        canvas = draw_curves("t", entries, beneath=[], names=shown, log_y=False, layout=layout)
        canvas.draw_without_rendering()
    names = [
        next(each for each in axes.get_children() if isinstance(each, Text) and each.get_text().startswith("a-model"))
        for axes in canvas.axes
    ]
    # A word that is wider than a panel is broken.
    told = {"".join(name.get_text().split()) for name in names}
    values = {entry["checkpoint"]: f"{entry['value']:.3f}" for entry in entries if entry["context_len"] == 1024}
    assert told == {f"{name}batchsize{size}:{values[name]}" for name in shown for size in (1, 8)}
    assert any("number above a panel: at 1k" in " ".join(text.get_text().split()) for text in canvas.texts)
    boxes = [name.get_window_extent() for name in names]
    assert all(box.x1 <= canvas.bbox.x1 for box in boxes)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for index, name in enumerate(boxes):
        for place, axes in enumerate(canvas.axes):
            labels = [label for label in axes.get_xticklabels() if label.get_visible() and label.get_text()]
            beneath = [axes.bbox, axes.xaxis.label.get_window_extent(), *(each.get_window_extent() for each in labels)]
            assert place == index or not any(name.overlaps(box) for box in beneath if box.width), (index, place)


def test_a_number_above_a_panel_says_its_context_where_lines_end_at_several() -> None:
    models = [Model(name=name, bits=1.5 + index / 10) for index, name in enumerate("abcdefg")]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=10, windows=1)))
    entries = [
        {**entry, "value": None, "low": None, "high": None, "status": "oom"}
        if (entry["checkpoint"], entry["context_len"]) == ("a", 1024)
        else entry
        for entry in entries_of(table, "bits_per_byte")
    ]
    with style():
        canvas = draw_curves("t", entries, beneath=[], names=[*"abcdefg"], log_y=False)
    titles = [axes.get_title(loc="left").replace("\n", " ") for axes in canvas.axes]
    assert [title.partition(" at ")[2] for title in titles] == ["512", *["1k"] * 6]
    assert not any("number above a panel" in text.get_text() for text in canvas.texts)


@pytest.mark.parametrize(
    ("change", "panels"),
    [
        (None, {"a, c, e, g, i", "b", "d", "f", "h"}),
        ("value", {"a, c, e, g", "b", "d", "f", "h", "i"}),
        ("train_ctx", {"a, c, e, g", "b", "d", "f", "h", "i"}),
        ("num_clusters", {"a, c, e, g", "b", "d", "f", "h", "i"}),
        ("dtype", {"a, c, e, g", "b", "d", "f", "h", "i"}),
    ],
)
def test_checkpoints_with_the_same_marks_share_a_panel(change: str | None, panels: set[str]) -> None:
    models = [Model(name=name, bits=1.5 + index / 10) for index, name in enumerate("abdfh")]
    table = summarise(make_rows(perplexity_rows(models, [512, 1024], num_documents=10, windows=1)))
    entries = entries_of(table, "bits_per_byte")
    entries += [{**entry, "checkpoint": name} for name in "cegi" for entry in entries if entry["checkpoint"] == "a"]
    if change and change != "dtype":
        assert (entries[-1]["checkpoint"], entries[-1]["context_len"]) == ("i", 1024)
        entries[-1] = {**entries[-1], change: 1.01 * entries[-1][change]}
    if change == "dtype":
        # of each checkpoint there is one, so no name says it
        entries = [{**entry, "dtype": "bfloat16"} if entry["checkpoint"] == "i" else entry for entry in entries]
    with style():
        canvas = draw_curves("t", entries, beneath=[], names=[*"abcdefghi"], log_y=False)
    said = " ".join(" ".join(text.get_text() for text in canvas.texts).split())
    assert ("float32" in said) == (change != "dtype")
    titles = [axes.get_title(loc="left").replace("\n", " ").partition(":") for axes in canvas.axes]
    assert {name for name, *_ in titles} == panels
    assert len(titles) == len(panels)


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


def test_checkpoints_with_the_same_numbers_share_a_heat_map_and_no_name_leaves_its_panel(table: pd.DataFrame) -> None:
    entries = [entry for entry in entries_of(table, "retrieval_by_depth") if entry["checkpoint"] == "transformer"]
    names = [f"a-model-with-a-name-{index}" for index in range(5)]
    entries = [{**entry, "checkpoint": name} for name in names for entry in entries]
    entries[-1] = {**entries[-1], "value": entries[-1]["value"] / 2}
    with style():
        canvas = draw_heatmap("t", entries, x_axis="context_len", y_axis="depth", layout=COLUMN)
        canvas.draw_without_rendering()
    assert [axes.get_title().replace("\n", " ") for axes in canvas.axes] == [", ".join(names[:-1]), names[-1]]
    above, below = (axes.title.get_window_extent() for axes in canvas.axes)
    assert above.x1 <= canvas.bbox.x1
    assert above.y1 <= canvas.bbox.y1
    assert below.y1 < canvas.axes[0].bbox.y0


@pytest.mark.parametrize("num_models", [1, 2, 5])
def test_panels_of_a_heat_map_stand_in_rows_beneath_the_title_and_do_not_overlap(num_models: int) -> None:
    models = [Model(name=f"model-{index}") for index in range(num_models)]
    found = summarise(make_rows(needle_rows(models, CONTEXTS, num_haystacks=2)))
    entries = entries_of(found, "retrieval_by_depth")
    with style():
        canvas = draw_heatmap("t", entries, x_axis="context_len", y_axis="depth")
    boxes = [axes.get_position() for axes in canvas.axes]
    columns = min(num_models, 3)
    places = [divmod(index, columns) for index in range(num_models)]
    height = canvas.get_size_inches()[1]
    assert all(box.x0 > 0 and box.x1 < 1 and box.y0 > 0.2 / height and box.y1 < 1 - 0.6 / height for box in boxes)
    for (one, (row, column)), (two, (other_row, other_column)) in itertools.combinations(
        zip(boxes, places, strict=True), 2
    ):
        assert (one.y0 == pytest.approx(two.y0)) == (row == other_row)
        assert (one.x0 == pytest.approx(two.x0)) == (column == other_column)
        assert row == other_row or one.y0 > two.y1
        assert column >= other_column or one.x1 < two.x0
    assert {(round(box.width, 6), round(box.height, 6)) for box in boxes} == {
        (round(boxes[0].width, 6), round(boxes[0].height, 6))
    }


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


def test_a_task_without_figures_gets_one_for_each_metric_that_ranks_against_the_context(tmp_path: Path) -> None:
    rows = make_rows(perplexity_rows([TRANSFORMER, TTT], CONTEXTS, num_documents=4))
    del rows.attrs["figures"]["perplexity"]
    table = summarise(rows)
    bits = next(figure for figure in figures.declared(table) if figure.metric == "bits_per_byte")
    assert (bits.name, bits.title) == ("bits_per_byte", "Bits per byte against context")
    assert bits.references == ("bzip2_bits_per_byte", "xz_bits_per_byte")
    assert figures.draw(bits, table, tmp_path)


def test_two_tasks_that_declare_one_name_have_files_of_their_own() -> None:
    rows = make_rows(perplexity_rows([TTT], CONTEXTS, num_documents=3), needle_rows([TTT], CONTEXTS, num_haystacks=3))
    rows.attrs["figures"]["needle"] = [{**rows.attrs["figures"]["needle"][0], "name": "bits_per_byte"}]
    names = [figure.name for figure in figures.declared(summarise(rows))]
    assert names == ["bits_per_byte", "needle_bits_per_byte"]


def test_figures_travel_with_rows(tmp_path: Path) -> None:
    rows = make_rows(needle_rows([TTT], CONTEXTS, num_haystacks=3))
    shown = Figure(name="mine", title="T", metric="retrieval", references=("r",), task="needle")
    rows.attrs["figures"] = {"needle": [dataclasses.replace(shown, task="").to_json()]}
    (tmp_path / "rows.parquet").write_bytes(rows_bytes(rows))
    assert figures.declared(summarise(read_rows(tmp_path / "rows.parquet"))) == (shown,)
