"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import signal
from pathlib import Path
from types import ModuleType

import pytest

from ttbench import calibration

# A shell that runs the tests in the background hands down an ignored Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def no_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process that measures this machine for an estimate, and none that an earlier one left in the user's cache."""
    monkeypatch.setattr(calibration, "_measure", lambda missing, known: {})
    monkeypatch.setattr(calibration, "_folder", lambda: Path("/nonexistent"))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of `tests/fakes`, with its entry points visible to this process and to its workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("ttbench_fakes")
