"""Compiled message catalogues, written as the manual of gettext describes them."""

from __future__ import annotations

import struct


def compiled(messages: dict[str, str], *, order: str = "<") -> bytes:
    """A .mo file as the manual lays it out: header, two tables of length and offset, texts with a zero byte behind."""
    texts = [text.encode() for text in (*messages, *messages.values())]
    start = 28 + 8 * len(texts)
    places = []
    for text in texts:
        places.append(struct.pack(f"{order}2I", len(text), start))
        start += len(text) + 1
    head = struct.pack(
        f"{order}7I", 0x950412DE, 0, len(messages), 28, 28 + 8 * len(messages), 0, 28 + 16 * len(messages)
    )
    return head + b"".join(places) + b"".join(text + b"\0" for text in texts)
