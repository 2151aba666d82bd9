"""Published numbers: `results/published/*.csv`, one paper a file, one number a line. Its README says what columns mean.

numbers = read_published("titans")
[average] = [each for each in numbers if each.model == "TTT" and each.mean_of and each.num_params == 760_000_000]
average.value, average.recomputed        47.32 as printed, 49.372 as the mean of `cells(average, numbers)`
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttbench.errors import StoreError, UnknownNameError
from ttbench.strict_yaml.nodes import package_folder

FOLDER = Path("results", "published")
EVIDENCE = ("read", "second-hand", "digitised")
_VALUE = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")
_IS_MEAN = re.compile(r"\bmean\b|average as printed")
_PATH_X, _WITHOUT = "LRA Path-X", "without Path-X"
FAILED_PATH_X = "failed Path-X counts as 50"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedNumber:
    """One number that somebody printed or drew."""

    paper: str
    table: str  # of the paper; or `text`
    model: str
    method: str
    variant: str  # parts separated by ;
    benchmark: str
    axis: str  # that `at` is a place on; empty: none
    at: float | None  # tokens of contexts and lengths
    metric: str
    printed: str  # with the digits that were printed
    unit: str
    num_params: int | None
    mean_of: int | None  # cells of a printed average
    recomputed: float | None  # mean of those cells
    note: str
    source: str
    evidence: str  # of EVIDENCE

    @property
    def value(self) -> float:
        return float(self.printed)

    @property
    def half_digit(self) -> float:
        """Half of the last digit that was printed: how far rounding may have moved the number."""
        mantissa, _, exponent = self.printed.partition("e")
        return 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of `variant`."""
        return tuple(part.strip() for part in self.variant.split(";") if part.strip())


COLUMNS = tuple("value" if name == "printed" else name for name in PublishedNumber.__dataclass_fields__)


def published_files() -> dict[str, Path]:
    """Papers that have numbers: those that ship with the package, replaced by `./results/published`."""
    folders = (package_folder("results") / FOLDER.name, FOLDER)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.csv"))}


def read_published(paper: str) -> tuple[PublishedNumber, ...]:
    """The numbers of one paper, in the order of its file.

    Raises UnknownNameError for a paper without a file, and StoreError with file and line for one that is damaged.
    """
    files = published_files()
    if paper not in files:
        raise UnknownNameError("paper", paper, known=files, where=str(FOLDER))
    return read_numbers(files[paper])


def read_numbers(path: Path) -> tuple[PublishedNumber, ...]:
    """The numbers of one file. Raises StoreError with file and line."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise StoreError(
                    f"{path}:1: columns must be {', '.join(COLUMNS)}; got {', '.join(reader.fieldnames or ())}"
                )
            return tuple(_number(row, f"{path}:{reader.line_num}") for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"cannot read published numbers from {path}: {error}") from error


def _number(row: dict[str, str], where: str) -> PublishedNumber:
    if None in row.values() or None in row:
        raise StoreError(f"{where}: a line has {len(COLUMNS)} columns")
    if not _VALUE.fullmatch(row["value"]):
        raise StoreError(f"{where}: value must be a number as it is printed; got '{row['value']}'")
    if row["evidence"] not in EVIDENCE or not row["source"]:
        raise StoreError(f"{where}: a number has a source, and evidence that is one of {', '.join(EVIDENCE)}")
    if (row["axis"] == "") != (row["at"] == ""):
        raise StoreError(f"{where}: axis and at come together; got '{row['axis']}' and '{row['at']}'")
    texts = {name: row[name] for name in ("paper", "table", "model", "method", "variant", "benchmark", "axis")}
    try:
        return PublishedNumber(
            **texts,
            at=float(row["at"]) if row["at"] else None,
            metric=row["metric"],
            printed=row["value"],
            unit=row["unit"],
            num_params=int(row["num_params"]) if row["num_params"] else None,
            mean_of=int(row["mean_of"]) if row["mean_of"] else None,
            recomputed=float(row["recomputed"]) if row["recomputed"] else None,
            note=row["note"],
            source=row["source"],
            evidence=row["evidence"],
        )
    except ValueError as error:
        raise StoreError(f"{where}: at, num_params, mean_of and recomputed are numbers or empty; {error}") from error


def cells(average: PublishedNumber, numbers: Iterable[PublishedNumber]) -> list[PublishedNumber]:
    """The numbers that a printed average is over: those of its line of the table, of its kind and unit."""
    shared = {part for part in average.parts if not _IS_MEAN.search(part) and part != FAILED_PATH_X}
    return [
        number
        for number in numbers
        if _line(number) == _line(average)
        and (number.method == average.method or number.method.startswith(f"{average.method},"))
        and ("perplexity" in number.metric) == ("perplexity" in average.metric)
        and not is_average(number)
        and shared <= set(number.parts)
        and not (number.benchmark == _PATH_X and _WITHOUT in average.variant)
    ]


def _line(number: PublishedNumber) -> tuple[object, ...]:
    return number.table, number.model, number.num_params, number.unit


def is_average(number: PublishedNumber) -> bool:
    """Whether a number is an average that the paper computed from others."""
    return bool(_IS_MEAN.search(f"{number.metric}; {number.variant}; {number.benchmark}"))


def recompute(average: PublishedNumber, numbers: Sequence[PublishedNumber]) -> float | None:
    """The mean of the cells of a printed average; None where they are not printed."""
    values = [number.value for number in cells(average, numbers)]
    if FAILED_PATH_X in average.variant and len(values) == 5:
        values.append(50.0)
    return sum(values) / len(values) if values else None
