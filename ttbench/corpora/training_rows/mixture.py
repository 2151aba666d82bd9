"""What the zoo is trained on: rows of code, prose and synthetic recall, each a pure function of (seed, index).

    code, prose   BOS and a window of a training document
    dna           the same, of a genome; the corpus is opened when the first such row is made
    languages     BOS and messages of one language, in an order of the row's own
    cipher        a window of prose, its letters permuted anew in each row
    cipher-languages    messages of one language, their letters permuted likewise: a language that there is not
    scripts       messages of one language in random letters of another script, drawn anew in each row
    renamed       a window of code, its words drawn anew in each row
    copy          random strings, each written 2 to 4 times with filler between
    recall        key/value sentences in a wording drawn per row, then the same again in another order
    needle        key/value sentences strewn in a window of text, then asked for
    recall-any, needle-any    the same two in a wording put together from words of the training text
    needle-series, needle-any-series    such rows of many lengths, one after the other, so that questions come anywhere
    mqar, copying, parity, s5    sequences of symbols and what follows from all before (`puzzles.py`)

A row is T inputs, T targets and T loss weights. In synthetic rows only what can be known counts: the second and
later writings of a string, the values that are asked for. With an exception that the zoo was trained with: a recall row
that comes out too long loses its beginning, and asks for what was stated there all the same, 5 to 15 % of the values
(a row in three at 128 tokens, four in five at 1,024). Keys are made of random syllables, values are never seven
digits, and no wording is that of the needle task, so a model that passes the task has learned to look up, not the
task. Letters: T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ttbench.corpora.cipher import encipher, transcribe
from ttbench.corpora.corpus import Document, open_corpus
from ttbench.corpora.renamed import rename
from ttbench.corpora.training_rows.keyed_rows import (
    LAST,
    Maker,
    Span,
    composed_wording,
    copy_row,
    listed_wording,
    needle_maker,
    recall_maker,
    series_maker,
)
from ttbench.corpora.training_rows.messages import draw_messages
from ttbench.corpora.training_rows.puzzles import NOT_ASKED, PUZZLES, Puzzle

BOS = 256


def _window(rng: np.random.Generator, documents: Sequence[Document], shares: np.ndarray, size: int) -> bytes:
    """`size` bytes from a document drawn by length; short documents are joined by a newline until it is full."""
    parts: list[bytes] = []
    have = 0
    while have < size:
        text = documents[int(np.searchsorted(shares, rng.random(), side="right"))].text
        start = int(rng.integers(max(1, len(text) - (size - have) + 1)))
        part = text[start : start + size - have]
        parts.append(part)
        have += len(part) + 1
    return b"\n".join(parts)[:size]


def _text_maker(documents: Sequence[Document]) -> Maker:
    sizes = np.array([len(document.text) for document in documents], dtype=np.float64)
    shares = np.cumsum(sizes) / sizes.sum()
    shares[-1] = 1.0

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        return [Span(text=_window(rng, documents, shares, num_tokens), weight=1.0)]

    return make


def _late_maker(corpus: str, split: str) -> Maker:
    """Text of a corpus that need not be on the machine of whoever asks for none of its rows."""

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        return _opened_maker(corpus, split)(rng, num_tokens)

    return make


@cache
def _opened_maker(corpus: str, split: str) -> Maker:
    return _text_maker(open_corpus(corpus).documents(split))


def _messages_maker(split: str) -> Maker:
    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        return [Span(text=draw_messages(rng, num_tokens, split=split), weight=1.0)]

    return make


def _changed_maker(text: Maker, change: Callable[[bytes, str], bytes], *, shrinks: int = 1) -> Maker:
    """Text of which every row is changed in a way of its own, which a seed gives; at most `shrinks` times shorter."""

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        span = text(rng, num_tokens * shrinks)[0]
        return [Span(text=change(span.text, str(rng.integers(2**62))), weight=1.0)]

    return make


def _letters(change: Callable[..., str]) -> Callable[[bytes, str], bytes]:
    """`change` on a window; what its ends cut of a letter is left out."""
    return lambda text, seed: change(text.decode(errors="ignore"), seed=seed).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch of training rows."""

    inputs: np.ndarray  # int64 [B, T]
    targets: np.ndarray  # int64 [B, T]
    weights: np.ndarray  # float32 [B, T]

    def digest(self, previous: str) -> str:
        """Digest of this batch chained to that of all before: equal digests mean equal data in equal order."""
        state = hashlib.blake2b(previous.encode(), digest_size=16)
        for array in (self.inputs, self.targets, self.weights):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def _asked(puzzle: Puzzle) -> Rows:
    """A puzzle as a training row: only what is asked for weighs, and it need not be what is read next."""
    targets, asked = puzzle.targets, puzzle.targets != NOT_ASKED
    return Rows(
        inputs=np.concatenate(([BOS], puzzle.symbols))[None],
        targets=np.where(asked, targets, 0)[None],
        weights=asked.astype(np.float32)[None],
    )


