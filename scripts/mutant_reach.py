"""Two pytest plug-ins: `Reach` learns which functions each test calls, `Chosen` runs the tests that were chosen by it.

A mutant can only be killed by a test that executes the function it is in. What a process started by a test executes
is not seen, nor what a cache of an earlier test answers: the whole files run where the chosen tests pass.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """One test, as it ran on the code as it is."""

    test: str  # its node id
    cpu_s: float  # processor seconds
    calls: frozenset[str]  # "ttbench/report/statistics/stats.py wilson"


def read(file: Path) -> list[Reached]:
    """What `Reach` wrote. What a fixture of more than one test calls, every test of the file is said to call."""
    found = json.loads(file.read_text("utf-8"))
    shared = set(found["shared"])
    return [
        Reached(test=test, cpu_s=each["cpu_s"], calls=frozenset(shared.union(each["calls"])))
        for test, each in found["tests"].items()
    ]


def chosen(reached: Sequence[Reached], *, path: str, function: str) -> list[Reached]:
    """The tests that call a function, the quickest first; all of them for what runs when the module is imported."""
    wanted = f"{path} {function}"
    return sorted((each for each in reached if not function or wanted in each.calls), key=lambda each: each.cpu_s)


class Reach:
    """Writes the functions below `folder`/ttbench that each test calls, and the processor seconds it takes."""

    def __init__(self, folder: Path, out: Path) -> None:
        self._below, self._prefix, self._out = len(str(folder)) + 1, f"{folder}/ttbench/", out
        self._shared = set[tuple[str, str]]()
        self._current, self._calls = self._shared, dict[str, set[tuple[str, str]]]()
        self._cpu_s, self._failed = dict[str, float](), set[str]()
        self._watch(True)

    def _trace(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_filename.startswith(self._prefix):
            self._current.add((code.co_filename, code.co_qualname))

    def _watch(self, on: bool) -> None:
        sys.settrace(self._trace if on else None)
        threading.settrace(self._trace if on else None)  # pyright: ignore[reportArgumentType]

    def pytest_collection_finish(self) -> None:
        """What was called so far, while conftest.py and test files were imported, counts for all tests."""
        self._watch(False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        """Note the calls of one test, its fixtures included."""
        self._current = self._calls.setdefault(item.nodeid, set())
        began = time.process_time()
        self._watch(True)
        try:
            return (yield)
        finally:
            self._watch(False)
            self._cpu_s[item.nodeid] = time.process_time() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[Any]:
        """A fixture that several tests share is set up in the first of them alone."""
        before = self._current
        if fixturedef.scope != "function":
            self._current = self._shared
        try:
            return (yield)
        finally:
            self._current = before

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test that fails on the code as it is can judge no mutant."""
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write what was seen."""
        tests = {
            test: {"cpu_s": round(self._cpu_s[test], 3), "calls": self._named(calls)}
            for test, calls in self._calls.items()
            if test not in self._failed
        }
        found = {"shared": self._named(self._shared), "tests": tests, "failed": sorted(self._failed)}
        self._out.write_text(json.dumps(found), "utf-8")

    def _named(self, calls: set[tuple[str, str]]) -> list[str]:
        return sorted({f"{file[self._below :]} {_function(name)}" for file, name in calls})


def _function(qualname: str) -> str:
    """`f.<locals>.<listcomp>` is part of `f`, `f.<locals>.g` is `f.g`."""
    return re.sub(r"\.?<(?!locals).*", "", qualname.replace(".<locals>", "")).removesuffix(".")


class Chosen:
    """Keeps the tests that were chosen, in their order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self._place: Mapping[str, int] = {test: place for place, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before they run."""
        items[:] = sorted((each for each in items if each.nodeid in self._place), key=lambda i: self._place[i.nodeid])
