"""The local executor with several workers: side by side where that changes no number, and never beside a timing."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttbench.errors import StoreError, UsageError
from ttbench.runs.executors import needs
from ttbench.runs.executors.base import Placement
from ttbench.runs.executors.local import batches
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan, join
from ttbench.runs.process import WorkerProcess
from ttbench.runs.progress import Outlook, Silent
from ttbench.runs.request import plan_task
from ttbench.runs.sweep import RunInterrupted, run_cells, run_task
from ttbench.store.store import Store, run_folders
from ttbench.types import Cell

TWO = Placement(jobs=2)


def lay_out(fakes: ModuleType, task: str = "fake-quality", *, names: str = "ab", **options: Any) -> Plan:
    checkpoints = tuple(fakes.checkpoint(name) for name in names)
    return plan_task(task, Options(checkpoints=checkpoints, threads=1, **options), out="absent")


def spans(log: Path) -> dict[str, tuple[float, float]]:
    """When each cell began and ended, by id."""
    lines = [line.split() for line in log.read_text().splitlines()]
    begun, ended = ({line[1]: float(line[3]) for line in lines if line[0] == verb} for verb in ("begin", "end"))
    return {cell_id: (begun[cell_id], ended[cell_id]) for cell_id in begun}


def overlap(one: tuple[float, float], two: tuple[float, float]) -> bool:
    return one[0] < two[1] and two[0] < one[1]


def test_timing_cells_part_the_groups_that_may_run_together(fakes: ModuleType) -> None:
    first, last = lay_out(fakes, ctx="1k,2k"), lay_out(fakes, ctx="4k", names="cd")
    timing = lay_out(fakes, "fake-timing", ctx="1k")
    found = list(batches(join([first, timing, last]).cells))
    assert [[group[0].checkpoint.name for group in batch] for batch in found] == [["a", "b"], ["a"], ["b"], ["c", "d"]]
    assert [len(group) for group in found[0]] == [2, 2]
    assert list(batches(())) == []


def test_quality_cells_run_side_by_side_and_timing_cells_alone_with_the_rows_of_one_by_one(
    fakes: ModuleType, tmp_path: Path
) -> None:
    params: dict[str, Any] = {"sleep_s": 0.15, "log": str(tmp_path / "log")}
    quality = lay_out(fakes, ctx="1k,2k", params=params)
    timing = lay_out(fakes, "fake-timing", ctx="1k", params=params)
    plan = join([quality, timing])
    result = run_cells(plan, out=tmp_path / "two", placed=TWO)
    assert set(result.statuses.values()) == {"ok"}
    seen = spans(tmp_path / "log")
    of = {cell.cell_id: seen[cell.cell_id] for cell in plan.cells}
    a, b = ([of[cell.cell_id] for cell in quality.cells if cell.checkpoint.name == name] for name in "ab")
    assert any(overlap(one, two) for one in a for two in b)
    for cell in timing.cells:
        others = [span for cell_id, span in of.items() if cell_id != cell.cell_id]
        assert not any(overlap(of[cell.cell_id], other) for other in others)
    alone = run_cells(quality, out=tmp_path / "one").rows()
    columns = ["cell_id", "sample", "checkpoint", "hits", "share", "status"]
    beside = result.rows()
    found = beside.loc[beside["task"] == "fake-quality", columns].to_numpy().tolist()
    assert sorted(found) == sorted(alone.loc[:, columns].to_numpy().tolist())


def test_ctrl_c_stops_every_worker_and_keeps_what_ended(fakes: ModuleType, tmp_path: Path) -> None:
    plan = lay_out(fakes, ctx="1k,2k", params={"what": "hang", "at": 2048, "log": str(tmp_path / "log")})
    started: list[str] = []

    class Press(Silent):
        def on_cell_start(self, cell: Cell, *, index: int, num_cells: int, seconds_left: float | None) -> None:
            started.append(f"{index}/{num_cells}")
            if len(started) == 4:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(RunInterrupted) as caught:
        run_cells(plan, out=tmp_path / "runs", progress=Press(), placed=TWO)
    assert (caught.value.num_done, caught.value.num_cells) == (2, 4)
    assert sorted(started)[-1] == "4/4"
    for line in (tmp_path / "log").read_text().splitlines():
        assert not Path(f"/proc/{line.split()[2]}").exists()
    # Cells in flight have no end: the same command measures them.
    assert list(Store(caught.value.folder).done().values()) == ["ok", "ok"]


def test_an_error_of_one_worker_stops_the_others(fakes: ModuleType, tmp_path: Path) -> None:
    bad = lay_out(fakes, names="a", ctx="1k", params={"what": "no room"})
    hangs = lay_out(fakes, names="b", ctx="1k", params={"what": "hang"})
    with pytest.raises(StoreError, match="no space left"):
        run_cells(join([bad, hangs]), out=tmp_path, placed=TWO)
    assert Store(run_folders(tmp_path)[0]).done() == {}


def test_more_workers_than_there_is_memory_for_are_refused_in_one_line(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"num_params": 2**28, "weight_bytes": 2**30}
    checkpoints = tuple(fakes.checkpoint(name, **big) for name in "abc")
    plan = plan_task("fake-quality", Options(checkpoints=checkpoints, threads=1, ctx="1k"), out="absent")
    assert needs.group_bytes(plan, plan.cells[:1]) == needs.PROCESS_BYTES + 2**30 + 64 + 8 * 1024
    monkeypatch.setattr(needs, "free_memory_bytes", lambda: 4 * 2**30)
    with pytest.raises(UsageError, match=r"--jobs 3 needs at least 4\.5 GiB .* 4\.0 GiB are free: --jobs 2$") as caught:
        run_cells(plan, out=tmp_path, placed=Placement(jobs=3))
    assert "\n" not in str(caught.value)
    assert run_folders(tmp_path) == []
    # What is left over counts, not what was asked for: two checkpoints never need three times the memory.
    needs.require_room(plan, plan.cells[:2], jobs=3)


def test_a_gpu_for_each_worker(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1, GPU-2,-1")
    assert needs.gpu_ids() == ("GPU-1", "GPU-2")
    names = {device: lay_out(fakes, names="abc", ctx="1k", device=device) for device in ("cuda", "cuda:1")}
    needs.require_room(names["cuda"], names["cuda"].cells, jobs=2)
    with pytest.raises(UsageError, match="needs 3 GPUs, one for each worker, and 2 can be used here: --jobs 2"):
        needs.require_room(names["cuda"], names["cuda"].cells, jobs=3)
    with pytest.raises(UsageError, match="write --device cuda, not cuda:1"):
        needs.require_room(names["cuda:1"], names["cuda:1"].cells, jobs=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert needs.gpu_ids() == ()


def test_workers_on_gpus_see_one_each(fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr("ttbench.machine.devices.torch_device", lambda name: None)
    seen: list[str] = []

    def start(self: WorkerProcess, folder: Path, *, variables: dict[str, str], **rest: Any) -> None:
        seen.append(variables["CUDA_VISIBLE_DEVICES"])
        raise StoreError("no worker is needed")

    monkeypatch.setattr(WorkerProcess, "__init__", start)
    with pytest.raises(StoreError, match="no worker is needed"):
        run_cells(lay_out(fakes, names="ab", ctx="1k", device="cuda"), out=tmp_path, placed=TWO)
    assert set(seen) <= {"4", "7"}
    assert seen


def test_time_left_is_shared_by_the_workers(fakes: ModuleType) -> None:
    import dataclasses

    plan = join([lay_out(fakes, ctx="1k"), lay_out(fakes, "fake-timing", ctx="1k")])
    each = {key: dataclasses.replace(found, seconds=10.0, setup_s=0.0) for key, found in plan.estimates.items()}
    outlook = Outlook(dataclasses.replace(plan, estimates=each), plan.cells)
    assert outlook.seconds_left() == 40.0
    with outlook.shared_by(2):
        assert outlook.seconds_left() == 30.0


def test_an_executor_of_another_package_is_found_checked_and_run(fakes: ModuleType, tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoints": [fakes.checkpoint("a")], "out": tmp_path, "executor": "fake-executor"}
    rows = run_task("fake-quality", ctx="1k,2k", **options)
    assert rows["status"].tolist() == ["killed", "killed"]
    assert rows["reason"].unique().tolist() == ["the fake cluster ends them all"]
    with pytest.raises(UsageError, match="no room for more than 4k"):
        run_task("fake-quality", ctx="8k", **options)
    assert len(run_folders(tmp_path)) == 1
    with pytest.raises(UsageError, match=r"--cluster x\.yaml says what a cluster is asked for, and executor local"):
        run_task("fake-quality", checkpoints=[fakes.checkpoint("a")], ctx="1k", out=tmp_path, cluster="x.yaml")
