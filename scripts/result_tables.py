"""The tables of docs/results.md, made from the CSVs of results/: `make columns`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from made import put, table

from ttbench.report import words

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
MIXER = "context mixer"


@functools.cache
def results(suite: str, name: str = "table") -> list[dict[str, Any]]:
    """The lines of a CSV of one published suite; what is missing is None."""
    table = pd.read_csv(ROOT / "results" / suite / "cpu" / f"{name}.csv", low_memory=False)
    lines = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(column): value for column, value in line.items()} for line in lines]


def entry(suite: str, metric: str, name: str = "table", **where: Any) -> dict[str, Any]:
    """The one line of a CSV with these values; None is a missing one. Raises ValueError unless there is one."""
    wanted = {"metric": metric, **where}
    found = [line for line in results(suite, name) if all(line[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise ValueError(f"{len(found)} lines of {suite} with {wanted}")
    return found[0]


def checkpoints(suite: str, **where: Any) -> list[str]:
    """Those of which a suite has lines with these values, in alphabetical order."""
    held = (line for line in results(suite) if all(line[key] == value for key, value in where.items()))
    return sorted({line["checkpoint"] for line in held} - {None})


@dataclass(frozen=True, slots=True)
class Column:
    """What a column shows of a checkpoint: a metric of a suite where some columns have given values."""

    heading: str
    suite: str
    metric: str
    digits: int  # after the point
    unit: float = 1  # that the value is told in
    where: Mapping[str, Any] = field(default_factory=dict)

    def line(self, checkpoint: str) -> dict[str, Any]:
        return entry(self.suite, self.metric, checkpoint=checkpoint, **self.where)

    def cell(self, checkpoint: str) -> str:
        """The value, with a star beyond the training context; without one the status, such as `oom`."""
        found = self.line(checkpoint)
        if found["value"] is None:
            return str(found["status"]).replace("_", " ")
        return f"{found['value'] / self.unit:.{self.digits}f}" + "*" * (found["extrapolated"] in (True, "True"))


Row = tuple[str, Sequence[str]]


def _ranked(columns: Sequence[Column], by: Column, names: Iterable[str]) -> Iterator[Row]:
    """A row for each checkpoint, the smallest value of one column first, those without one last."""
    values = {name: by.line(name)["value"] for name in names}
    for name in sorted(values, key=lambda name: (values[name] is None, values[name], name)):
        yield f"`{name}`", [column.cell(name) for column in columns]


def contexts_of(suite: str, **where: Any) -> list[int]:
    """Those that a suite has lines of checkpoints for, ascending."""
    return sorted(
        {
            line["context_len"]
            for line in results(suite)
            if line["checkpoint"] and all(line[key] == value for key, value in where.items())
        }
    )


def bits_per_byte(corpus: str) -> Iterator[str]:
    """Every checkpoint's bits per byte, the fewest at 4k first, and what there was to gain."""
    contexts = contexts_of("bench", corpus=corpus)
    at = [{"corpus": corpus, "context_len": context_len} for context_len in contexts]
    columns = [Column(words.context(each["context_len"]), "bench", "bits_per_byte", 2, where=each) for each in at]
    rows = _ranked(columns, columns[contexts.index(4096)], checkpoints("bench", corpus=corpus))
    mixer = [entry("bench", "mixer_bits_per_byte", **each)["value"] for each in at]
    headings = ("context", *(column.heading for column in columns))
    yield from table(headings, [*rows, (MIXER, [f"{value:.2f}" for value in mixer])])


def needles() -> Iterator[str]:
    """Percent of needles, the most first; checkpoints of equal rows share one."""
    contexts = contexts_of("needle")
    rows: list[Row] = []
    for metric, word in (("retrieval", "retrieved"), ("recognition", "recognised")):
        columns = [
            Column("", "needle", metric, 0, 0.01, {"context_len": context_len, "param_question": "cloze"})
            for context_len in contexts
        ]
        names: dict[tuple[str, ...], list[str]] = {}
        for name in sorted(
            checkpoints("needle"), key=lambda name: -sum(each.line(name)["value"] or 0 for each in columns)
        ):
            names.setdefault(tuple(column.cell(name) for column in columns), []).append(name)
        rows += [(", ".join([*(f"`{name}`" for name in sorted(same)), word]), cells) for cells, same in names.items()]
    yield from table(("", *map(words.context, contexts)), rows)


def times() -> Iterator[str]:
    """Seconds to read, milliseconds for a token after it; the fastest reader of 8k first."""
    columns = [
        Column(f"{first}{words.context(num)}", "latency", metric, digits, unit, {"context_len": num, "batch_size": 1})
        for metric, what, digits, unit in (
            ("prefill_s", "read ", 2, 1),
            ("decode_s_per_token", "token after ", 1, 1e-3),
        )
        for first, num in ((what, 512), ("", 2048), ("", 8192))
    ]
    rows = _ranked(columns, columns[2], checkpoints("latency"))
    yield from table(("", *(column.heading for column in columns)), rows)


def memory() -> Iterator[str]:
    """MiB of state and of memory to read; the smallest state at 32k first."""
    columns = [
        Column(f"{first}{words.context(num)}", "memory", metric, digits, 2**20, {"context_len": num})
        for metric, what, digits in (("state_bytes", "state at ", 1), ("prefill_working_bytes", "to read ", 0))
        for first, num in ((what, 512), ("", 4096), ("", 32768))
    ]
    rows = _ranked(columns, columns[2], checkpoints("memory"))
    yield from table(("", *(column.heading for column in columns)), rows)


def genomics() -> Iterator[str]:
    """Bits per base at 256 bases, and those of two peers that learn nothing."""
    at = {"corpus": "genomes", "context_len": 256}
    column = Column("bits per base", "genomics", "bits_per_base", 3, where=at)
    rows = [*_ranked([column], column, checkpoints("genomics"))]
    for name, label in (("markov", "Markov model of order 12"), ("bzip2", "`bzip2 -9`")):
        rows.append((label, [f"{entry('genomics', f'{name}_bits_per_base', **at)['value']:.3f}"]))
    yield from table(("", column.heading), rows)


def page(text: str) -> str:
    """The text of docs/results.md with its tables made anew."""
    for name, made in (
        ("languages", bits_per_byte("languages")),
        ("code", bits_per_byte("code")),
        ("needles", needles()),
        ("times", times()),
        ("memory", memory()),
        ("genomics", genomics()),
    ):
        text = put(text, name, made)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
