"""Figures of papers say which number is whose, and never call a stand-in a rerun."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows import METRICS, TRANSFORMER, TTT, Model, make_rows, perplexity_rows

from ttbench.errors import UsageError
from ttbench.registry import TASKS
from ttbench.report.drawing.canvas import COLUMN, style
from ttbench.report.drawing.paper_panels import (
    PUBLISHED,
    RERUN,
    STAND_IN,
    Curve,
    CurvePoint,
    PanelDrawing,
    draw_paper,
)
from ttbench.report.papers.curves import NOT_RUN
from ttbench.report.papers.preset import Preset, read_preset
from ttbench.report.papers.write import COLUMNS, PAGE, as_csv, drawings, fill, paper_sheet, write_paper

FOLDER = Path(__file__).parents[3] / "suites" / "papers"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB_ID = "RetentionLabs/TTT-Linear-760M-Base-Pile-8k"
SIZE = 733_610_000
OURS = dataclasses.replace(TTT, settings={"architecture": "ttt-linear"})


@pytest.fixture(scope="module")
def ttt() -> Preset:
    return read_preset(FOLDER / "ttt.yaml")


@pytest.fixture(scope="module")
def pinned(ttt: Preset) -> Preset:
    """The preset as it would be with a commit for each checkpoint."""
    checkpoints = tuple(dataclasses.replace(each, revision=COMMIT) for each in ttt.checkpoints)
    return dataclasses.replace(ttt, checkpoints=checkpoints)


def theirs(**changes: Any) -> pd.DataFrame:
    """Rows of the authors' checkpoint by their protocol, with some columns replaced."""
    model = Model(name=HUB_ID, bits=1.1, train_ctx=8192)
    rows = make_rows(perplexity_rows([model], [2048, 8192], num_documents=6))
    settings = {"provenance": "hub", "revision": COMMIT, "num_params": SIZE, "architecture": "ttt-linear"}
    settings |= {"corpus": "text:data/pile", "param_protocol": "packed"}
    return with_columns(rows, **{**settings, **changes})


def with_columns(rows: pd.DataFrame, **changes: Any) -> pd.DataFrame:
    made = rows.assign(**changes)
    made.attrs = rows.attrs
    return made


def ours(names: Sequence[Model] = (OURS, TRANSFORMER)) -> pd.DataFrame:
    return make_rows(perplexity_rows(list(names), [512, 1024, 2048], num_documents=6))


def lines(preset: Preset, sources: Sequence[pd.DataFrame], figure: str = "perplexity_pile") -> dict[str, Any]:
    ((_, panels),) = [entry for entry in fill(preset, sources) if entry[0].name == figure]
    return {f"{line.word} {line.name}": line for panel in panels for line in panel.lines}


def test_the_authors_checkpoint_at_its_commit_and_protocol_is_a_rerun(pinned: Preset) -> None:
    found = lines(pinned, [theirs(), ours()])
    rerun = found["rerun TTT-Linear 760M"]
    assert [point.at for point in rerun.points] == [2048, 8192]
    assert (rerun.checkpoint, rerun.revision, rerun.unit) == (HUB_ID, COMMIT, "")
    assert f"{NOT_RUN} TTT-Linear 760M" not in found
    # what is ours is still no more than a stand-in
    assert found["stand-in ttt-linear"].unit == "bits per byte"


def test_one_training_of_several_stands_in(ttt: Preset) -> None:
    models = [
        dataclasses.replace(
            OURS, name=f"ours-{seed}", settings={**OURS.settings, "train_recipe": "r", "train_seed": seed}
        )
        for seed in (1, 2)
    ]
    found = lines(ttt, [ours(models)])
    assert {line.checkpoint for name, line in found.items() if name.startswith("stand-in")} == {"ours-1"}


def test_a_name_that_carries_its_commit_is_that_repository(pinned: Preset) -> None:
    found = lines(pinned, [theirs(checkpoint=f"{HUB_ID}@{COMMIT[:7]}")])
    assert found["rerun TTT-Linear 760M"].checkpoint == f"{HUB_ID}@{COMMIT[:7]}"


NO_RERUN = [
    ("another commit", {"revision": "f" * 40}, "is not 0123456789"),
    ("a branch", {"revision": None}, "commit None"),
    ("another size", {"num_params": 110_000}, "110000 parameters are not the 733610000"),
    ("a local copy", {"provenance": "local"}, "is a local folder"),
    ("unchecked", {"checked": "unchecked"}, "measured unchecked"),
    ("not comparable", {"comparable_to_published": False, "not_comparable_because": "other text"}, "other text"),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in NO_RERUN], ids=[case[0] for case in NO_RERUN])
