"""Training text from `languages`: messages of one language, in an order that is new each time. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ttbench.corpora.corpus import open_corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class _Messages:
    lines: tuple[bytes, ...]  # each with its end of line
    num_bytes: int


@cache
def _messages(split: str) -> tuple[_Messages, ...]:
    documents = open_corpus("languages").documents(split)
    return tuple(
        _Messages(lines=tuple(document.text.splitlines(keepends=True)), num_bytes=len(document.text))
        for document in documents
    )


def draw_messages(rng: np.random.Generator, num_bytes: int, *, split: str) -> bytes:
    """`num_bytes` of one language's messages, none twice.

    A language is drawn by the square root of its length: small ones more often than by the byte, and yet seldom enough
    that they are not learned by heart. Those that have too little are not drawn.

    Raises ValueError when no language has as much.
    """
    languages = [each for each in _messages(split) if each.num_bytes >= num_bytes]
    if not languages:
        raise ValueError(f"no language of split '{split}' has {num_bytes} bytes")
    chances = np.sqrt([each.num_bytes for each in languages])
    lines = languages[int(rng.choice(len(languages), p=chances / chances.sum()))].lines
    parts: list[bytes] = []
    have = 0
    for index in rng.permutation(len(lines)):
        parts.append(lines[index])
        have += len(lines[index])
        if have >= num_bytes:
            break
    return b"".join(parts)[:num_bytes]
