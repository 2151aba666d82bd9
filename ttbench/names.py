"""Names from the file system as text that terminals, tables, figures and files of other programs take unharmed.

A folder may be called anything: bytes that are no UTF-8, a line break, `NA`, `1e5`, `=1+1`. Whoever reads a table gets
text: readers of CSV would take some names for a missing value or a number, and spreadsheets would compute others. Such
a folder is called by its path from as few parents as it takes, `runs/1e5`, which is true, and nothing but text.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

# What pandas.read_csv takes for a missing or a truth value, in lower case; R takes T and F for truth values too.
_MISSING = {"", "#n/a", "#n/a n/a", "#na", "<na>", "n/a", "na", "nan", "none", "null", "true", "false", "t", "f"}
_MISSING |= {"1.#ind", "1.#qnan"}
# What spreadsheets turn into a date or a time, such as MAR1, 5 May and 7 pm, and R into a number, such as 0x1F and 2i.
# Source: Ziemann, Eren and El-Osta 2016, "Gene name errors are widespread in the scientific literature".
_MONTH = "jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?"
_MONTH += "|nov(ember)?|dec(ember)?"
_READ = re.compile(
    rf"\d{{1,4}}[-/. ]?({_MONTH})([-/. ]?\d{{1,4}})?|({_MONTH})[-/. ]?\d{{1,4}}|\d+(:\d+)* [ap]m?"
    r"|0x[0-9a-f]+(\.[0-9a-f]*)?(p-?\d+)?|[\d.]+i",
    re.IGNORECASE,
)
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet computes


def as_text(name: str) -> str:
    r"""A name with bytes that are no UTF-8 spelt as in `caf\xe9`; other names as they are."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_plain(name: str) -> bool:
    """Whether readers of CSV and spreadsheets take the name for text: not for a number, a date, a gap or a formula."""
    if name.lower() in _MISSING or name.startswith(_FORMULA) or not any(letter.isalpha() for letter in name):
        return False
    if _READ.fullmatch(name):
        return False
    try:
        float(name)
    except ValueError:
        return True
    return False


def folder_name(folder: Path) -> str:
    """What a folder is called in rows: its last name, with parents before it until it is plain text on one line."""
    parts = Path(os.path.abspath(folder)).parts
    tails = (os.path.join(*parts[-number:]) for number in range(1, len(parts) + 1))
    name = next((tail for tail in tails if is_plain(tail)), os.path.abspath(folder))
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in as_text(name))


def quote(word: str) -> str:
    """A word as a shell reads it back: bash's $'...' where it holds line breaks or bytes that are no UTF-8."""
    if as_text(word) == word and word.isprintable():
        return shlex.quote(word)
    raw = word.encode("utf-8", "surrogateescape")
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
    return f"$'{''.join(plain)}'"