def test_anything_else_is_a_stand_in_and_says_why(pinned: Preset, change: dict[str, Any], reason: str) -> None:
    found = lines(pinned, [theirs(**change)])
    assert not [key for key in found if key.startswith(RERUN)]
    (line,) = [line for line in found.values() if line.word == STAND_IN]
    assert reason in line.note
    assert line.note.startswith("stands in for TTT-Linear 760M")
    assert f"{NOT_RUN} TTT-Linear 760M" in found


def test_rows_by_another_protocol_are_no_rerun(pinned: Preset) -> None:
    for change in ({"param_protocol": "fixed"}, {"corpus": "code"}, {"task": "needle"}):
        found = lines(pinned, [theirs(**change)])
        assert not [key for key in found if key.startswith(RERUN)], change


def test_a_checkpoint_whose_commit_nobody_looked_up_cannot_be_rerun(ttt: Preset) -> None:
    found = lines(ttt, [theirs()])
    assert not [key for key in found if key.startswith(RERUN)]
    assert "is not pinned by the preset" in found[f"stand-in {HUB_ID}"].note
    assert "at a commit that is not known here" in found[f"{NOT_RUN} TTT-Linear 760M"].note


def test_swapped_stand_ins_swap_their_curves(ttt: Preset) -> None:
    rows = ours()
    other = {"ttt-linear": "transformer", "transformer": "ttt-linear"}
    columns = ("checkpoint", "architecture", "weights_digest", "config_digest")
    values = {name: dict(zip(rows["architecture"], rows[name], strict=True)) for name in columns}
    swapped = with_columns(rows, **{n: [values[n][other[a]] for a in rows["architecture"]] for n in columns})
    before, after = lines(ttt, [rows]), lines(ttt, [swapped])
    for name, partner in other.items():
        assert before[f"stand-in {name}"].points == after[f"stand-in {partner}"].points
        assert before[f"stand-in {name}"].points != after[f"stand-in {name}"].points
    assert before["stand-in ttt-linear"].stands_for == ("TTT-Linear 760M",)


def test_two_checkpoints_of_one_name_are_told_apart_and_one_source_stands_in(ttt: Preset) -> None:
    rows = ours([OURS])
    twin = with_columns(rows, weights_digest="feedface" * 4, cell_id=[f"x{each}" for each in rows["cell_id"]])
    both = pd.concat([rows, twin], ignore_index=True)
    both.attrs = rows.attrs
    found = [line for line in lines(ttt, [both]).values() if line.word == STAND_IN]
    assert len({line.name for line in found}) == 2
    # a second source with fewer models adds nothing: it was not measured alike
    found = [line for line in lines(ttt, [ours(), rows]).values() if line.word == STAND_IN]
    assert sorted(line.name for line in found) == ["transformer", "ttt-linear"]


def test_cells_without_a_number_are_told(ttt: Preset) -> None:
    lost = dataclasses.replace(OURS, failures={2048: ("oom", "no memory")})
    found = lines(ttt, [ours([lost])])
    assert "no number at 2k: oom" in found["stand-in ttt-linear"].note


def test_without_rows_every_model_is_said_to_be_missing(ttt: Preset) -> None:
    for rows in ([], [ours().iloc[:0]]):
        for figure, panels in fill(ttt, rows):
            missing = {line.name: line.note for panel in panels for line in panel.lines if line.word == NOT_RUN}
            assert {model.name for model in figure.models} <= missing.keys()
            assert all(note.startswith("not run: needs ") for note in missing.values())


def test_rows_that_carry_no_metric_of_that_name_are_no_error(ttt: Preset) -> None:
    rows = ours()
    rows.attrs = {**rows.attrs, "metrics": {"perplexity": [METRICS["perplexity"][1].to_json()]}}
    assert "stand-in ttt-linear" not in lines(ttt, [rows])


