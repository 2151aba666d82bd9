"""How much is read: a count or `all`, spelt the same wherever a user meets it, and what more of it would cost."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from ttbench.checkpoints.loading import save_checkpoint
from ttbench.cli import price as price_module
from ttbench.cli.app import app
from ttbench.cli.price import price
from ttbench.errors import UsageError
from ttbench.machine.work import Work
from ttbench.models.transformer import Transformer
from ttbench.report.headline import headline
from ttbench.runs.estimate import CellEstimate
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan, plan, read_params
from ttbench.runs.suite import load_suite
from ttbench.store.record import CellRecord
from ttbench.tasks.genomics.genomics import Genomics
from ttbench.tasks.needle.needle import Needle
from ttbench.tasks.perplexity.perplexity import Perplexity
from ttbench.types import Cell, Sample


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny checkpoint that reads bytes, and three documents of 600 bytes."""
    folder = tmp_path_factory.mktemp("limit")
    torch.manual_seed(0)
    extra = {"train_ctx": 64, "tokenizer": "bytes"}
    save_checkpoint(Transformer.tiny(), folder / "tiny", dtype="float32", extra=extra)
    (folder / "text").mkdir()
    for index in range(3):
        (folder / "text" / f"{index}.txt").write_text(f"{index} lines of text. " * 35)
    return folder


def invoke(home: Path, *words: str) -> Any:
    given = ["--checkpoint", "tiny", "--corpus", "text:text", "--ctx", "512", "--threads", "1"]
    return CliRunner().invoke(app, [*words[:2], *given, *words[2:]])


def test_all_is_spelt_back_in_the_plan_the_header_and_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    result = invoke(home, "plan", "perplexity", "--limit", "all", "--json")
    found = json.loads(result.stdout)
    assert found["cells"][0]["params"]["limit"] is None
    assert found["command"].endswith("--limit all --threads 1")
    shown = invoke(home, "plan", "perplexity", "--limit", "all").stderr
    assert "limit=all" in shown
    assert "--limit all" in shown.rpartition("to run it:")[2]
    default = json.loads(invoke(home, "plan", "perplexity", "--json").stdout)
    assert default["cells"][0]["params"]["limit"] == 12
    assert "limit" not in default["command"]


def test_all_in_a_suite_is_every_document(home: Path) -> None:
    path = home / "whole.yaml"
    path.write_text("title: t\ntasks:\n  - task: perplexity\n    params: {limit: all}\n")
    [entry] = load_suite(path).tasks
    assert entry.options == {"params": {"limit": "all"}}
    assert read_params(Perplexity, entry.params)["limit"] is None


def test_all_is_no_count_of_what_is_drawn_without_end_nor_is_any_other_word() -> None:
    assert read_params(Genomics, {"limit": "all"})["limit"] is None
    assert read_params(Genomics, {"limit": 3})["limit"] == 3
    with pytest.raises(UsageError, match="'limit' of needle must be a whole number; got 'all'"):
        read_params(Needle, {"limit": "all"})
    with pytest.raises(UsageError, match="'limit' of perplexity must be a whole number or all; got 'every'"):
        read_params(Perplexity, {"limit": "every"})


@pytest.mark.parametrize("word", ["0", "-1", "every", "1.5", "²"])
def test_a_limit_is_a_count_or_all(home: Path, word: str) -> None:
    result = invoke(home, "plan", "perplexity", "--limit", word)
    assert result.exit_code == 2
    assert "neither a whole number of at least 1 nor the word all" in result.stderr


def test_a_run_says_what_its_limit_left_out_and_each_cell_its_number(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    result = invoke(home, "run", "perplexity", "--limit", "2")
    assert result.exit_code == 0, result.stderr
    # the root of 2/3 is 0.82
    assert "the numbers rest on 2 of 3 documents, and an interval needs 10; --limit all would read all" in result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("[1/1]")]
    rows = pd.read_parquet(next((home / "runs").glob("*/rows.parquet")))
    bits = rows["nats"].sum() / rows["num_bytes"].sum() / math.log(2)
    assert f" {bits:.3f} bits per byte" in line
    assert "intervals rest on" not in invoke(home, "run", "perplexity", "--limit", "all").stderr


# The price, from rows and estimates made by hand


