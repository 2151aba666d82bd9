"""Which tool wrote the logs in a folder, and a comparison of two sides of them, judged as any other.

DIR_A, DIR_B -> ForeignLog each -> rows -> compare
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.comparison.compare import compare
from ttbench.report.foreign import inspect_logs, lighteval_logs, lm_eval_logs
from ttbench.report.foreign.scores import ForeignLog, agreed, as_rows, remarks

Reader = Callable[[list[Path], str], ForeignLog]
READERS: Mapping[str, tuple[str, Reader]] = {
    lm_eval_logs.TOOL: (lm_eval_logs.PATTERN, lm_eval_logs.read),
    inspect_logs.TOOL: (inspect_logs.PATTERN, inspect_logs.read),
    lighteval_logs.TOOL: (lighteval_logs.PATTERN, lighteval_logs.read),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignComparison:
    """Two sides of another tool's logs, compared."""

    found: pd.DataFrame  # as `compare` gives it
    remarks: tuple[str, ...]  # what it must not be read without


def read_log(place: Path) -> ForeignLog:
    """The log in a folder, or in one file. Raises UsageError where no known tool wrote there, or several did."""
    found: dict[str, list[Path]] = {}
    for tool, (pattern, _) in READERS.items():
        files = sorted(place.rglob(pattern)) if place.is_dir() else [place] if place.match(pattern) else []
        if files:
            found[tool] = files
    if not found:
        expected = "; ".join(f"{tool}: {pattern}" for tool, (pattern, _) in READERS.items())
        here = "" if place.exists() else " (there is no such folder)"
        raise UsageError(f"no log of another tool in {place}{here}; known are {expected}")
    if len(found) > 1:
        raise UsageError(f"{place} holds logs of {' and '.join(found)}; name a folder with those of one tool")
    ((tool, files),) = found.items()
    log = READERS[tool][1](files, place.name or str(place))
    if not log.scores:
        raise UsageError(f"the logs in {place} hold no score of a single document")
    return log


def compare_logs(a: Path, b: Path) -> ForeignComparison:
    """Compare two folders of logs, paired by document.

    Raises UsageError where they cannot be read, are of two tools, or share no document.
    """
    one, two = agreed(read_log(a), read_log(b))
    if one.name == two.name:
        # the same name twice, as of two runs of one model: what was typed tells them apart
        one, two = replace(one, name=str(a)), replace(two, name=str(b))
    if one.name == two.name or one.scores == two.scores:
        raise UsageError(f"{a} and {b} hold the same scores; name the logs of two models or settings")
    found = compare(as_rows(one), one.name, two.name, rows_b=as_rows(two))
    if all(entry["value_a"] is None for entry in words.records(found)):
        raise UsageError(f"{a} and {b} share no document of any benchmark")
    return ForeignComparison(found=found, remarks=tuple(remarks(one, two)))
