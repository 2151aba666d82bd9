"""One side of a comparison: a checkpoint, or some settings of it.

    transformer                          every setting it was measured under
    transformer@engine=hf                its rows under one engine
    transformer@attention=flash,dtype=bfloat16

An `@` without `=` after it belongs to the name: hub ids carry their revision there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from ttbench.errors import UnknownNameError, UsageError
from ttbench.types import Scalar

VARIANT_SETTINGS = ("engine", "attention", "dtype", "device", "batch_size", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A checkpoint under the settings that are named; others may be anything."""

    name: str  # checkpoint
    settings: Mapping[str, str] = field(default_factory=dict)  # column -> value as written

    def matches(self, line: Mapping[str, Scalar]) -> bool:
        """Whether a line of the rows is of this checkpoint and these settings."""
        return line["checkpoint"] == self.name and all(
            line.get(setting) is None or str(line[setting]) == value for setting, value in self.settings.items()
        )


def read_variant(text: str) -> Variant:
    """Read one side of a comparison. Raises UsageError when what follows `@` cannot be read."""
    name, at, written = text.rpartition("@")
    if not at or "=" not in written:
        return Variant(name=text)
    settings: dict[str, str] = {}
    for part in written.split(","):
        setting, equals, value = (piece.strip() for piece in part.partition("="))
        setting = setting.replace("-", "_")
        if setting not in VARIANT_SETTINGS:
            raise UnknownNameError("setting", setting, known=VARIANT_SETTINGS, where=f"'{text}'")
        if not equals or not value or setting in settings:
            raise UsageError(f"'{text}' cannot be read; write NAME@SETTING=VALUE, each setting once")
        settings[setting] = value
    return Variant(name=name, settings=settings)


def require_rows(rows: pd.DataFrame, variant: Variant) -> None:
    """Raises UsageError when the checkpoint has no row under one of the settings, and says which values it has."""
    mine = rows[rows["checkpoint"] == variant.name]
    for setting, value in variant.settings.items():
        known = list(dict.fromkeys(str(entry) for entry in mine[setting].tolist() if not pd.isna(entry)))
        if value not in known:
            raise UsageError(
                f"no row of '{variant.name}' has {setting}={value}; its rows have: {', '.join(known)}; measure it "
                f"with: ttbench run TASK --checkpoint {variant.name} --{setting.replace('_', '-')} {value}"
            )