def test_a_rerun_stands_beside_the_published_number_in_its_unit() -> None:
    mamba = read_preset(FOLDER / "mamba.yaml")
    mamba = dataclasses.replace(
        mamba, checkpoints=tuple(dataclasses.replace(each, revision=COMMIT) for each in mamba.checkpoints)
    )
    rows = make_rows(perplexity_rows([Model(name="state-spaces/mamba-130m-hf")], [2048], num_documents=20))
    settings = {"task": "commonsense", "provenance": "hub", "revision": COMMIT, "num_params": 129_135_360}
    settings |= {"architecture": "mamba", "param_task": "lambada_openai", "num_questions": 1}
    answered = [float(index % 5 < 2) for index in range(len(rows))]
    rows = with_columns(rows, **settings, acc=answered, question=range(len(rows)))
    rows.attrs = {"metrics": {"commonsense": [metric.to_json() for metric in TASKS.load("commonsense").metrics]}}
    figure, panels = fill(mamba, [rows])[0]
    drawn = {panel.title: panel for panel in drawings(figure, panels)}
    found = drawn["LAMBADA, last word: published and rerun"]
    (rerun,) = [curve for curve in found.curves if curve.word == RERUN]
    assert (rerun.name, [point.name for point in rerun.points]) == ("Mamba-130M", ["Mamba-130M"])
    assert rerun.points[0].value == pytest.approx(40.0)
    assert "Mamba-130M" in [point.name for curve in found.curves if curve.word == PUBLISHED for point in curve.points]
    assert not found.stands_in


def test_published_numbers_that_are_not_as_many_as_the_panel_counts_are_refused(ttt: Preset) -> None:
    figure = ttt.figures[0]
    for change in ({"points": 9}, {"printed": dataclasses.replace(figure.panels[0].printed, table="11")}):  # pyright: ignore[reportArgumentType]
        panels = (dataclasses.replace(figure.panels[0], **change),)
        broken = dataclasses.replace(ttt, figures=(dataclasses.replace(figure, panels=panels),))
        with pytest.raises(UsageError, match=r"has \d points, but \d published numbers"):
            fill(broken, [])


# Files


