"""Published results are made from their rows, and every committed one still is."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, Model, make_rows, needle_rows, perplexity_rows

from ttbench.errors import StoreError, UsageError
from ttbench.report import published as results
from ttbench.report.table import summarise
from ttbench.store.rows import read_rows
from ttbench.types import digest

ROOT = Path(__file__).parents[2]
COMMITTED = sorted(path.parent for path in (ROOT / "results").rglob(results.ROWS))


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    models = [TRANSFORMER, TTT]
    return make_rows(
        perplexity_rows(models, [512, 1024], num_documents=12), needle_rows(models, [512, 1024], num_haystacks=6)
    )


@pytest.fixture(scope="module")
def written(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "suite" / "cpu"
    results.write_results(rows, folder)
    return folder


def draws_as_committed() -> bool:
    """Another release of matplotlib draws other lines; tables and pages are equal under each."""
    return f"matplotlib=={importlib.metadata.version('matplotlib')}\n" in (ROOT / "constraints.txt").read_text()


def test_every_committed_table_and_figure_is_made_from_its_rows() -> None:
    found = {str(folder.relative_to(ROOT)): results.outdated(folder) for folder in COMMITTED}
    if not draws_as_committed():
        found = {folder: [name for name in names if name.endswith((".csv", ".md"))] for folder, names in found.items()}
    assert found == {str(folder.relative_to(ROOT)): [] for folder in COMMITTED}
    for folder in COMMITTED:
        assert (folder / results.ROWS).stat().st_size <= results.MAX_ROWS_BYTES


def test_every_pair_of_many_checkpoints_is_compared(tmp_path: Path) -> None:
    names = list("abcdefg")
    results.write_results(
        make_rows(perplexity_rows([Model(name=name) for name in names], [512], num_documents=12)), tmp_path
    )
    found = pd.read_csv(tmp_path / "comparisons.csv").query("metric == 'bits_per_byte'")
    assert sorted(zip(found["a"], found["b"], strict=True)) == list(itertools.combinations(names, 2))
    assert set(found["num_points"]) == {21}


def test_of_several_seeds_the_first_is_drawn_and_all_stand_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [
        dataclasses.replace(TTT, name=name, settings={**TTT.settings, "train_recipe": "r", "train_seed": seed})
        for name, seed in (("first", 1), ("again", 2))
    ]
    drawn: list[set[str]] = []
    monkeypatch.setattr(
        results.figures, "draw", lambda figure, table, folder, **_: drawn.append({*table["checkpoint"]}) or []
    )
    monkeypatch.setattr(
        results.figures, "draw_summary", lambda table, folder: drawn.append({*table["checkpoint"]}) or []
    )
    results.write_results(make_rows(perplexity_rows((TRANSFORMER, *seeds), (512, 1024))), tmp_path)
    assert drawn
    assert all(names - {None} == {"transformer", "first"} for names in drawn)
    assert {"first", "again"} <= {*pd.read_csv(tmp_path / "table.csv")["checkpoint"]}
    compared = pd.read_csv(tmp_path / "comparisons.csv")
    assert {*compared["a"], *compared["b"]} == {"transformer", "first"}
    assert (compared.loc[compared["metric"] == "bits_per_byte", "training_seeds"] == 2).all()
    drawn.clear()
    results.write_results(make_rows(perplexity_rows(seeds, (512, 1024))), tmp_path)
    assert drawn
    assert all(names - {None} == {"first", "again"} for names in drawn)


def test_figures_of_rows_before_do_not_stay_beside_those_of_today(
    written: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    folder = tmp_path / "cpu"
    shutil.copytree(written, folder)
    (folder / "my_own.png").write_bytes(b"not ours")
    with (folder / results.PAGE).open("a") as page:
        page.write("![mine](my_own.png)\n![gone](gone.png)\n")
    results.write_results(rows.loc[rows["task"] == "needle"], folder)
    assert results.outdated(folder) == ["my_own.png"]
    assert not list(folder.glob("bits_per_byte*"))
    assert (folder / "needle_by_depth.png").is_file()


@pytest.mark.parametrize(
    "page", [b"![s](summary.png)\n", b"# Figures\n\xff![s](summary.png)\n"], ids=["theirs", "torn"]
)
def test_figures_that_no_page_of_ours_names_are_kept(
    written: Path, rows: pd.DataFrame, tmp_path: Path, page: bytes
) -> None:
    folder = tmp_path / "cpu"
    shutil.copytree(written, folder)
    (folder / results.PAGE).write_bytes(page)
    results.write_results(rows.loc[rows["task"] == "needle"], folder)
    assert (folder / "bits_per_byte.png").is_file()


def test_figures_that_cannot_be_drawn_today_are_kept(
    written: Path, rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cpu"
    shutil.copytree(written, folder)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(results.figures, "draw_summary", broken)
    told: list[str] = []
    results.write_results(rows, folder, warn=told.append)
    assert [line.partition(":")[0] for line in told] == ["figure summary cannot be drawn"]
    assert (folder / "summary.png").is_file()


def test_results_can_be_made_again_with_the_same_bytes_from_the_rows_alone(written: Path, tmp_path: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert {"rows.parquet", "table.csv", "comparisons.csv", "bits_per_byte.svg", "needle_by_depth.png"} <= names
    shutil.copy(written / results.ROWS, tmp_path)
    results.derive(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in written.iterdir()
    }


def test_a_file_that_was_edited_removed_or_left_over_is_outdated(written: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(written, tmp_path / "copy")
    text = (folder / "table.csv").read_text()
    (folder / "table.csv").write_text(text.replace("ok", "OK", 1))
    (folder / "old.svg").write_text("<svg/>")
    (folder / "needle.png").unlink()
    assert results.outdated(folder) == ["needle.png", "old.svg", "table.csv"]


def test_the_csv_is_tidy_and_its_numbers_have_six_digits(rows: pd.DataFrame, written: Path) -> None:
    found = pd.read_csv(written / "table.csv")
    table = summarise(rows)
    assert found["value"].tolist() == pytest.approx(table["value"].tolist(), rel=1e-5)
    assert found["context_len"].dtype == "int64"
    assert "reason" not in found
    comparisons = pd.read_csv(written / "comparisons.csv")
    assert set(comparisons["verdict"]) <= {"a better", "b better", "no difference shown", "not comparable"}


def test_rows_come_back_from_parquet_with_their_metrics(rows: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / results.ROWS).write_bytes(results.rows_bytes(rows))
    back = read_rows(tmp_path / results.ROWS)
    assert json.dumps(back.attrs["metrics"], sort_keys=True) == json.dumps(rows.attrs["metrics"], sort_keys=True)
    assert list(back.columns) == list(rows.columns)
    assert summarise(back)["value"].tolist() == summarise(rows)["value"].tolist()


def test_too_many_rows_are_refused_and_nothing_is_written(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_ROWS_BYTES", 1000)
    with pytest.raises(UsageError, match="results hold at most"):
        results.write_results(rows, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_without_rows_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no rows\.parquet; name a folder that does"):
        results.derive(tmp_path)


def test_published_rows_carry_the_environments_that_they_name() -> None:
    for folder in COMMITTED:
        rows = read_rows(folder / results.ROWS)
        kept, named = rows.attrs["environments"], set(rows["environment"])
        assert named <= set(kept), folder
        for name in named:
            assert digest(kept[name]) == name
            environment = json.loads(kept[name])
            assert environment["processor"]
            assert {"torch", "numpy"} <= environment["packages"].keys()
