"""The Ray executor with a module in Ray's place that runs tasks at once, loses them or keeps them waiting.

What Ray itself does with lost nodes and workers is seen by `make ray`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import ttbench
from ttbench.errors import UsageError
from ttbench.runs.executors import ray_executor
from ttbench.runs.executors.base import Placement
from ttbench.runs.executors.task import run_task
from ttbench.runs.executors.tasks import read_tasks
from ttbench.runs.options import Options
from ttbench.runs.plan import Plan, join
from ttbench.runs.request import plan_task
from ttbench.runs.sweep import run_cells
from ttbench.store.store import Store, run_folders


class NodeDiedError(Exception):
    """As Ray calls it."""


class FakeRay(ModuleType):
    """As much of Ray as is used: `fate` says what becomes of the n-th task."""

    def __init__(self) -> None:
        super().__init__("ray")
        self.__spec__ = importlib.util.spec_from_loader("ray", loader=None)
        self.fate: dict[int, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.words: list[list[str]] = []
        self.cancelled: list[int] = []
        self.log: list[str] = []

    def init(self, **given: Any) -> None:
        self.log.append(f"init {sorted(given)}")

    def shutdown(self) -> None:
        self.log.append("shutdown")

    def nodes(self) -> list[dict[str, Any]]:
        sizes = {"small": 2.0, "large": 8.0}
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": cpus}} for name, cpus in sizes.items()]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 10.0, "memory": 2.0 * 1024**3}

    def remote(self, function: Any) -> Any:
        def submit(words: list[str], *rest: Any) -> int:
            self.words.append(words)
            return len(self.words) - 1

        def options(**given: Any) -> Any:
            self.asked.append(given)
            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=options)

    def wait(self, references: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        ready = [each for each in references if self.fate.get(each) != "wait"][:1]
        return ready, references

    def get(self, reference: int) -> int:
        fate = self.fate.get(reference, "run")
        if isinstance(fate, Exception):
            raise fate
        if fate == "run":
            *_, folder, index = self.words[reference]
            return run_task(folder, int(index))
        return fate

    def cancel(self, reference: int, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    found = FakeRay()
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda **given: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", found)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return found


def lay_out(fakes: ModuleType, task: str = "fake-quality", *, names: str = "ab", **options: Any) -> Plan:
    checkpoints = tuple(fakes.checkpoint(name) for name in names)
    return plan_task(task, Options(checkpoints=checkpoints, threads=1, **options), out="absent")


def ran(plan: Plan, out: Path, *, yaml: str = "queue_timeout: 0.01\n") -> Store:
    out.mkdir(exist_ok=True)
    (out / "cluster.yaml").write_text(yaml)
    placed = Placement(executor="ray", cluster=str(out / "cluster.yaml"))
    return Store(run_cells(plan, out=out / "runs", placed=placed).folder)


def test_without_ray_there_is_one_clear_line_and_no_run(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"executor ray needs ray, which is not installed: pip install 'ttbench\[ray\]'"
    ):
        ttbench.run("fake-quality", checkpoints=[fakes.checkpoint("a")], ctx="1k", executor="ray", out=tmp_path)
    assert run_folders(tmp_path) == []


def test_rows_are_those_of_local_and_nothing_is_retried(fakes: ModuleType, ray: FakeRay, tmp_path: Path) -> None:
    options: dict[str, Any] = {"checkpoints": [fakes.checkpoint("a")], "ctx": "1k,2k", "threads": 1}
    rows = ttbench.run("fake-quality", executor="ray", out=tmp_path / "ray", **options)
    local = ttbench.run("fake-quality", out=tmp_path / "local", **options)
    columns = ["cell_id", "sample", "hits", "share", "status", "checkpoint"]
    assert rows.loc[:, columns].equals(local.loc[:, columns])
    [asked] = ray.asked
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_retries"]) == (1, 0, 0)
    assert asked["memory"] >= 512 * 1024**2
    assert "scheduling_strategy" not in asked
    assert ray.log == ["init ['configure_logging', 'log_to_driver']", "shutdown"]
    assert ray.words[0][:4] == [sys.executable, "-P", "-m", "ttbench.runs.executors.task"]


def test_what_ray_loses_ends_as_a_status(fakes: ModuleType, ray: FakeRay, tmp_path: Path) -> None:
    # Each of four checkpoints is a task: a node that dies, a process with an exit code, one by signal, one that runs.
    ray.fate = {0: NodeDiedError("node n1 died\nmore"), 1: 2, 2: -9}
    plan = lay_out(fakes, names="abcd", ctx="1k")
    found = {record.cell.checkpoint.name: record for record in ran(plan, tmp_path).records()}
    assert [found[name].status for name in "abcd"] == ["killed", "error", "killed", "ok"]
    assert found["a"].reason == "its node died (NodeDiedError: node n1 died)"
    assert "exit code 2" in str(found["b"].reason)
    assert "ended by a signal (exit code -9)" in str(found["c"].reason)
    again = ran(plan, tmp_path)
    assert set(again.done().values()) == {"ok"}
    assert sum(len(task.cells) for task in read_tasks(again)) == 3


def test_what_finds_no_place_ends_with_what_it_asked_for(fakes: ModuleType, ray: FakeRay, tmp_path: Path) -> None:
    ray.fate = {1: "wait"}
    store = ran(lay_out(fakes, ctx="1k"), tmp_path, yaml="queue_timeout: 0.01\ncpus: 64\n")
    statuses = [record.status for record in store.records()]
    assert statuses == ["ok", "killed"]
    [reason] = [record.reason for record in store.records() if record.reason]
    assert reason.startswith("not started within 0.01 s: it asks for 64 CPUs and 0.5 GiB, and Ray has 10 CPUs, 0 GPUs")
    assert ray.cancelled == [1]


def test_a_timing_comparison_has_a_whole_node(fakes: ModuleType, ray: FakeRay, tmp_path: Path) -> None:
    plan = join([lay_out(fakes, ctx="1k"), lay_out(fakes, "fake-timing", ctx="1k", params={"rounds": 2})])
    ray.fate = dict.fromkeys(range(3), 0)
    store = ran(plan, tmp_path)
    assert [len(task.cells) for task in read_tasks(store)] == [1, 1, 4]
    timing = ray.asked[2]
    assert (timing["num_cpus"], timing["scheduling_strategy"]) == (8, {"node_id": "large", "soft": False})
    assert {str(record.reason) for record in store.records()} == {
        "its process ended without it (exit code 0); see the task's log"
    }


def test_ctrl_c_cancels_what_was_submitted(fakes: ModuleType, ray: FakeRay, tmp_path: Path) -> None:
    ray.fate = {1: "wait"}

    def get(reference: int) -> int:
        raise KeyboardInterrupt

    ray.get = get  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ran(lay_out(fakes, ctx="1k"), tmp_path)
    assert ray.cancelled == [1]
    assert ray.log[-1] == "shutdown"


def test_the_function_that_is_sent_runs_words_with_a_prologue_and_a_parent(tmp_path: Path) -> None:
    start = ray_executor._starter()
    words = [sys.executable, "-c", "import os, sys; print(sys.argv[1:], os.environ['X'], os.environ['Y']); sys.exit(3)"]
    code = start(words, {"X": "from the driver"}, str(tmp_path / "log"), "Y='of the node'; export Y")
    assert code == 3
    text = (tmp_path / "log").read_text()
    assert text == f"['--parent', '{os.getpid()}'] from the driver of the node\n"
