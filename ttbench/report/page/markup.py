"""HTML that is made of elements, so that no text can become markup.

    element("td", name, class_="number")      <td class="number">...</td>, with the name escaped

Text is escaped where it enters an element; only another element is taken as it stands. What a reader could not see is
spelled out (NUL, marks that turn the direction of writing), and names are isolated from the direction of their
surroundings.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Markup:
    """HTML that is safe to be put into a page."""

    html: str


Child = Markup | str | int | None
_VOID = frozenset(("br", "col", "hr", "input", "meta"))
# without end tags; in a drawing an open element would take the next one in
_SHAPES = frozenset(("circle", "line"))
_KEPT = "\n\t"


def spelled(text: object, *, keep: str = "") -> str:
    """Text with every character that is not printed spelled out, as `\\x00` and `\\u202e`; those of `keep` stay."""
    return "".join(letter if letter.isprintable() or letter in keep else repr(letter)[1:-1] for letter in str(text))


def escaped(text: object, *, keep: str = "") -> str:
    """Text as it is written between tags and in attributes."""
    return html.escape(spelled(text, keep=keep), quote=True)


def element(tag: str, *children: Child | Iterable[Child], **attributes: str | int | bool | None) -> Markup:
    """An element. Attributes lose an underscore at the end, and have hyphens for others; None and False leave one out.

    Line ends and tabs stay in `pre`, and nowhere else.
    """
    found = []
    for name, value in attributes.items():
        name = name.rstrip("_").replace("_", "-")
        if value is True:
            found.append(f" {name}")
        elif value is not None and value is not False:
            found.append(f' {name}="{escaped(value)}"')
    head = f"<{tag}{''.join(found)}{'/' if tag in _SHAPES else ''}>"
    if tag in _VOID or tag in _SHAPES:
        return Markup(head)
    keep = _KEPT if tag == "pre" else ""
    return Markup(f"{head}{''.join(_inner(child, keep) for child in children)}</{tag}>")


def join(*children: Child | Iterable[Child]) -> Markup:
    """Elements and texts one after another."""
    return Markup("".join(_inner(child, "") for child in children))


def name(text: object) -> Markup:
    """A name that users chose, isolated from the direction of writing around it."""
    return element("bdi", str(text))


def _inner(child: Child | Iterable[Child], keep: str) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child.html
    if isinstance(child, str | int):
        return escaped(child, keep=keep)
    return "".join(_inner(each, keep) for each in child)
