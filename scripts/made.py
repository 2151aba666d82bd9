"""Parts of pages that are made from code or measurements, and tables in them. A part lies between two marks:

<!-- NAME: made by `make GOAL` -->
<!-- end of NAME -->
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """A page's text with these lines in the part of that name. Raises ValueError where its marks are not there once."""
    begin, end = rf"^<!-- {name}: made by `make \w+` -->\n", rf"^<!-- end of {name} -->\n"
    found = re.findall(f"{begin}|{end}", text, re.MULTILINE)
    if len(found) != 2 or not re.fullmatch(end, found[1]):
        raise ValueError(f"the page has not one part '{name}' between its two marks, but: {found}")
    made = "".join(f"{line}\n" for line in lines)
    return re.sub(
        f"({begin}).*?({end})", lambda marks: marks[1] + made + marks[2], text, flags=re.MULTILINE | re.DOTALL
    )


def table(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Iterator[str]:
    """The lines of a Markdown table whose first column holds the rows' names; its heading may be empty."""
    yield f"| {headings[0]} ".rstrip() + f" | {' | '.join(headings[1:])} |"
    yield "|---" * len(headings) + "|"
    for name, cells in rows:
        yield f"| {name} | {' | '.join(cells)} |"
