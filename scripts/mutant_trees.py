"""Runs tests on mutants, each in a copy of the tree and in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from mutant_outcomes import KEPT, Mutant, Outcome, outcome, sample
from mutant_reach import Chosen, Reach, Reached, chosen, read
from mutant_tests import ROOT, tests_of

# Processor seconds that a mutant's tests may take: these, and so many times what they take on the code as it is.
LEAST_CPU_S, CPU_FACTOR = 20, 4
# Seconds of the clock for each of them, on a busy machine: a mutant that waits for ever uses no processor.
WALL_FACTOR = 4
# Processor seconds of tests that a mutant meets at most in each of its two rounds, the quickest tests first.
ROUND_S = 120
LEARNING_S = 1800  # of the clock and of the processor, for one test file


class Tree:
    """A copy of the tree in which one mutant at a time lives."""

    def __init__(self, number: int) -> None:
        self.folder = KEPT / f"tree-{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(ROOT, self.folder, ignore=_left_out)
        self._time = time.time() - 1e6
        self._originals: dict[Path, str] = {}

    def put(self, mutant: Mutant | None) -> None:
        """The tree as it was when it was copied, but for this mutant."""
        for path, source in self._originals.items():
            self._write(path, source)
        self._originals.clear()
        if mutant is not None:
            path = Path(mutant.path)
            self._originals[path] = (self.folder / path).read_text("utf-8")
            self._write(path, mutant.mutation.source)

    def _write(self, path: Path, source: str) -> None:
        """With a time of its own, by which Python tells whether its compiled file is stale."""
        self._time += 10
        (self.folder / path).write_text(source, "utf-8")
        os.utime(self.folder / path, (self._time, self._time))

    def _start(self, files: Sequence[str], options: Sequence[str], plugin: Any, *, cpu_s: int) -> int:
        """Fork a process, which has torch already, and run these tests in it."""
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            out_of_sight = (ROOT, ROOT / "scripts")
            seen = [each for each in sys.path if Path(each or ".").resolve() not in out_of_sight]
            sys.path[:] = [str(self.folder), *seen]
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(log, stream)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
            import pytest

            # What was imported before the fork is no test.
            quiet = ["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
            code = pytest.main([*options, *quiet, *files], plugins=[plugin])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(int(code))

    def _run(
        self, files: Sequence[str], options: Sequence[str], plugin: Any, *, cpu_s: int, wall_s: float
    ) -> Generator[None, None, int]:
        """Run tests, yielding while they run: the exit status."""
        pid, began = self._start(files, options, plugin, cpu_s=cpu_s), time.monotonic()
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            if time.monotonic() - began > wall_s:
                os.kill(pid, signal.SIGKILL)
            yield
        # Workers that a test had started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return ended[1]

    def judge(self, tests: Sequence[Reached]) -> Generator[None, None, str | None]:
        """Run these tests until one fails, yielding while they run: the one that failed, None where they passed."""
        files = list(dict.fromkeys(each.test.partition("::")[0] for each in tests))
        cpu_s = int(LEAST_CPU_S + CPU_FACTOR * sum(each.cpu_s for each in tests))
        plugin = Chosen([each.test for each in tests])
        status = yield from self._run(files, ["-x"], plugin, cpu_s=cpu_s, wall_s=WALL_FACTOR * cpu_s)
        if os.WIFSIGNALED(status):
            return "time" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "a crash"
        if os.WEXITSTATUS(status) == 0:
            return None
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", (self.folder / "log").read_text(errors="replace"), re.M)
        return found.group(1) if found else f"exit code {os.WEXITSTATUS(status)}"

    def reached(self, file: str) -> Generator[None, None, list[Reached]]:
        """What each test of a file calls, on the code as it is; learnt once for each state of the code and the file."""
        code = [path for folder in ("ttbench", "tests") for path in sorted((self.folder / folder).rglob("*.py"))]
        code = [path for path in code if not path.name.startswith("test_")]
        texts = b"".join(path.read_bytes() for path in [*code, self.folder / file])
        known = KEPT / "reach" / f"{hashlib.sha256(texts).hexdigest()[:16]}.json"
        if not known.is_file():
            known.parent.mkdir(exist_ok=True)
            fresh = self.folder / "reach.json"
            fresh.unlink(missing_ok=True)
            plugin = Reach(self.folder, fresh)
            yield from self._run([file], [], plugin, cpu_s=LEARNING_S, wall_s=LEARNING_S)
            if not fresh.is_file():
                sys.exit(f"{file} does not run:\n" + (self.folder / "log").read_text(errors="replace")[-2000:])
            fresh.rename(known)
            for failed in json.loads(known.read_text("utf-8"))["failed"]:
                print(f"{failed} fails on the code as it is, and judges no mutant", flush=True)
        return read(known)


def _left_out(folder: str, names: Sequence[str]) -> set[str]:
    """What git ignores, of what `make` leaves."""
    made = {"runs", "trained", "dist", "build"} if Path(folder) == ROOT else set[str]()
    return {name for name in names if name.startswith(".") or name in {"__pycache__", *made}}


def lane(
    tree: Tree, modules: list[str], known: dict[str, Outcome], *, num_mutants: int, seed: int, own: bool, until: float
) -> Iterator[Outcome | None]:
    """Take modules from the list, one after the other, and try their mutants; None while tests run."""
    while modules:
        path = modules.pop(0)
        tree.put(None)
        mine, others = tests_of(path)
        for mutant in sample(path, tree.folder, num_mutants=num_mutants, seed=seed, known=known):
            if mutant.key in known:
                continue
            if time.monotonic() >= until:
                return
            reached = yield from _all(tree, mine)
            first = _affordable(chosen(reached, path=path, function=mutant.mutation.function))
            killed_by = yield from _judged(tree, mutant, first)
            if killed_by is None and not own:
                tree.put(None)
                further = chosen((yield from _all(tree, others)), path=path, function=mutant.mutation.function)
                second = [each for each in reached if each not in first] + further
                killed_by = yield from _judged(tree, mutant, _affordable(second))
            tree.put(None)
            yield outcome(mutant, killed_by, tree.folder)


def _all(tree: Tree, files: Sequence[str]) -> Generator[None, None, list[Reached]]:
    found: list[Reached] = []
    for file in files:
        found += yield from tree.reached(file)
    return found


def _judged(tree: Tree, mutant: Mutant, tests: Sequence[Reached]) -> Generator[None, None, str | None]:
    if not tests:
        return None
    tree.put(mutant)
    return (yield from tree.judge(tests))


def _affordable(tests: Sequence[Reached]) -> list[Reached]:
    """The quickest tests, as many as a round may take."""
    found, spent = list[Reached](), 0.0
    for each in sorted(tests, key=lambda each: each.cpu_s):
        spent += each.cpu_s
        if spent > ROUND_S:
            break
        found.append(each)
    return found


def run(
    modules: Sequence[str],
    known: dict[str, Outcome],
    *,
    num_mutants: int,
    seed: int,
    own: bool,
    jobs: int,
    until: float,
) -> Iterator[Outcome]:
    """Try mutants, `jobs` modules at a time; with `own`, on the tests of their own modules alone."""
    waiting = list(modules)
    lanes = [
        lane(Tree(number), waiting, known, num_mutants=num_mutants, seed=seed, own=own, until=until)
        for number in range(min(jobs, len(modules)))
    ]
    while lanes:
        for each in list(lanes):
            try:
                found = next(each)
            except StopIteration:
                lanes.remove(each)
                continue
            if found is not None:
                known[found.key] = found
                yield found
        time.sleep(0.02)
