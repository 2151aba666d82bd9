"""docs/ci.md: its steps are executed, word for word, on a model of the zoo; a slowdown and a loss of quality are red.

What is not real: `pip` only looks for the wheel (tests/test_packaging.py installs one), commands of ttbench run in this
process, and seconds of `latency` are made up, since ten processes would take half a minute.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from ttbench.cli.app import app
from ttbench.runs import sweep
from ttbench.runs.executors.base import Assignment
from ttbench.runs.plan import Plan
from ttbench.store.record import CellRecord, now
from ttbench.store.rows import parquet_bytes
from ttbench.tasks.latency import Latency
from ttbench.types import Cell, Sample

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
(WORKFLOW,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
(BASELINE,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
JOBS = yaml.safe_load(WORKFLOW)["jobs"]


def steps(job: str) -> dict[str, str]:
    """What the steps of a job run, by name."""
    return {step["name"]: step["run"] for step in JOBS[job]["steps"] if "run" in step}


def execute(script: str) -> int:
    """Exit code of a step's script, which ends at the first line that fails."""
    for line in script.strip().splitlines():
        program, *words = shlex.split(line)
        if program == "ttbench":
            done = CliRunner().invoke(app, words)
            print(done.output)
            code = done.exit_code
        else:
            code = subprocess.run(["bash", "-ec", line], check=False).returncode
        if code:
            return code
    return 0


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository as the page has it: a wheel, a checkpoint, and a baseline made as the page says."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "wheels").mkdir()
    (folder / "wheels" / "ttbench-0.1.0-py3-none-any.whl").touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "pip").write_text('#!/bin/sh\ntest "$1" = install && test -f "$2" && test $# = 2\n')
    (folder / "bin" / "pip").chmod(0o755)
    shutil.copytree(ROOT / "ttbench" / "zoo" / "transformer", folder / "models" / "mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
        patch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
        patch.delenv("RUNNER_ENVIRONMENT", raising=False)
        assert execute(BASELINE) == 0
        # a job starts from a clone, which has no runs
        (folder / "runs").rename(folder / "runs-of-the-baseline")
        yield folder


def test_an_unchanged_checkpoint_is_green_from_the_first_step_to_the_last(repository: Path) -> None:
    assert list(steps("quality")) == ["install", "check", "measure", "gate"]
    for name, script in steps("quality").items():
        assert execute(script) == 0, name
    suites = ET.parse(repository / "gate.xml").getroot()
    assert suites.get("failures") == "0"
    assert int(suites.get("tests", "0")) >= 1
    assert "ttbench gate: green" in (repository / "summary.md").read_text(encoding="utf-8")
    kept = JOBS["quality"]["steps"][-1]["with"]["path"].split()
    assert all((repository / path).exists() for path in kept)


def test_an_injected_loss_of_quality_is_caught(repository: Path) -> None:
    """After the test above, whose run it judges: the baseline was better by a hundredth."""
    path = repository / "baselines" / "mine" / "rows.parquet"
    before = path.read_bytes()
    rows = pq.read_table(path)
    place = rows.schema.get_field_index("nats")
    better = np.array([None if x is None else x * 0.99 for x in rows["nats"].to_pylist()])
    path.write_bytes(parquet_bytes(rows.set_column(place, rows.schema.field(place), pa.array(better, pa.float64()))))
    try:
        assert execute(steps("quality")["gate"]) == 3
    finally:
        path.write_bytes(before)
    assert int(ET.parse(repository / "gate.xml").getroot().get("failures", "0")) > 0


def record_of(cell: Cell, seconds: float) -> CellRecord:
    return CellRecord(
        cell=cell,
        status="ok",
        reason=None,
        started=now(),
        cell_s=1.0,
        cell_cpu_s=1.0,
        load_average=0.0,
        engine="eager",
        kernel_path={},
        metrics=tuple(metric for metric in Latency.metrics if metric.name == "prefill_s"),
        samples=(Sample(keys={"phase": "prefill"}, values={"call_s": seconds, "num_tokens": 256}),),
    )


@pytest.mark.parametrize(("slowdown", "status"), [(1.0, 0), (1.2, 3)])
def test_an_injected_slowdown_is_caught(
    repository: Path, monkeypatch: pytest.MonkeyPatch, slowdown: float, status: int
) -> None:
    shutil.rmtree(repository / "runs", ignore_errors=True)
    rng, factor = np.random.default_rng(0), [1.0]

    class MadeUp:
        """An executor that starts nothing: rounds of ten milliseconds, more or less."""

        detached, num_ended = False, 0

        def check(self, plan: Plan, cells: Sequence[Cell]) -> None:
            pass

        def run(self, work: Assignment) -> None:
            for cell in work.cells:
                work.store.write_cell(record_of(cell, 0.01 * factor[0] * float(np.exp(0.02 * rng.standard_normal()))))

    monkeypatch.setattr(sweep, "open_executor", lambda placement: MadeUp())
    assert JOBS["times"]["runs-on"] == "self-hosted"
    measure, judge = steps("times").values()
    assert execute(measure.replace("--name times", f"--name first-{status}")) == 0
    (first,) = repository.glob(f"runs/*-first-{status}")
    baseline = repository / "baselines" / "times"
    baseline.mkdir(exist_ok=True)
    (baseline / "rows.parquet").write_bytes((first / "rows.parquet").read_bytes())
    factor[0] = slowdown
    assert execute(measure) == 0
    assert execute(judge) == status
    # what was slower was measured again by the gate itself
    assert len(list(repository.glob("runs/*-again"))) == (status == 3)
    word = "needs more" if status == 3 else "green"
    assert word in (repository / "gate.md").read_text(encoding="utf-8")


def test_the_page_names_fields_that_comparisons_have() -> None:
    words = ["compare", "transformer", "ttt-linear", "--run", str(ROOT / "results/bench/cpu"), "--json"]
    found = json.loads(CliRunner().invoke(app, words).stdout)["comparisons"]
    (table,) = re.findall(r"^### The fields of a comparison\n(.*)", PAGE, re.M | re.S)
    named = {word for row in re.findall(r"^\| (`.*?) \|", table, re.M) for word in re.findall(r"`(\w+)`", row)}
    assert len(named) > 15
    assert named <= set(found[0])


def test_the_page_says_what_the_simulation_found() -> None:
    times: Any = pd.read_csv(ROOT / "results/calibration/gate_times.csv")
    unchanged = times[(times["shift"] == 0.02) & (times["moved"] == "each") & (times["times"] == "normal")]
    line = unchanged[unchanged["slowdown"] == 0].iloc[0]
    shown = re.findall(r"^\| [^|]+ \| ([\d.]+) % \|$", PAGE, re.M)
    found = [line[name] for name in ("p < 0.05", "Holm", "Holm, by more than 5 %", "gate")]
    assert [f"{float(text):g}" for text in shown] == [f"{float(f'{100 * share:.2g}'):g}" for share in found[:3]] + [
        f"{100 * found[3]:.1f}"
    ]
    named = {row["slowdown"]: row["named"] for row in unchanged.to_dict("records")}
    assert f"20 % slower is named in {100 * named[0.2]:.0f} % of" in PAGE
    assert f"10 % slower in {100 * named[0.1]:.0f} %" in PAGE
    restless = times[(times["shift"] == 0.05) & (times["moved"] == "each")].iloc[0]
    assert f"{100 * restless['gate']:.0f} % of unchanged commits are red" in PAGE
    quality: Any = pd.read_csv(ROOT / "results/calibration/gate_quality.csv")
    at_margin = quality[quality["loss"] == 0.005]["red"].mean()
    assert f"about {round(1000 * (1 - at_margin), -1):.0f} pass" in PAGE
