"""The protocol of each paper is data, and is the one that the paper prints."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttbench.checkpoints import catalogue
from ttbench.checkpoints.sizes.sizes import sizes
from ttbench.errors import SuiteError, UnknownNameError
from ttbench.registry import ARCHITECTURES, TASKS
from ttbench.report.papers import preset as presets
from ttbench.report.papers.curves import named
from ttbench.report.papers.numbers import PublishedNumber, read_published
from ttbench.report.papers.preset import PanelNumber, PaperFigure, PaperPanel, Preset, PrintedNumbers, read_preset
from ttbench.runs.options import Options
from ttbench.runs.suite import find_suite, list_suites, load_suite, runnable_suites

FOLDER = Path(__file__).parents[3] / "suites" / "papers"
PATHS = sorted(FOLDER.glob("*.yaml"))
PRESETS = {path.stem: read_preset(path) for path in PATHS}
PANELS = [
    pytest.param(preset, figure, panel, id=f"{name}-{figure.name}-{panel.title.replace(' ', '_')}")
    for name, preset in PRESETS.items()
    for figure in preset.figures
    for panel in figure.panels
]


numbers_of = functools.cache(read_published)


def printed(name: str, wanted: PrintedNumbers) -> list[PublishedNumber]:
    return [number for number in numbers_of(wanted.paper or name) if wanted.holds(number)]


@pytest.mark.parametrize("name", PRESETS)
def test_every_fact_that_the_paper_prints_is_the_printed_number(name: str) -> None:
    assert PRESETS[name].facts
    for fact in PRESETS[name].facts:
        assert fact.source
        if fact.printed is not None:
            found = printed(name, fact.printed)
            assert len(found) == 1, fact
            assert fact.value == found[0].value, fact
            assert fact.unit == found[0].unit, fact


@pytest.mark.parametrize("name", PRESETS)
def test_checkpoints_are_those_of_the_catalogue(name: str) -> None:
    known = {entry.hub_id: entry for entry in catalogue.load().values() if entry.hub_id}
    for checkpoint in PRESETS[name].checkpoints:
        entry = known[checkpoint.hub_id]
        assert checkpoint.revision == entry.revision
        assert checkpoint.tokenizer == entry.tokenizer
        if entry.num_params is not None:
            assert checkpoint.num_params == entry.num_params


@pytest.mark.parametrize(("preset", "figure", "panel"), PANELS)
def test_a_panel_has_axes_units_and_as_many_numbers_as_the_paper(
    preset: Preset, figure: PaperFigure, panel: PaperPanel
) -> None:
    assert panel.label
    if panel.printed is None:
        assert panel.points == 0
        return
    found = printed(preset.name, panel.printed)
    assert len(found) == panel.points
    names = {named(number, panel.series) for number in found}
    if figure.kind == "curves":
        assert panel.x_label
        assert all(number.at is not None for number in found)
        assert len({number.axis for number in found}) == 1
        places = [(named(number, panel.series), number.at) for number in found]
        assert len(set(places)) == len(places), "two numbers of one line at one place"
    else:
        places = [(named(number, panel.series), named(number, panel.category)) for number in found]
        assert len(set(places)) == len(places), "two numbers of one series at one place"
    assert set(figure.shown) <= {n for each in figure.panels for n in series(preset, each)}
    assert len(figure.shown) <= 6
    # a unit that both write is one unit
    units = {number.unit for number in found if number.unit}
    assert units <= {panel.unit}, (units, panel.unit)
    assert names


# Unit of a metric, factor, and the unit that a number then has.
CONVERSIONS = {
    ("1", 1.0, ""),
    ("bit/byte", 1.0, "bits per byte"),
    ("share", 1.0, ""),
    ("share", 100.0, "%"),
    ("s", 1.0, "s"),
    ("s", 1000.0, "ms"),
    ("tokens/s", 1.0, "tokens/s"),
    ("bytes", 1.0, "bytes"),
    ("bytes", 1e-6, "MB"),
    ("bytes", 1e-9, "GB"),
}


def series(preset: Preset, panel: PaperPanel) -> set[str]:
    if panel.printed is None:
        return set()
    return {named(number, panel.series) for number in printed(preset.name, panel.printed)}


@pytest.mark.parametrize(("preset", "figure", "panel"), PANELS)
def test_what_is_measured_exists_and_the_suite_measures_it(
    preset: Preset, figure: PaperFigure, panel: PaperPanel
) -> None:
    for measured in (panel.measured, panel.stand_in):
        if measured is not None:
            metrics = {metric.name: metric for metric in TASKS.load(measured.task).metrics}
            assert measured.metric in metrics
            shown = panel.unit if measured.unit is None else measured.unit
            assert (metrics[measured.metric].unit, measured.factor, shown) in CONVERSIONS
    for model in figure.models:
        assert set(model.architectures) <= set(ARCHITECTURES)
    if panel.measured is not None:
        suite = load_suite(preset.path)
        assert any(measures(panel.measured, task.task, task.options) for task in suite.tasks)


def measures(measured: PanelNumber, task: str, options: Options) -> bool:
    """Whether a task of a suite gives the rows that a panel asks for."""
    given: dict[str, Any] = {f"param_{name}": value for name, value in (options.get("params") or {}).items()}
    given |= {name: value for name, value in options.items() if name != "params"}
    given["context_len"] = given.get("ctx")
    for name, wanted in measured.where.items():
        had = given.get(name)
        # which device a suite runs on is the user's choice
        if name != "device" and wanted != had and wanted not in (had if isinstance(had, tuple | list) else ()):
            return False
    return task == measured.task


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_suite_of_a_paper_can_be_run_by_name_and_is_no_listed_suite(path: Path) -> None:
    assert find_suite(f"papers/{path.stem}").resolve() == path
    assert f"papers/{path.stem}" in runnable_suites()
    assert path.stem not in {found.stem for found in list_suites().values() if found.parent == FOLDER}
    theirs = {each.hub_id for each in PRESETS[path.stem].checkpoints}
    run: set[str] = set()
    for task in load_suite(path).tasks:
        asked = task.options.get("checkpoints") or ()
        names: Any = [asked] if isinstance(asked, str) else asked
        run |= {str(name).partition("@")[0] for name in names}
    assert theirs <= run


def test_ttt_is_the_papers_table_of_sizes() -> None:
    facts = {(fact.what, fact.of): fact.value for fact in PRESETS["ttt"].facts}
    assert [facts["blocks", size] for size in ("125M", "350M", "760M", "1.3B")] == [12, 24, 24, 24]
    assert [facts["training tokens", size] for size in ("125M", "350M", "760M", "1.3B")] == [2.5, 7, 15, 26]
    assert (facts["context", "Pile, long"], facts["context", "Books, longest"]) == (8192, 32768)
    assert facts["tokenizer", ""] == "Llama-2"
    # the sizes that stand in on a GPU are these
    for size in ("125m", "350m", "760m", "1.3b"):
        config = sizes()[f"ttt-linear-{size}"].config
        name = size.upper()
        widths = (config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"])
        assert widths == (facts["width", name], facts["blocks", name], facts["heads", name])


# Mistakes


def damaged(tmp_path: Path, change: Any, name: str = "ttt") -> Path:
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    change(data)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


MISTAKES = [
    ("key 'paper' is missing", lambda data: data.pop("paper")),
    ("did you mean 'figures'", lambda data: data["paper"].update(figure=[])),
    ("at least one figure", lambda data: data["paper"].update(figures=[])),
    ("no two of one name", lambda data: data["paper"]["figures"][1].update(name="ablation")),
    ("a commit of 40", lambda data: data["paper"]["checkpoints"][0].update(revision="4a347bf")),
    ("unknown model 'GPT'", lambda data: data["paper"]["checkpoints"][0].update(model="GPT")),
    ("either printed", lambda data: data["paper"]["figures"][0]["panels"][0].update(unprinted="drawn")),
    ("either printed", lambda data: data["paper"]["figures"][0]["panels"][0].pop("printed")),
    ("one of curves, dots", lambda data: data["paper"]["figures"][0].update(kind="pie")),
    ("must be that of the file", lambda data: data["paper"].update(name="tttt")),
    ("factor must be", lambda d: d["paper"]["figures"][-1]["panels"][0]["measured"].update(factor=0)),
]


@pytest.mark.parametrize(("message", "change"), MISTAKES)
def test_a_mistake_in_a_preset_is_named_with_its_line(message: str, change: Any, tmp_path: Path) -> None:
    with pytest.raises((SuiteError, UnknownNameError), match=message) as raised:
        read_preset(damaged(tmp_path, change))
    assert "ttt.yaml:" in str(raised.value)


def test_an_unknown_paper_gets_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ttt'"):
        presets.find_preset("tttt")