class Mixture:
    """Rows drawn by kind. Every row depends on (seed, stream, index) only, so any batch can be made at any time.

    Texts come from the documents of one split: train for training, valid for choosing among trials.
    """

    def __init__(self, *, seed: int, answer_weight: float, split: str = "train") -> None:
        sources = {"code": "code", "prose": "kjv"}
        texts = {kind: _text_maker(open_corpus(corpus).documents(split)) for kind, corpus in sources.items()}
        composed = composed_wording(split)
        hay = list(texts.values())
        needle = needle_maker(hay, listed_wording, answer_weight=answer_weight)
        needle_any = needle_maker(hay, composed, answer_weight=answer_weight, closing=LAST)
        self.seed = seed
        self.makers: Mapping[str, Maker] = {
            **texts,
            "dna": _late_maker("genomes", split),
            "languages": _messages_maker(split),
            "cipher": _changed_maker(texts["prose"], _letters(encipher)),
            "cipher-languages": _changed_maker(_messages_maker(split), _letters(encipher)),
            "scripts": _changed_maker(_messages_maker(split), _letters(transcribe), shrinks=4),
            "renamed": _changed_maker(texts["code"], lambda text, seed: rename(text, seed=seed)),
            "copy": copy_row,
            "recall": recall_maker(listed_wording),
            "needle": needle,
            "needle-series": series_maker(needle),
            "recall-any": recall_maker(composed),
            "needle-any": needle_any,
            "needle-any-series": series_maker(needle_any),
        }

    def row(self, shares: Mapping[str, float], *, stream: int, index: int, num_tokens: int) -> Rows:
        """One row, [1, T]. `shares` gives each kind's weight in the draw; `stream` tells phases apart."""
        rng = np.random.default_rng((self.seed, stream, index))
        kinds = list(shares)
        weights = np.array([shares[kind] for kind in kinds], dtype=np.float64)
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        if kind in PUZZLES:
            return _asked(PUZZLES[kind](rng, num_tokens))
        spans = self.makers[kind](rng, num_tokens)
        # a row that came out too long loses its beginning: what is asked for stands at its end
        tokens = np.frombuffer(b"".join(span.text for span in spans), dtype=np.uint8)[-num_tokens:].astype(np.int64)
        loss = np.repeat([s.weight for s in spans], [len(s.text) for s in spans])[-num_tokens:].astype(np.float32)
        short = num_tokens - len(tokens)
        tokens = np.concatenate((tokens, np.full(short, ord("\n"), dtype=np.int64)))
        loss = np.concatenate((loss, np.zeros(short, dtype=np.float32)))
        return Rows(inputs=np.concatenate(([BOS], tokens[:-1]))[None], targets=tokens[None], weights=loss[None])

    def batch(self, shares: Mapping[str, float], *, stream: int, step: int, batch_size: int, num_tokens: int) -> Rows:
        """Rows `step * batch_size` and on of a stream, [B, T]."""
        rows = [
            self.row(shares, stream=stream, index=step * batch_size + i, num_tokens=num_tokens)
            for i in range(batch_size)
        ]
        return Rows(
            inputs=np.concatenate([row.inputs for row in rows]),
            targets=np.concatenate([row.targets for row in rows]),
            weights=np.concatenate([row.weights for row in rows]),
        )
