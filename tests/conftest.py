"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of `tests/fakes`, with its entry points visible to this process and to its workers."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "fakes"))
    return importlib.import_module("ttbench_fakes")