@pytest.fixture(scope="module")
def written(pinned: Preset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("papers") / "ttt"
    only = tuple(figure for figure in pinned.figures if figure.name in ("ablation", "perplexity_pile", "latency"))
    write_paper(dataclasses.replace(pinned, figures=only), [theirs(), ours()], folder, warn=lambda text: None)
    return folder


def test_the_csv_has_every_number_with_its_word_and_source(written: Path) -> None:
    table = pd.read_csv(written / "ablation.csv")
    assert tuple(table.columns) == COLUMNS
    published = table.loc[table["word"] == PUBLISHED]
    assert published["value"].tolist() == [15.91, 15.23, 15.23, 15.27, 14.05, 12.35, 11.99, 11.09]
    assert published["source"].notna().all()
    assert set(published["evidence"]) == {"read"}
    pile = pd.read_csv(written / "perplexity_pile.csv")
    assert set(pile["word"]) == {RERUN, STAND_IN, NOT_RUN}
    assert pile.loc[pile["word"] == NOT_RUN, "value"].isna().all()
    assert pile.loc[pile["word"] == RERUN, "revision"].eq(COMMIT).all()


def test_a_figure_without_any_number_has_a_table_and_no_drawing(written: Path) -> None:
    assert (written / "latency.csv").is_file()
    assert not list(written.glob("latency*.png"))
    page = (written / PAGE).read_text(encoding="utf-8")
    assert "latency.png" not in page
    assert "not run: needs " in page.partition("Time of prefill")[2]


def test_words_and_watermark_are_printed_in_the_drawing(written: Path) -> None:
    drawing = (written / "perplexity_pile.svg").read_text(encoding="utf-8")
    assert "STAND-IN" in drawing
    assert "regenerated: TTT-Linear 760M" in drawing
    assert "ttt-linear, stand-in" in drawing
    ablation = (written / "ablation.svg").read_text(encoding="utf-8")
    assert "nothing here is regenerated" in ablation
    assert "published: the paper's numbers" in ablation
    page = (written / PAGE).read_text(encoding="utf-8")
    assert page.count("Regenerated: TTT-Linear 760M.") == 1
    assert page.count("Nothing here is regenerated.") == 2


def test_the_same_numbers_give_the_same_bytes(pinned: Preset, written: Path, tmp_path: Path) -> None:
    only = tuple(figure for figure in pinned.figures if figure.name == "perplexity_pile")
    # rows in another order are the same numbers
    rows = ours().sample(frac=1.0, random_state=0)
    write_paper(dataclasses.replace(pinned, figures=only), [theirs(), rows], tmp_path, warn=lambda text: None)
    names = {path.name for path in tmp_path.iterdir()} - {PAGE}
    assert len(names) == 5
    for name in names:
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes(), name


def test_the_last_bits_of_another_processor_change_nothing(pinned: Preset) -> None:
    rows = theirs()
    other = with_columns(rows, nats=rows["nats"] * (1 + 1e-12))
    texts = [as_csv(figure, panels) for each in (rows, other) for figure, panels in fill(pinned, [each])]
    assert texts[: len(texts) // 2] == texts[len(texts) // 2 :]
    assert "rerun" in texts[1]


def test_the_csv_is_the_one_that_every_machine_writes(pinned: Preset) -> None:
    found = {figure.name: as_csv(figure, panels) for figure, panels in fill(pinned, [theirs(), ours()])}
    golden = Path(__file__).parents[2] / "golden" / "papers"
    for name in ("ablation", "perplexity_pile"):
        assert found[name] == (golden / f"ttt_{name}.csv").read_text(encoding="utf-8"), name


def test_numbers_of_a_panel_in_two_units_are_two_tables(pinned: Preset) -> None:
    figure, panels = next(each for each in fill(pinned, [ours()]) if each[0].name == "perplexity_pile")
    place = next(index for index, line in enumerate(panels[0].lines) if line.points)
    lines = list(panels[0].lines)
    lines[place] = dataclasses.replace(lines[place], unit="nats")
    mixed = dataclasses.replace(panels[0], lines=tuple(lines))
    units = {(line.name, line.word): line.unit for line in mixed.lines if line.points}
    assert len(set(units.values())) == 2
    sheet = paper_sheet(figure, [mixed])
    assert sum(len(table.rows) for table in sheet.printed) == len(sheet.records)
    told = []
    for table in sheet.printed:
        (unit,) = {units[row[0], row[1]] for row in table.rows if row[3]}
        assert f"value ({unit})" in table.heads
        told.append(unit)
    assert sorted(told) == sorted(set(units.values()))


def test_a_csv_may_have_every_digit(pinned: Preset) -> None:
    filled = next(each for each in fill(pinned, [ours()]) if each[0].name == "perplexity_pile")
    six, whole = (list(csv.DictReader(io.StringIO(as_csv(*filled, whole=each)))) for each in (False, True))
    exact = [point.value for panel in filled[1] for line in panel.lines for point in line.points]
    assert [float(row["value"]) for row in whole if row["value"]] == exact
    assert [row["value"] for row in six if row["value"]] == [f"{value:.6g}" for value in exact]


def test_a_paper_is_written_in_a_format_too(pinned: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttbench.report.papers.write.draw_figure", lambda *given, warn: [])
    files = write_paper(pinned, [ours()], tmp_path, form="markdown", warn=lambda text: None)
    assert {path.suffix for path in files} == {".csv", ".md"}
    assert {path.stem for path in files if path.suffix == ".md" and path.name != PAGE} == {
        figure.name for figure in pinned.figures
    }
    assert "| 15.91 |" in (tmp_path / "ablation.md").read_text(encoding="utf-8")


def test_a_figure_that_has_no_folder_to_go_to_is_wrong_use(pinned: Preset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"figures cannot go into .*file.*name a folder with --into"):
        write_paper(pinned, [], tmp_path / "file", warn=lambda text: None)


def panel(places: Sequence[float], values: Sequence[float], kind: str = "context_len") -> PanelDrawing:
    points = tuple(CurvePoint(name=f"{at:g}", at=at, value=v) for at, v in zip(places, values, strict=True))
    curves = (
        Curve(word="stand-in", name="ours", points=points, colour=0),
        Curve(word="stand-in", name="b", points=points),
    )
    return PanelDrawing(title="t " * 60, label="y", x_label="x", x_kind=kind, log=True, x_log=True, curves=curves)


ODD = [
    pytest.param([0.0, 4096.0, 8192.0], [3.0, 2.0, 1.0], "position", id="the-first-token-has-index-zero"),
    pytest.param([512.0, 1024.0], [0.0, 0.0], "context_len", id="all-zero-on-a-logarithmic-axis"),
    pytest.param([512.0, 1024.0], [0.0, 3.0], "context_len", id="one-zero-on-a-logarithmic-axis"),
    pytest.param([1e18, 1e23], [1e-9, 1e9], "FLOPs", id="huge"),
    pytest.param([64.0], [1.0], "context_len", id="one-point"),
    pytest.param([100.5, 200.25], [-1.0, -2.0], "state size", id="below-zero"),
]


@pytest.mark.parametrize(("places", "values", "kind"), ODD)
def test_odd_numbers_are_drawn_too(places: list[float], values: list[float], kind: str) -> None:
    with style(["t"]):
        for how in ("curves", "dots"):
            drawn = draw_paper(
                "$x$ ünïcode | title", ["a"], [panel(places, values, kind)], kind=how, explained=[], layout=COLUMN
            )
            drawn.canvas.draw()
            assert len(drawn.axes) == 2
