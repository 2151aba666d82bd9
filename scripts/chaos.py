"""What a run survives: kills, full and read-only disks, other runs, damaged files, clocks and memory: `make chaos`.

Each trial runs a plan of the fakes of the tests, disturbs it, and lets the same command finish it. Whatever happened,
the final rows are those of an undisturbed run, a cell that was stored stays stored, and no process outlives its run.
Disturbances are drawn by `--seed`; runs of both kinds, with a file for each cell and with segments, are drawn too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from chaos_trial import Failing, Trial, fakes, require, require_no_orphans, workers_of

from ttbench.errors import StoreError
from ttbench.machine import cgroups
from ttbench.machine.measure import environment
from ttbench.runs.executors.base import unmeasured
from ttbench.runs.plan import Plan
from ttbench.store.record import now
from ttbench.store.store import Store, find_done, run_folders
from ttbench.types import Sample

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
HERE = environment()
MIB = 1024**2


def kills(rng: random.Random, root: Path, num_kills: int) -> str:
    """Kill parents, workers and both, by three signals, until so many were killed."""
    count, campaigns = 0, 0
    by: dict[str, int] = {}
    while count < num_kills:
        campaigns += 1
        trial = Trial(out=root / str(campaigns), segmented=bool(rng.getrandbits(1)))
        done: set[str] = set()
        while done != set(trial.ids) and count < num_kills:
            process = trial.start()
            while process.poll() is None and count < num_kills:
                # Some while the command starts, most while cells are measured.
                trial.wait_for(process, rng.choice((0, 1, 1, 2)))
                time.sleep(rng.uniform(0.0, 0.3))
                whom, number = rng.choice(("parent", "worker", "worker", "both")), rng.choice(SIGNALS)
                found = workers_of(process)
                victims = [each.pid for each in found] if whom != "parent" else []
                victims += [process.pid] if whom != "worker" else []
                if process.poll() is not None or not victims:
                    continue
                for pid in victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
                count += 1
                by[f"{whom} {number.name}"] = by.get(f"{whom} {number.name}", 0) + 1
                if whom != "worker":
                    # Ctrl-C ends a run in its own time.
                    process.wait(timeout=60)
                    _, alive = psutil.wait_procs(found, timeout=10)
                    require(not alive, "a worker outlived its parent")
            process.wait(timeout=600)
            now_done = trial.done()
            require(done <= now_done, "a stored cell is gone")
            done = now_done
        trial.finish()
    told = ", ".join(f"{name} {number}" for name, number in sorted(by.items()))
    return f"{count} kills in {campaigns} grids: {told}"


def write_all(root: Path, plan: Plan, *, segmented: bool) -> None:
    """What a run does to the disk, in this process: take over, write what is missing, write rows."""
    done = find_done(root, [cell.cell_id for cell in plan.cells])
    store = Store.create(
        root, name="run", command="", options={}, cells=plan.cells, environment=HERE, segmented=segmented
    )
    for place in done.values():
        store.adopt(place)
    for number, cell in enumerate(plan.cells):
        if cell.cell_id not in done:
            record = unmeasured(cell, "ok", "", started=now(), cell_s=0.0)
            samples = (Sample(keys={"trial": 0}, values={"hits": number}, evidence={"prompt": "p"}),)
            store.write_cell(dataclasses.replace(record, reason=None, samples=samples))
    store.write_rows()


def failing_writes(rng: random.Random, root: Path) -> str:
    """Fail each access to the disk once, as full, read-only and broken disks do, and let the same go on afterwards."""
    count = 0
    whole = fakes.mixed_plan()
    plan = dataclasses.replace(whole, cells=whole.cells[:3])
    for segmented in (False, True):
        for code in (errno.ENOSPC, errno.EROFS, errno.EIO):
            at, failed = 1, True
            while failed:
                folder = root / f"{segmented}-{code}-{at}"
                folder.mkdir(parents=True)
                failing = Failing(at, code)
                with failing.active(), contextlib.suppress(StoreError):
                    write_all(folder, plan, segmented=segmented)
                failed = failing.seen >= at
                ids = [cell.cell_id for cell in plan.cells]
                kept = set(find_done(folder, ids))
                write_all(folder, plan, segmented=segmented)
                found = find_done(folder, ids)
                require(kept <= set(found) and len(found) == len(ids), f"cells are gone after failure {at}")
                hits = Store(run_folders(folder)[0]).rows()["hits"].tolist()
                require(hits == [0, 1, 2], f"other rows after failure {at}: {hits}")
                count, at = count + failed, at + 1
                require(at < 400, "the disk goes on failing")
    return f"{count} accesses to the disk failed, each as a full, a read-only or a broken disk"


def small_disks(rng: random.Random, root: Path) -> str:
    """Files that may not grow, for the run and its workers; and, where that may be mounted, a disk of 128 KiB."""
    told = []
    for segmented in (False, True):
        trial = Trial(out=root / f"files-{segmented}", segmented=segmented)
        # More than the list of cells, less than the rows, or the segment, of all of them.
        limit = rng.randrange(14_000, 18_000)
        process = trial.start(limits=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        _, said = process.communicate(timeout=600)
        require(process.returncode != 0 and "no space left" in said, f"no clear error: {said[-500:]}")
        trial.finish()
        told.append(f"files of at most {limit} bytes")
    disk = root / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True).returncode:
        return ", ".join([*told, "no disk of its own: mounting is not allowed here"])
    try:
        trial = Trial(out=disk / "runs", segmented=bool(rng.getrandbits(1)))
        process = trial.start()
        _, said = process.communicate(timeout=600)
        require(process.returncode != 0 and "no space left" in said, f"no clear error: {said[-500:]}")
        kept = trial.done()
        subprocess.run(["mount", "-o", "remount,ro,size=64m", disk], check=True)
        process = trial.start()
        _, said = process.communicate(timeout=600)
        require(process.returncode != 0 and "Read-only file system" in said, f"no clear error: {said[-500:]}")
        subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
        require(kept <= trial.done(), "a stored cell is gone")
        trial.finish()
    finally:
        subprocess.run(["umount", disk], check=True)
    return ", ".join([*told, f"a disk of 128 KiB ({len(kept)} cells were kept), read-only for a time"])


def side_by_side(rng: random.Random, root: Path) -> str:
    """Two and four runs at once below one folder, and two and four executors in the folder of one run."""
    for number in (2, 4):
        trial = Trial(out=root / f"runs-{number}", segmented=bool(rng.getrandbits(1)))
        started = [trial.start() for _ in range(number)]
        for process in started:
            _, said = process.communicate(timeout=900)
            require(process.returncode == 0, said[-2000:])
        require(len(run_folders(trial.out)) == number, "two runs share a folder")
        trial.finish()
    for number in (2, 4):
        for segmented in (False, True):
            trial = Trial(out=root / f"run-{number}-{segmented}", segmented=segmented)
            plan = trial.plan
            store = Store.create(
                trial.out, name="run", command="", options={}, cells=plan.cells, environment=HERE, segmented=segmented
            )
            started = [trial.join(store.folder) for _ in range(number)]
            for process in started:
                _, said = process.communicate(timeout=900)
                require(process.returncode == 0, said[-2000:])
            require(len(store.twice()) == len(plan.cells), "second answers were not kept")
            store.write_rows()
            trial.finish()
    return "2 and 4 runs in one folder, 2 and 4 executors in one run: first answers stand, second ones are kept"


def damage(rng: random.Random, root: Path) -> str:
    """Cut, empty, replace and change files of half-finished and finished runs, then let the command go on."""
    kinds: dict[str, Callable[[Path, bytes], bytes]] = {
        "torn": lambda path, data: data[: rng.randrange(len(data))] if data else b"",
        "empty": lambda path, data: b"",
        "foreign": lambda path, data: rng.randbytes(rng.randrange(1, 4096)),
        "bit": lambda path, data: flipped(data, rng.randrange(8 * len(data))) if data else b"",
        "swapped": lambda path, data: rng.choice(sorted(filter(Path.is_file, path.parent.iterdir()))).read_bytes(),
    }
    count = 0
    for segmented in (False, True):
        for name, change in kinds.items():
            trial = Trial(out=root / f"{name}-{segmented}", segmented=segmented)
            process = trial.start()
            trial.wait_for(process, rng.randrange(2, 40))
            process.kill()
            process.communicate()
            held = [path for folder in run_folders(trial.out) for path in sorted(folder.rglob("*")) if path.is_file()]
            for path in rng.sample(held, min(len(held), 12)):
                path.write_bytes(change(path, path.read_bytes()))
                count += 1
            # Files that belong to nobody.
            for folder in run_folders(trial.out):
                for part in ("cells", "segments", "environments", "evidence"):
                    if (folder / part).is_dir():
                        (folder / part / f"{rng.getrandbits(64):x}.jsonl").write_bytes(rng.randbytes(99))
                        (folder / part / f".x.{rng.getrandbits(64):x}.tmp").write_bytes(b"of another host")
            trial.finish(stored=False)
    require(count >= 60, f"only {count} files were there to damage")
    return f"{count} files torn, emptied, replaced, swapped or changed by a bit"


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


CLOCK = """
import datetime, ttbench.store.folders as folders, ttbench.store.record as record
class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) - datetime.timedelta(days={days})
folders.datetime = record.datetime = Clock
"""


def clocks(rng: random.Random, root: Path) -> str:
    """A run that is killed, one after it whose clock was set back, and one whose clock is right again."""
    for segmented in (False, True):
        trial = Trial(out=root / str(segmented), segmented=segmented)
        done: set[str] = set()
        for days in (0, 3, 400):
            process = trial.start(before=CLOCK.format(days=days))
            trial.wait_for(process, rng.randrange(2, 9))
            process.kill()
            process.communicate()
            require(done <= trial.done(), "a stored cell is gone")
            done = trial.done()
        trial.finish()
    return "clocks set back by 3 and 400 days"


def bad_cells(rng: random.Random, root: Path) -> str:
    """Cells that hang in C code, or for which memory does not suffice: each has its status, and the others theirs."""
    told = []
    for what, status, arguments in (
        ("stuck", "timeout", "timeout=3"),
        ("hog", "oom", f"memory_limit={512 * MIB}"),
        ("cuda memory", "oom", ""),
    ):
        trial = Trial(out=root / what.replace(" ", "-"), segmented=bool(rng.getrandbits(1)))
        statuses = trial.statuses({"what": what, "at": 7}, arguments=arguments)
        require(statuses == {status: 2, "ok": 42}, f"{what}: {statuses}")
        require_no_orphans()
        told.append(f"{what}: {status}")
    group = cgroups.MOUNT / "memory" / f"ttbench-chaos-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        return ", ".join([*told, f"no control group of version 1 to fill ({error.strerror})"])
    try:
        (group / "memory.limit_in_bytes").write_text(str(700 * MIB))
        trial = Trial(out=root / "group", segmented=bool(rng.getrandbits(1)))
        enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(__import__('os').getpid()))"
        statuses = trial.statuses({"what": "eat", "at": 7}, before=enter, arguments=f"memory_limit={2**40}")
        require(statuses == {"oom": 2, "ok": 42}, f"eat: {statuses}")
        require_no_orphans()
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()
    return ", ".join([*told, "killed by the kernel in a control group: oom"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", help="names of trials, with commas")
    asked = parser.parse_args()
    trials: dict[str, Callable[[random.Random, Path], str]] = {
        "writes": failing_writes,
        "cells": bad_cells,
        "disks": small_disks,
        "damage": damage,
        "clocks": clocks,
        "side-by-side": side_by_side,
        "kills": lambda rng, root: kills(rng, root, asked.kills),
    }
    failed = 0
    for name in asked.only.split(",") if asked.only else trials:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch:
            try:
                said = trials[name](random.Random(f"{asked.seed} {name}"), Path(scratch))
            except AssertionError as error:
                said, failed = f"FAILED: {error}", failed + 1
        print(f"{name:<13} {time.monotonic() - began:5.0f} s  {said}", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
