"""What a run costs beside its measurements, at 10^3, 10^4 and 10^5 cells of 30 samples: `make scale`.

    plan        lay out the cells of one task
    create      the run's folder, with the list of its cells
    work        a fake executor: 1000 workers, in 4 processes, write what they would have measured, in turns
    look-up     the same command again: where is each cell, and is the run finished (each cell's digest is checked)
    collection  rows.parquet from the cells, by several processes where there are many cells

Cells are of the task `perplexity` with all its columns; only the numbers are made up. Each step has a process of its
own, whose processor seconds, wall seconds and peak memory are told, with those of the processes that it started. Files
are written and not synced: how long a disk takes to sync is a property of the disk, and is told apart (`--sync`).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from made import put

from ttbench.machine import measure
from ttbench.registry import TASKS
from ttbench.runs.plan import Plan, plan
from ttbench.store import files, segments
from ttbench.store.files import write_whole
from ttbench.store.record import CellRecord, now
from ttbench.store.store import Store, find_done, find_finished
from ttbench.tasks.base import declared_columns
from ttbench.types import Cell, Checkpoint, Cost, Sample, digest

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
TASK = "perplexity"
NUM_SAMPLES = 30
NUM_WORKERS = 1000
NUM_PROCESSES = 4
HEAD = """| cells | step | wall s | processor s | peak GiB | load | on the disk |
|---:|---|---:|---:|---:|---:|---|"""
STEPS = ("plan", "create", "work", "look-up", "collection")
GIB = 1024**3


def checkpoint(number: int) -> Checkpoint:
    """A checkpoint that exists by name only."""
    return Checkpoint(
        name=f"model-{number}",
        path=f"/models/model-{number}",
        architecture="transformer",
        architecture_version=1,
        dialect="transformer",
        provenance="local",
        revision=None,
        weights_digest=digest(f"weights {number}"),
        config_digest=digest(f"config {number}"),
        tokenizer_digest=digest("bytes"),
        vocab_size=257,
        train_ctx=1024,
        num_params=1_000_000,
        num_params_non_embedding=900_000,
        weight_bytes=4_000_000,
        cost=Cost(flops_per_token=2e6, flops_per_context_token=1e3, state_bytes=0, state_bytes_per_token=1024),
        attention=("sdpa",),
    )


def lay_out(num_cells: int) -> Plan:
    """A plan of so many cells: a hundred checkpoints, or fewer, at a row of contexts."""
    num_checkpoints = min(100, num_cells // 10)
    return plan(
        TASK,
        checkpoints=[checkpoint(number) for number in range(num_checkpoints)],
        context_lens=[256 + 8 * step for step in range(num_cells // num_checkpoints)],
        params={},
        corpus="code",
        corpus_digest=digest("code"),
        seed=0,
        dtype="float32",
        device="cpu",
        attention=None,
        batch_size=None,
        threads=1,
        machine=measure.machine_fingerprint(),
        texts={"test": (40_000,) * 42},
    )


def record(cell: Cell, rng: random.Random) -> CellRecord:
    """What a worker would have measured."""
    task = TASKS.load(TASK)
    samples = tuple(
        Sample(
            keys={"document": f"a/file/of/the/corpus/{index}.py", "bos": "window", "window_start": 97 * index,
                  "shared_context": 32768, "position": None, "position_end": None, "stride": None},
            values={"num_tokens": 256, "num_bytes": 256, "num_words": None, "peak_rss_bytes": None,
                    "document_bytes": 41435, "bzip2_bytes": 8015, "xz_bytes": 8480, "num_documents": 42,
                    "reused_tokens": 0, "nats": rng.uniform(300, 400), "page_nats": None, "page_tokens": None},
        )
        for index in range(NUM_SAMPLES)
    )  # fmt: skip
    return CellRecord(
        cell=cell,
        status="ok",
        reason=None,
        started=now(),
        cell_s=rng.uniform(1, 9),
        cell_cpu_s=rng.uniform(1, 9),
        load_average=1.0,
        engine="eager",
        kernel_path={"attention": "sdpa"},
        metrics=task.metrics,
        figures=task.figures,
        checked="passed",
        columns=declared_columns(task),
        samples=samples,
    )


def work(folder: Path, num_cells: int, process: int) -> None:
    """A share of the workers of a run: each writes its cells to a store of its own, one cell of each in turn."""
    cells, environment = lay_out(num_cells).cells, measure.environment()
    stores = [Store(folder, environment=environment) for _ in range(process, NUM_WORKERS, NUM_PROCESSES)]
    rng = random.Random(process)
    for turn, cell in enumerate(cells[process::NUM_PROCESSES]):
        stores[turn % len(stores)].write_cell(record(cell, rng))


def step(name: str, root: Path, num_cells: int, *, sync: bool, process: int) -> dict[str, Any]:
    """Do one step in this process, and tell what it cost."""
    if not sync:
        for module in (files, segments):
            vars(module)["sync"] = lambda path: None
    cells = lay_out(num_cells).cells if name in ("create", "look-up") else ()
    folders = [path.parent for path in root.glob("*/run.json")]
    wall, cpu = time.perf_counter(), time.process_time()
    if name == "plan":
        assert len(lay_out(num_cells).cells) == num_cells
    elif name == "create":
        Store.create(
            root,
            name="scale",
            command="",
            options={},
            cells=cells,
            environment=measure.environment(),
            segmented=True,
        )
    elif name == "work":
        work(folders[0], num_cells, process)
    elif name == "look-up":
        done = find_done(root, [cell.cell_id for cell in cells])
        assert len(done) == num_cells, len(done)
        assert find_finished(root, cells, name="scale", done=done) is not None
    else:
        Store(folders[0]).write_rows()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    # Of processes that collected for this one: the largest, as often as there were any, at the same time as this one.
    children, num_children = resource.getrusage(resource.RUSAGE_CHILDREN), 0
    if name == "collection":
        # Late: pandas is in no other step.
        from ttbench.store.collected import num_processes

        num_children = num_processes(num_cells)
    return {
        "wall_s": wall,
        "cpu_s": cpu + children.ru_utime + children.ru_stime,
        "peak_bytes": measure.peak_rss() + num_children * children.ru_maxrss * 1024,
        "load": measure.load_average(),
    }


def measured(name: str, root: Path, num_cells: int, *, sync: bool) -> dict[str, Any]:
    """A step in a process of its own, or in several: their sum of processor seconds, and the largest memory."""
    command = [sys.executable, __file__, "--root", str(root), "--cells", str(num_cells), *(["--sync"] if sync else [])]
    shares = range(NUM_PROCESSES if name == "work" else 1)
    started = [
        subprocess.Popen([*command, "--step", name, "--process", str(share)], stdout=subprocess.PIPE, text=True)
        for share in shares
    ]
    told = [json.loads(process.communicate()[0]) for process in started]
    return {
        "wall_s": max(each["wall_s"] for each in told),
        "cpu_s": sum(each["cpu_s"] for each in told),
        "peak_bytes": max(each["peak_bytes"] for each in told),
        "load": max(each["load"] for each in told),
    }


def line(num_cells: int, name: str, found: dict[str, Any], root: Path) -> str:
    """A row of the table."""
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / GIB
    files_here = sum(path.is_file() for path in root.rglob("*"))
    held = f"{size:.2f} GiB in {files_here:,} files" if name in ("create", "work", "collection") else ""
    told = f"{found['wall_s']:.1f} | {found['cpu_s']:.1f} | {found['peak_bytes'] / GIB:.2f} | {found['load']:.1f}"
    return f"| {num_cells:,} | {name} | {told} | {held} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="1000,10000,100000", help="numbers of cells")
    parser.add_argument("--sync", action="store_true", help="sync files to the disk, as runs do")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        found = step(asked.step, asked.root, int(asked.cells), sync=asked.sync, process=asked.process)
        print(json.dumps(found))
        return
    lines = []
    for num_cells in map(int, asked.cells.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            for name in STEPS:
                found = measured(name, Path(scratch), num_cells, sync=asked.sync)
                lines.append(line(num_cells, name, found, Path(scratch)))
                print(lines[-1], flush=True)
    if asked.write:
        write_whole(PAGE, put(PAGE.read_text(encoding="utf-8"), "scale", [HEAD, *lines]).encode())


if __name__ == "__main__":
    main()
