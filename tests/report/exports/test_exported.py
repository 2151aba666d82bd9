"""What other tools are told of rows: numbers with unit and settings, statuses in words, and nothing made up."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, needle_rows, perplexity_rows, timing_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.errors import UsageError
from ttbench.packages import require_extra
from ttbench.registry import EXPORTERS
from ttbench.report.exports.exported import ExportedModel, Exporter, exported
from ttbench.report.published import ROWS, rows_bytes
from ttbench.report.table import summarise


def made() -> pd.DataFrame:
    models = [TRANSFORMER, TTT]
    return make_rows(
        perplexity_rows(models, (512, 4096), num_documents=12),
        needle_rows(models, (512,)),
        timing_rows(models, (512,)),
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rows = made()
    rows.loc[(rows["task"] == "perplexity") & (rows["context_len"] == 4096), "status"] = "oom"
    rows.loc[rows["status"] == "oom", "reason"] = "3 GiB are too little"
    return summarise(rows)


@pytest.fixture(scope="module")
def models(table: pd.DataFrame) -> list[ExportedModel]:
    return exported(table)


def test_each_checkpoint_has_all_its_numbers_with_unit_interval_and_context(
    table: pd.DataFrame, models: list[ExportedModel]
) -> None:
    assert [model.name for model in models] == [TRANSFORMER.name, TTT.name]
    for model in models:
        mine = table[(table["checkpoint"] == model.name) & (table["status"] == "ok")]
        assert sorted((n.context_len, n.value, n.unit) for n in model.numbers) == sorted(
            zip(mine["context_len"], mine["value"], mine["unit"], strict=True)
        )
        bits = next(number for number in model.numbers if number.key == "perplexity/bits_per_byte")
        assert model.units[bits.key] == "bit/byte"
        assert bits.low is not None
        assert bits.high is not None
        assert bits.low < bits.value < bits.high
        assert len({(number.key, number.context_len) for number in model.numbers}) == len(model.numbers)


def test_what_did_not_end_ok_is_a_status_and_no_number(models: list[ExportedModel]) -> None:
    for model in models:
        lost = [status for status in model.statuses if status.key == "perplexity/bits_per_byte"]
        assert [(status.context_len, status.said) for status in lost] == [(4096, "oom: 3 GiB are too little")]
        assert not any(n.context_len == 4096 for n in model.numbers if n.key.startswith("perplexity/"))


def test_places_are_told_apart_in_letters_that_every_tool_takes(models: list[ExportedModel]) -> None:
    keys = {number.key for number in models[0].numbers if "by_depth" in number.key}
    assert len(keys) > 1
    assert "needle/retrieval_by_depth depth 0.5" in keys
    rows = make_rows(perplexity_rows([TTT], (512,), num_documents=12))
    both = pd.concat([rows.assign(corpus="text:a+b", cell_id="x"), rows.assign(corpus="text:a?b", cell_id="y")])
    both.attrs = rows.attrs
    (model,) = exported(summarise(both))
    assert {number.key for number in model.numbers if "bits" in number.key} == {
        "perplexity/bits_per_byte corpus text_a_b",
        "perplexity/bits_per_byte corpus text_a_b_",
    }


def test_the_configuration_says_what_was_measured_and_how(models: list[ExportedModel]) -> None:
    config: Any = models[1].config
    assert (config["checkpoint"], config["weights_digest"]) == (TTT.name, models[1].config["weights_digest"])
    assert config["perplexity"]["dtype"] == "float32"
    assert config["perplexity"]["task_version"] is not None
    assert "value" in models[1].table[0]
    assert not {"value", "low"} & set(config["perplexity"])


def export(folder: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["export", str(folder), *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ROWS).write_bytes(rows_bytes(made()))
    return tmp_path


_seen: list[Any] = []


def _write(models: Any, folder: Path) -> list[Path]:
    _seen[:] = models
    return [folder / "written"]


# An exporter as another package would bring one.
RECORDER = Exporter(extra="none", packages={"json": "json"}, write=_write)


def test_a_plug_in_is_one_entry(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPORTERS._built_in, "recorder", f"{__name__}:RECORDER")
    place = tmp_path / "new" / "there"
    done = export(folder, "--to", "recorder", "--dir", str(place), "--checkpoint", TTT.name, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [str(place / "written")]
    assert [model.name for model in _seen] == [TTT.name]
    assert place.is_dir()
    told = " ".join(done.stderr.split())
    assert f"1 checkpoint, {len(_seen[0].numbers)} numbers" in told
    assert "verdicts have no place there" in told
    (tmp_path / "file").write_text("")
    refused = export(folder, "--to", "recorder", "--dir", str(tmp_path / "file"))
    assert refused.exit_code == 2
    assert "name a folder with --dir" in " ".join(refused.stderr.split())


def _refuse(models: Any, folder: Path) -> list[Path]:
    raise UsageError("not today")


REFUSER = Exporter(extra="none", packages={"json": "json"}, write=_refuse)


def test_a_refused_export_leaves_no_folder_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTERS._built_in, "refuser", f"{__name__}:REFUSER")
    for name, left in (("new", False), ("kept", True)):
        place = tmp_path / name
        if left:
            place.mkdir()
            (place / "own").write_text("")
        done = export(folder, "--to", "refuser", "--dir", str(place))
        assert (done.exit_code, place.exists()) == (2, left), done.output
        assert "not today" in done.stderr


def test_an_unknown_tool_is_refused(folder: Path) -> None:
    done = export(folder, "--to", "mlflw")
    assert done.exit_code == 2
    assert "unknown exporter 'mlflw'; did you mean 'mlflow'? available: mlflow, wandb" in " ".join(done.stderr.split())


@pytest.mark.parametrize(("tool", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_missing_extra_is_one_line(folder: Path, tool: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("ttbench.packages.importlib.util.find_spec", lambda name: None if name == tool else found(name))
    done = export(folder, "--to", tool)
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert (
        f"an export to {tool} needs {package}, which is not installed; install with: pip install 'ttbench[{tool}]'"
        in said
    )
    assert not Path("exports").exists()


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="a test needs left-behind"):
        require_extra("a test", {"left_behind": "left-behind"}, extra="none")
