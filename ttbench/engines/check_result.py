"""What one probe found, in the form that `ttbench check` prints and that a run keeps."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What one probe found."""

    name: str
    passed: bool | None  # None: the probe does not apply, and the explanation says why
    measured: float | None
    limit: float | None  # the greatest value that passes
    unit: str
    explanation: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def counted(name: str, measured: int, explanation: str, *, unit: str = "count") -> CheckResult:
    """A probe that passes when it counts nothing."""
    return CheckResult(
        name=name, passed=measured == 0, measured=float(measured), limit=0.0, unit=unit, explanation=explanation
    )


def not_applicable(name: str, why: str) -> CheckResult:
    """A probe that was not run, and why."""
    return CheckResult(name=name, passed=None, measured=None, limit=None, unit="", explanation=why)
