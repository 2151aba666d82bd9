"""One side of a comparison: a checkpoint, or some settings of it.

    transformer                          every setting it was measured under
    transformer@engine=hf                its rows under one engine
    transformer@attention=flash,dtype=bfloat16
    transformer@strategy=oracle          one place on an axis that some metrics have beside the context

An `@` without `=` after it belongs to the name: hub ids carry their revision there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pandas as pd

from ttbench.errors import UnknownNameError, UsageError
from ttbench.report import words
from ttbench.types import Scalar

VARIANT_SETTINGS = ("engine", "attention", "dtype", "device", "batch_size", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A checkpoint under the settings that are named; others may be anything."""

    name: str  # checkpoint
    settings: Mapping[str, str] = field(default_factory=dict)  # column -> value as written

    @property
    def axes(self) -> set[str]:
        """Those of the settings that are places on an axis."""
        return self.settings.keys() - VARIANT_SETTINGS

    def matches(self, line: Mapping[str, Scalar]) -> bool:
        """Whether a line of the rows, with its places, is of this checkpoint and these settings."""
        return line["checkpoint"] == self.name and all(
            line.get(setting) is None or words.plain(line[setting]) == value for setting, value in self.settings.items()
        )


def read_variant(text: str, *, axes: Collection[str] | None = None) -> Variant:
    """Read one side of a comparison.

    Args:
        text: as written.
        axes: names that are known beside VARIANT_SETTINGS; None: any name will do.

    Raises UsageError when what follows `@` cannot be read.
    """
    name, at, written = text.rpartition("@")
    if not at or "=" not in written:
        return Variant(name=text)
    settings: dict[str, str] = {}
    for part in written.split(","):
        setting, equals, value = (piece.strip() for piece in part.partition("="))
        setting = setting.replace("-", "_")
        if axes is not None and setting not in (*VARIANT_SETTINGS, *axes):
            raise UnknownNameError("setting", setting, known=(*VARIANT_SETTINGS, *axes), where=f"'{text}'")
        if not equals or not value or setting in settings:
            raise UsageError(f"'{text}' cannot be read; write NAME@SETTING=VALUE, each setting once")
        settings[setting] = value
    return Variant(name=name, settings=settings)


def require_rows(rows: pd.DataFrame, variant: Variant) -> None:
    """Raises UsageError when the checkpoint has no row under one of the settings, and says which values it has."""
    mine = rows[rows["checkpoint"] == variant.name]
    for setting, value in variant.settings.items():
        known = list(dict.fromkeys(words.plain(entry) for entry in mine[setting].tolist() if not pd.isna(entry)))
        if value in known:
            continue
        hint = "" if setting in variant.axes else f"--{setting.replace('_', '-')} {value}"
        raise UsageError(
            f"no row of '{variant.name}' has {setting}={value}; its rows have: {', '.join(known)}"
            + (f"; measure it with: ttbench run TASK --checkpoint {variant.name} {hint}" if hint else "")
        )
