"""Here the rates of this machine are what is tested."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TTBENCH_MEASURE_RATES", raising=False)
