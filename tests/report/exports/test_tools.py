"""Exports as W&B and MLflow read them back. `make exports` installs both; elsewhere these tests are skipped.

MLflow's file store is switched on here, since without a server mlflow-skinny can write nothing else and 3.17 refuses it
otherwise. W&B has no reader of its offline file in Python any more (0.31): its records are W&B's own protobuf messages
in a LevelDB log, which is taken apart here.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows import TRANSFORMER, TTT, make_rows, needle_rows, perplexity_rows, timing_rows
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.report.exports.exported import ExportedModel, exported
from ttbench.report.published import ROWS, rows_bytes
from ttbench.report.table import summarise

pytestmark = pytest.mark.exports
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="the extra wandb: make exports")
needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra mlflow: make exports")
BLOCK, HEADER = 32768, 7  # bytes of a LevelDB log, and before each piece in it


def made() -> pd.DataFrame:
    models = [TRANSFORMER, TTT]
    rows = make_rows(
        perplexity_rows(models, (512, 4096), num_documents=12),
        needle_rows(models, (512,)),
        timing_rows(models, (512,)),
    )
    rows.loc[(rows["task"] == "perplexity") & (rows["context_len"] == 4096), "status"] = "oom"
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / ROWS).write_bytes(rows_bytes(made()))
    return tmp_path


@pytest.fixture
def models() -> dict[str, ExportedModel]:
    return {model.name: model for model in exported(summarise(made()))}


def export(folder: Path, tool: str) -> Any:
    return CliRunner().invoke(app, ["export", str(folder), "--to", tool, "--dir", str(folder / tool), "--json"])


# W&B


def records(path: Path) -> Iterator[Any]:
    """The messages of an offline file, after its own header of seven bytes."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    data, place, pieces = path.read_bytes(), HEADER, b""
    assert data[:4] == b":W&B"
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEADER])
        pieces += data[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # whole, or the last piece
            record = messages.Record()
            record.ParseFromString(pieces)
            pieces = b""
            yield record


def items(update: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


@needs_wandb
def test_wandb_reads_each_checkpoint_as_a_run_with_curves_units_and_statuses(
    folder: Path, models: dict[str, ExportedModel]
) -> None:
    done = export(folder, "wandb")
    assert done.exit_code == 0, done.output
    written = list(map(Path, json.loads(done.stdout)))
    assert len(written) == len(models)
    seen = set()
    for place in written:
        (file,) = place.glob("*.wandb")
        found = list(records(file))
        assert found[-1].WhichOneof("record_type") in ("exit", "final", "footer")
        (run,) = (one.run for one in found if one.WhichOneof("record_type") == "run")
        model = models[run.display_name]
        seen.add(model.name)
        config = items(run.config.update)
        assert config["units"] == model.units
        assert config["weights_digest"] == model.config["weights_digest"]
        assert config["perplexity"] == model.config["perplexity"]
        history = [items(one.history.item) for one in found if one.WhichOneof("record_type") == "history"]
        curves = [line for line in history if "context_len" in line]
        told = {(key, line["context_len"]): value for line in curves for key, value in line.items()}
        for number in model.numbers:
            assert told[number.key, number.context_len] == number.value
            assert told.get((f"{number.key}_low", number.context_len)) == number.low
        assert not any(key.startswith("perplexity/") and at == 4096 for key, at in told)
        summary = {
            name: value
            for one in found
            if one.WhichOneof("record_type") == "summary"
            for name, value in items(one.summary.update).items()
        }
        for status in model.statuses:
            assert summary[f"status/{status.key} at {status.context_len}"] == status.said
        (numbers,) = place.glob("files/media/table/*.json")
        assert len(json.loads(numbers.read_text())["data"]) == len(model.table)
    assert seen == set(models)


# MLflow


@needs_mlflow
def test_mlflow_reads_each_checkpoint_as_a_run_with_metrics_units_and_statuses(
    folder: Path, models: dict[str, ExportedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow: Any = importlib.import_module("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    done = export(folder, "mlflow")
    assert done.exit_code == 0, done.output
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("ttbench")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} == set(models)
    for run in runs:
        model = models[run.info.run_name]
        for number in model.numbers:
            steps = {one.step: one.value for one in client.get_metric_history(run.info.run_id, number.key)}
            assert steps[number.context_len] == number.value
            assert run.data.tags[f"unit/{number.key}"] == number.unit
        bits = client.get_metric_history(run.info.run_id, "perplexity/bits_per_byte")
        assert [one.step for one in bits] == [512]
        (low,) = client.get_metric_history(run.info.run_id, "perplexity/bits_per_byte_low")
        assert low.value < bits[0].value
        assert run.data.tags["status/perplexity/bits_per_byte at 4096"].startswith("oom")
        assert run.data.params["perplexity.dtype"] == "float32"
        assert run.data.params["weights_digest"] == model.config["weights_digest"]
        local = client.download_artifacts(run.info.run_id, "numbers.csv", str(folder))
        assert pd.read_csv(local)["value"].dropna().tolist() == [
            line["value"] for line in model.table if line["value"] is not None
        ]
    # a second export stands beside the first one
    assert export(folder, "mlflow").exit_code == 0
    assert len(client.search_runs([experiment.experiment_id])) == 2 * len(models)


@needs_mlflow
def test_mlflow_that_keeps_no_files_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    done = export(folder, "mlflow")
    assert done.exit_code == 2
    assert "set MLFLOW_ALLOW_FILE_STORE=true, for this command and for what reads" in " ".join(done.stderr.split())
