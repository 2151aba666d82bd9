"""Families for names with letters that the figures' own font lacks. Imported when something is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

OWN = "DejaVu Sans"  # ships with matplotlib, so figures look the same everywhere


def users_families() -> list[str]:
    """The families that the user's matplotlibrc names, generic ones spelt out. Call before settings are reset."""
    settings: Mapping[str, Any] = matplotlib.rcParams  # pyright: ignore[reportAssignmentType]
    found: list[str] = []
    for name in settings["font.family"]:
        found += settings.get(f"font.{name}", [name])
    return found


def families(texts: Iterable[str], *, preferred: Sequence[str]) -> tuple[list[str], str]:
    """Families that together have the letters of `texts`, our own first, and the letters that none of them has.

    Args:
        texts: all that will be written.
        preferred: families to take first, where they are installed.
    """
    missing = {letter for text in texts for letter in text if letter.isprintable() and not letter.isspace()}
    missing -= _letters(font_manager.findfont(OWN))
    found = [OWN]
    if missing:
        for family, path in _installed(preferred):
            more = missing & _letters(path)
            if more and family not in found:
                found.append(family)
                missing -= more
            if not missing:
                break
    return found, "".join(sorted(missing))


def _installed(preferred: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Families with a file of each, those preferred first, the others by name; fonts installed since are found too."""
    known = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in sorted(set(font_manager.findSystemFonts()) - known):
        try:
            font_manager.fontManager.addfont(path)
        except (OSError, RuntimeError, ValueError):
            # Not a font that FreeType reads.
            continue
    order = {name: place for place, name in reversed(list(enumerate(preferred)))}
    entries = {(entry.name, entry.fname) for entry in font_manager.fontManager.ttflist}
    yield from sorted(entries, key=lambda entry: (order.get(entry[0], len(order)), entry))


def _letters(path: str) -> set[str]:
    try:
        return set(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):
        return set()