def cells_of(fakes: ModuleType, **params: Any) -> tuple[Cell, ...]:
    return plan(
        "perplexity",
        checkpoints=[
            fakes.checkpoint("a", tokenizer_digest="t"),
            fakes.checkpoint("b", tokenizer_digest="t", weights_digest="w2"),
        ],
        context_lens=[512, 1024],
        params=params,
        corpus="code",
        corpus_digest="d",
        seed=0,
        dtype="float32",
        device="cpu",
        attention=None,
        batch_size=None,
        threads=1,
        machine="m",
    ).cells


def rows_of(cells: tuple[Cell, ...], *, used: int, given: int) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "cell_id": cell.cell_id,
                "status": "ok",
                "document": f"doc{index}",
                "num_documents": given,
                "param_limit": cell.params["limit"],
            }
            for cell in cells
            for index in range(used)
        ]
    )


def priced(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cells: tuple[Cell, ...],
    seconds: float | None,
    *,
    used: int,
    given: int,
) -> list[str]:
    asked: list[Options] = []

    def planned(task: str, options: Options, *, out: str) -> Plan:
        asked.append(options)
        estimate = CellEstimate(flops=None, state_bytes=None, seconds=seconds, work=Work(calls=()))
        whole = tuple(dataclasses.replace(cell, params={**cell.params, "limit": None}) for cell in cells)
        return Plan(cells=whole, skips=(), estimates={cell.cell_id: estimate for cell in whole})

    monkeypatch.setattr(price_module, "plan_task", planned)
    run = Plan(cells=cells, skips=(), estimates={})
    said = price(run, rows_of(cells, used=used, given=given), options=Options(limit=used), out=str(tmp_path))
    assert all(
        options.get("params") == {**cells[0].params, "limit": None} and options.get("ctx") == "512,1k"
        for options in asked
    )
    return said


@pytest.mark.parametrize(
    ("used", "given", "seconds", "sentence"),
    [
        # the root of 12/48 is a half; four cells of 15 minutes are an hour
        (12, 48, 900.0, "12 of 48 documents; --limit all would make them about half as wide and take about 1 h 0 min"),
        (12, 47, None, "12 of 47 documents; --limit all would make them about half as wide"),
        (12, 15, 1.0, "12 of 15 documents; --limit all would make them about 0.9 times as wide and take about 4.0 s"),
        (
            12,
            1200,
            2.0,
            "12 of 1,200 documents; --limit all would make them about 0.1 times as wide and take about 8.0 s",
        ),
    ],
)
def test_the_price_is_a_width_from_the_documents_and_a_time_from_the_plan(
    fakes: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    used: int,
    given: int,
    seconds: float | None,
    sentence: str,
) -> None:
    said = priced(monkeypatch, tmp_path, cells_of(fakes, limit=used), seconds, used=used, given=given)
    assert said == [f"95% intervals rest on {sentence}"]


def test_nothing_is_said_where_every_document_was_read_or_no_limit_was_set(
    fakes: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert priced(monkeypatch, tmp_path, cells_of(fakes, limit=12), 1.0, used=12, given=12) == []
    assert priced(monkeypatch, tmp_path, cells_of(fakes, limit=None), 1.0, used=12, given=47) == []


# The number of a cell


def record(cell: Cell, **changes: Any) -> CellRecord:
    samples = (
        Sample(keys={"document": "a"}, values={"nats": 30.0, "num_bytes": 10, "num_tokens": 10}),
        Sample(keys={"document": "b"}, values={"nats": 10.0, "num_bytes": 30, "num_tokens": 30}),
    )
    values: dict[str, Any] = {"cell": cell, "status": "ok", "reason": None, "started": "", "cell_s": 1.0}
    values |= {"cell_cpu_s": 1.0, "load_average": 0.0, "engine": "eager", "kernel_path": {}}
    return CellRecord(**{**values, "metrics": Perplexity.metrics, "samples": samples, **changes})


def test_a_cell_s_number_is_its_ratio_of_sums(fakes: ModuleType) -> None:
    cell = cells_of(fakes, limit=2)[0]
    # 40 nats over 40 bytes are one nat a byte, which is 1.4427 bits
    assert headline(record(cell)) == "1.443 bits per byte"
    assert headline(record(cell, status="too_long", samples=())) is None
