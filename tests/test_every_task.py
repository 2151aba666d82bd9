"""What CONTRIBUTING promises to whoever registers something: a run of every task, and a plan of every suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guard
import numpy as np
import pandas as pd
import pytest

from ttbench.lmeval import social_iqa
from ttbench.machine import measure
from ttbench.machine.measure import environment
from ttbench.registry import TASKS
from ttbench.report.table import summarise
from ttbench.runs.options import Options
from ttbench.runs.request import plan_suite, plan_task
from ttbench.runs.suite import SuiteTask, list_suites, load_suite
from ttbench.runs.worker import Channel, Group, run_cell
from ttbench.store.rows import read_rows
from ttbench.store.store import Store

SMOKE = {entry.task: entry for entry in load_suite(list_suites()["smoke"]).tasks}
# What makes an entry of `smoke` shorter still.
SHORTER: dict[str, dict[str, Any]] = {
    "perplexity": {"limit": 2, "windows": 1, "max_context": 256},
    "latency": {"decode_tokens": 2},
    "memory": {"decode_tokens": 2},
    "probe": {"limit": 8},
}
# The names of a metric's declaration that stand for columns of rows.
COLUMNS = ("numerator", "denominator", "cluster")


class Silent(Channel):
    """Tells nobody."""

    def __init__(self) -> None:
        """Leave stdout alone."""

    def progress(self, cell_id: str, done: int, total: int, setup_s: float) -> None: ...


@pytest.fixture
def sequences(tmp_path: Path) -> str:
    """A corpus of bases in two classes: one has few of A and T."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, shares in (("at", [0.4, 0.1, 0.1, 0.4]), ("gc", [0.1, 0.4, 0.4, 0.1])):
            folder = tmp_path / "dna" / split / label
            folder.mkdir(parents=True)
            for number in range(4):
                (folder / f"{number}.txt").write_text("".join(draw.choice(list("ACGT"), size=600, p=shares)))
    return f"text:{tmp_path / 'dna'}"


def rows_of(entry: SuiteTask, *, corpus: str | None, folder: Path) -> pd.DataFrame:
    """The rows of one checkpoint at one short context, measured in this process."""
    params = {**entry.params, **SHORTER.get(entry.task, {})}
    names = (TASKS.load(entry.task).default_checkpoints or ("ttt-linear",))[:1]
    options = Options(checkpoints=names, ctx="256", corpus=corpus, params=params, threads=1)
    (cell,) = plan_task(entry.task, options, out=folder).cells
    store = Store.create(folder, name=entry.task, command="", options={}, cells=[cell], environment=environment())
    with guard.restored():
        record = run_cell(cell, group=Group(), channel=Silent())
    assert record.status == "ok", record.evidence or record.reason
    store.write_cell(record)
    return read_rows(store.write_rows())


def test_smoke_has_every_task() -> None:
    assert SMOKE.keys() == set(TASKS)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_run_of_every_task_has_the_columns_of_its_metrics_and_makes_its_table(
    task: str, sequences: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = {"asked": "Ann found a ring. Why?", "answerA": "luck", "answerB": "no", "answerC": "rain", "label": 1}
    monkeypatch.setattr(social_iqa, "questions", lambda: [question] * 4)
    # Imports that a worker does before it measures are done here.
    monkeypatch.setattr(measure, "prepare_process", lambda: None)
    corpus = sequences if task in ("genomics", "probe") else SMOKE[task].options.get("corpus")
    rows = rows_of(SMOKE[task], corpus=corpus, folder=tmp_path / "runs")
    metrics = TASKS.load(task).metrics
    for metric in metrics:
        wanted = [getattr(metric, name) for name in COLUMNS if getattr(metric, name) is not None]
        assert {*wanted, *metric.axes, *metric.where} <= set(rows.columns), metric.name
    table = summarise(rows)
    assert set(table["metric"]) <= {metric.name for metric in metrics}
    assert set(table["status"]) == {"ok"}
    assert not table["value"].isna().to_numpy().any()


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_bit_is_the_natural_logarithm_of_two_in_nats(task: str) -> None:
    metrics = [metric for metric in TASKS.load(task).metrics if metric.unit.startswith("bit/")]
    assert metrics or task not in ("perplexity", "genomics", "commonsense")
    for metric in metrics:
        nats = metric.numerator == "nats" or "nats" in metric.numerator
        # half a nat is 0.72134752 bits; compressors are counted in bytes of 8 bits
        expected = 0.7213475204444817 if nats else 4.0
        assert 0.5 * metric.scale == pytest.approx(expected, rel=1e-12), metric.name


@pytest.mark.parametrize("path", sorted(list_suites().values()), ids=lambda path: path.stem)
def test_a_plan_of_every_suite_has_a_cell_or_says_what_is_missing(path: Path) -> None:
    suite = load_suite(path)
    given = {"checkpoints": ("transformer",), "threads": 1}
    # What this suite names is trained by the goal that runs it.
    if path.stem == "real-adapt":
        given["params"] = {"experts": "transformer"}
    plan = plan_suite(path, Options(**given))
    asked = {(entry.task) for entry in suite.tasks}
    assert {cell.task for cell in plan.cells} | {skip.cell.task for skip in plan.skips} == asked
    assert all(skip.status == "unsupported" and skip.reason for skip in plan.skips)
    assert all(estimate.flops for estimate in plan.estimates.values())
