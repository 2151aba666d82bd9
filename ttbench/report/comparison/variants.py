"""One side of a comparison: a checkpoint, or some settings of it.

    transformer                          every setting it was measured under
    transformer@engine=hf                its rows under one engine
    transformer@attention=flash,dtype=bfloat16
    transformer@strategy=oracle          one place on an axis that some metrics have beside the context
    transformer@code=1a2b3c              measured by one version of the code, by the first letters of its digest
    transformer@run=20260102-030405      as one run has it

A name stands for one content (weights, config, tokenizer) and brings its rows under whatever name they were measured;
`weights`, `config` and `tokenizer` choose where one name stands for several. An `@` without `=` after it belongs to the
name: hub ids carry their revision there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.types import Scalar

VARIANT_SETTINGS = ("engine", "attention", "dtype", "device", "batch_size", "threads", "seed")
CONTENT = ("weights_digest", "config_digest", "tokenizer_digest")
# Settings that choose what was measured, and with what, by the first letters of a column.
CHOICES: Mapping[str, str] = {
    "weights": "weights_digest",
    "config": "config_digest",
    "tokenizer": "tokenizer_digest",
    "code": "code_digest",
    "run": "run_id",
}
SHOWN = 6  # letters of a digest
# Code differs with these anyway.
OF_CODE = ("task", "engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A checkpoint under the settings that are named; others may be anything."""

    name: str  # checkpoint
    text: str = field(compare=False)  # as written
    settings: Mapping[str, str] = field(default_factory=dict)  # column -> value as written
    choices: Mapping[str, str] = field(default_factory=dict)  # of CHOICES -> first letters

    @property
    def axes(self) -> set[str]:
        """Those of the settings that are places on an axis."""
        return self.settings.keys() - VARIANT_SETTINGS

    def matches(self, line: Mapping[str, Scalar]) -> bool:
        """Whether a line of its rows, with its places, is of these settings."""
        return all(
            line.get(setting) is None or words.plain(line[setting]) == value for setting, value in self.settings.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The rows that a side of a comparison stands for."""

    variant: Variant
    rows: pd.DataFrame  # of one content, and one code per task and engine
    older: Mapping[str, Sequence[str]]  # digest of older code ("" where rows name none) -> where and when it measured

    @property
    def text(self) -> str:
        """As the side was written."""
        return self.variant.text

    def left_out(self, compared: Iterable[Side]) -> Iterator[str]:
        """A sentence on the rows of older code, but for those that are read by another side that is compared."""
        others = [side.variant.choices.get("code", "") for side in compared if side.variant.name == self.variant.name]
        told = [
            f"{self._by_code(code) if code else 'of an older schema'} ({where})"
            for code, places in self.older.items()
            if not any(other and code.startswith(other) for other in others)
            for where in places
        ]
        if told:
            yield f"rows of '{self.variant.name}' by older code are left out: {', '.join(told)}"

    def _by_code(self, code: str) -> str:
        """This side, as one version of the code measured it."""
        chosen = {**self.variant.settings, **self.variant.choices, "code": code[:SHOWN]}
        return f"{self.variant.name}@{','.join(f'{name}={value}' for name, value in chosen.items())}"


def read_variant(text: str, *, axes: Collection[str] | None = None, names: Collection[str] = ()) -> Variant:
    """Read one side of a comparison.

    Args:
        text: as written.
        axes: names that are known beside VARIANT_SETTINGS; None: any name will do.
        names: checkpoints; a text that is one of them is a name to its end.

    Raises UsageError when what follows `@` cannot be read.
    """
    name, at, written = text.rpartition("@")
    if text in names or not at or "=" not in written:
        return Variant(name=text, text=text)
    found: dict[str, str] = {}
    for part in written.split(","):
        setting, equals, value = (piece.strip() for piece in part.partition("="))
        setting = setting.replace("-", "_")
        if axes is not None and setting not in (*VARIANT_SETTINGS, *CHOICES, *axes):
            raise UnknownNameError("setting", setting, known=(*VARIANT_SETTINGS, *CHOICES, *axes), where=f"'{text}'")
        if not equals or not value or setting in found:
            raise UsageError(f"'{text}' cannot be read; write NAME@SETTING=VALUE, each setting once")
        found[setting] = value
    choices = {setting: value for setting, value in found.items() if setting in CHOICES}
    settings = {setting: value for setting, value in found.items() if setting not in CHOICES}
    return Variant(name=name, text=text, settings=settings, choices=choices)


def side_of(rows: pd.DataFrame, variant: Variant) -> Side:
    """The rows of one side, all under its name.

    Raises:
        UnknownNameError: no row of that checkpoint.
        UsageError: no row has the settings or choices named, or the name stands for several contents.
    """
    mine = rows.loc[equal(rows, ["checkpoint"], [variant.name])]
    if not len(mine):
        known = list(dict.fromkeys(rows["checkpoint"]))
        raise UnknownNameError("checkpoint", variant.name, known=known, where="the rows")
    mine = _chosen(mine, variant)
    contents = list(_contents(mine))
    if len(contents) > 1:
        raise UsageError(
            f"'{variant.name}' stands for {len(contents)} checkpoints; say which is meant: "
            + " or ".join(_spelled(variant.name, content, contents) for content in contents)
        )
    # By content: what was measured under another name is its own too.
    same = _chosen(rows.loc[equal(rows, CONTENT, contents[0])], variant)
    same = same.assign(checkpoint=variant.name, revision=mine["revision"].iloc[0])
    newest, older = _newest_code(same)
    newest.attrs = rows.attrs
    _require_settings(newest, variant)
    return Side(variant=variant, rows=newest, older=older)


def sides(rows: pd.DataFrame) -> list[str]:
    """A text for each content in the rows, as `read_variant` reads it: a name where that is enough.

    It stands for the newest code of each task. What older code measured of a task has a text of its own beside it.
    """
    texts = []
    seen: set[tuple[Scalar, ...]] = set()
    for name in dict.fromkeys(rows["checkpoint"]):
        mine = rows.loc[rows["checkpoint"] == name]
        contents = list(_contents(mine))
        for content in contents:
            if content in seen:
                continue
            seen.add(content)
            text = name if len(contents) == 1 else _spelled(name, content, contents)
            own = mine.loc[equal(mine, CONTENT, content)]
            older = dict.fromkeys(code for _, dates in _by_code(own) for code in _older(dates))
            joint = "@" if text == name else ","
            texts += [text, *(f"{text}{joint}code={code[:SHOWN]}" for code in older if code)]
    return texts


def newest_of(text: str, texts: Sequence[str]) -> str | None:
    """The side of the same content by its newest code, of one that older code measured; None for any other side.

    Args:
        texts: sides as `sides` gives them.
    """
    return next((other for other in texts if text.startswith((f"{other}@code=", f"{other},code="))), None)


def spellings(rows: pd.DataFrame, name: str) -> list[str]:
    """Two settings of one checkpoint that its rows tell apart, as `read_variant` reads them; none where there are none.

    Of the first column in which they differ: a setting before the code, and that before the run.
    """
    for word in (*VARIANT_SETTINGS, "code", "run"):
        values = list(dict.fromkeys(value for value in _column(rows, CHOICES.get(word, word)) if value is not None))
        if len(values) > 1:
            shown = [value[:SHOWN] if word == "code" else words.plain(value) for value in values[-2:]]
            return [f"{name}@{word}={value}" for value in shown]
    return []


def twins(rows: pd.DataFrame) -> list[str]:
    """Which names in the rows stand for the same content, in words."""
    found: dict[tuple[Scalar, ...], list[str]] = {}
    for name in dict.fromkeys(rows["checkpoint"]):
        for content in _contents(rows.loc[rows["checkpoint"] == name]):
            found.setdefault(content, []).append(str(name))
    return [
        f"{' and '.join(names)} are one checkpoint (the same weights, config and tokenizer), measured once"
        for names in found.values()
        if len(names) > 1
    ]


def _chosen(rows: pd.DataFrame, variant: Variant) -> pd.DataFrame:
    """The rows that the choices leave. Raises UsageError when there are none, and says what there is."""
    for choice, letters in variant.choices.items():
        column = _column(rows, CHOICES[choice])
        known = list(dict.fromkeys(value for value in column if value is not None))
        near = [value for value in known if (letters in value if choice == "run" else value.startswith(letters))]
        if not near:
            have = ", ".join(value if choice == "run" else value[:SHOWN] for value in known) or "none"
            raise UsageError(f"no row of '{variant.name}' has {choice}={letters}; its rows have: {have}")
        rows = rows.loc[[value in near for value in column]]
    return rows


def _newest_code(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The rows of the newest code of each task and engine, and what that leaves out (`Side.older`)."""
    older: dict[str, list[str]] = {}
    keep = np.ones(len(rows), dtype=bool)
    for where, dates in _by_code(rows):
        for code in _older(dates):
            keep &= ~equal(rows, (*OF_CODE, "code_digest"), (*where, code))
            older.setdefault(code or "", []).append(f"{where[0]}, measured {dates[code][:10]}")
    return rows.loc[keep], older


def _older(dates: Mapping[Any, str]) -> list[Any]:
    """All codes but the one that measured last."""
    return sorted(dates, key=lambda code: dates[code])[:-1]


def _by_code(rows: pd.DataFrame) -> Iterator[tuple[tuple[Scalar, ...], dict[Any, str]]]:
    """Where code may differ, and when each code measured last there; only where there are several."""
    found: dict[tuple[Scalar, ...], dict[Any, str]] = {}
    columns = [_column(rows, name) for name in (*OF_CODE, "code_digest", "started")]
    for *where, code, started in zip(*columns, strict=True):
        dates = found.setdefault(tuple(where), {})
        dates[code] = max(dates.get(code, ""), str(started or ""))
    yield from ((where, codes) for where, codes in found.items() if len(codes) > 1)


def _contents(rows: pd.DataFrame) -> Iterator[tuple[Scalar, ...]]:
    yield from dict.fromkeys(zip(*(_column(rows, name) for name in CONTENT), strict=True))


def _spelled(name: str, content: tuple[Scalar, ...], contents: Sequence[tuple[Scalar, ...]]) -> str:
    """The name with the first digest that tells one content from the others."""
    names = dict(zip(CONTENT, ("weights", "config", "tokenizer"), strict=True))
    for place, column in enumerate(CONTENT):
        own = content[place]
        if own is not None and sum(other[place] == own for other in contents) == 1:
            return f"{name}@{names[column]}={str(own)[:SHOWN]}"
    told = (f"{names[column]}={str(own)[:SHOWN]}" for column, own in zip(CONTENT, content, strict=True) if own)
    return f"{name}@{','.join(told)}"


def _column(rows: pd.DataFrame, name: str) -> list[Any]:
    """Entries with None for what is missing, the whole column too, as in rows of an older schema."""
    if name not in rows:
        return [None] * len(rows)
    return [None if pd.isna(value) else value for value in rows[name].tolist()]


def equal(rows: pd.DataFrame, names: Sequence[str], values: Sequence[Scalar]) -> np.ndarray:
    """Where these columns have these values, bool [N]."""
    wanted = tuple(values)
    return np.array(
        [entry == wanted for entry in zip(*(_column(rows, name) for name in names), strict=True)], dtype=bool
    )


def _require_settings(rows: pd.DataFrame, variant: Variant) -> None:
    """Raises UsageError when the checkpoint has no row under one of the settings, and says which values it has."""
    for setting, value in variant.settings.items():
        known = list(dict.fromkeys(words.plain(entry) for entry in _column(rows, setting) if entry is not None))
        if value in known:
            continue
        hint = "" if setting in variant.axes else f"--{setting.replace('_', '-')} {value}"
        raise UsageError(
            f"no row of '{variant.name}' has {setting}={value}; its rows have: {', '.join(known)}"
            + (f"; measure it with: ttbench run TASK --checkpoint {variant.name} {hint}" if hint else "")
        )
