"""Haystacks: the text that needles go into, in tokens, with the places where one may stand.

    essay    a stretch of the test documents put end to end, beginning with a sentence; places are sentence ends, or
             line ends in text without sentences, such as code. As long as asked, to the token
    noise    RULER's five short sentences, a line, again and again; places are line ends
    needle   needles that nobody asks for, one a line; places are line ends

Lines are whole, so the last two may be up to a line shorter than asked. Each part is tokenised by itself, so that
prompts share their prefixes token for token, and a corpus is tokenised once. Letters: T tokens, N places, D documents,
S and E starts and ends of sentences, P positions of bytes, B = T + 1 bounds of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from ttbench.corpora.corpus import Corpus
from ttbench.errors import TooShortError

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

# Above this many bytes between sentence ends, a text is taken line by line.
LONGEST_SENTENCE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Hay:
    """All test documents of a corpus end to end, as tokens, and where sentences begin and end among them."""

    corpus_digest: str
    names: tuple[str, ...]
    ids: Int[np.ndarray, "T"]
    document_starts: Int[np.ndarray, "D"]  # first token of each document
    starts: Int[np.ndarray, "S"]  # tokens with which a sentence begins
    ends: Int[np.ndarray, "E"]  # tokens before which a sentence has ended
    joint: str  # what stands between a needle and its neighbour: a space, or a new line in text taken by lines

    def document_of(self, token: int) -> str:
        """Name of the document that holds a token."""
        return self.names[int(np.searchsorted(self.document_starts, token, side="right")) - 1]

    def offset(self, share: float, haystack_len: int) -> int:
        """Where a haystack begins: with a sentence, `share` of the way through those that it fits behind.

        Raises TooShortError when the corpus has fewer tokens than the haystack.
        """
        if haystack_len > len(self.ids):
            raise TooShortError(
                f"the test documents have {len(self.ids):,} tokens in all, too few for a haystack of {haystack_len:,}; "
                f"ask for {haystack_len - len(self.ids):,} tokens of context less, or give a longer corpus"
            )
        allowed = int(np.searchsorted(self.starts, len(self.ids) - haystack_len, side="right"))
        return int(self.starts[int(share * allowed)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Haystack:
    """One haystack."""

    ids: Int[np.ndarray, "T"]
    places: Int[np.ndarray, "N"]  # tokens before each place for a needle, ascending: 0, ..., T
    joint: str  # what stands between a needle and its neighbours

    @property
    def num_units(self) -> int:
        """Sentences or lines."""
        return len(self.places) - 1

    def nearest(self, depth: float) -> int:
        """The place nearest to a depth: nothing before it at 0, everything at 1."""
        return int(self.places[np.argmin(np.abs(self.places - round(depth * len(self.ids))))])

    def piece(self, needle: str, place: int, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
        """A needle as it stands at a place, with what parts it from its neighbour."""
        # At place 0 nothing stands before the needle but the introduction's new line.
        return tokenizer.encode((needle + self.joint if place == 0 else self.joint + needle).encode())

    def with_pieces(self, pieces: Sequence[tuple[int, Int[np.ndarray, "_"]]]) -> Haystack:
        """The haystack with pieces put in at places, by ascending place."""
        if not pieces:
            return self
        at = np.array([place for place, _ in pieces])
        sizes = np.cumsum([0, *(len(ids) for _, ids in pieces)])
        # A place moves by the pieces before it; the ends of pieces are places too, but for those with a joint at theirs
        moved = self.places + sizes[np.searchsorted(at, self.places)]
        ends = (at + sizes[1:])[at > 0]
        return replace(self, ids=put_in(self.ids, pieces), places=np.unique(np.concatenate([moved, ends])))


def put_in(
    ids: Int[np.ndarray, "T"], pieces: Sequence[tuple[int, Int[np.ndarray, "_"]]], *, first: int = 0
) -> Int[np.ndarray, "_"]:
    """`ids` from token `first` on, with each piece put in after so many tokens of `ids`, by ascending place."""
    parts = []
    for place, piece in pieces:
        parts += [ids[first:place], piece]
        first = place
    return np.concatenate([*parts, ids[first:]])


def gather(corpus: Corpus, tokenizer: Tokenizer) -> Hay:
    """Tokenise the test documents once, and find the sentences."""
    documents = corpus.documents("test")
    text = b"\n\n".join(document.text for document in documents)
    ids = tokenizer.encode(text)
    bounds = np.concatenate([[0], np.cumsum(tokenizer.byte_lengths(ids))])
    ends, by_lines = _sentence_ends(text)
    begins = _next_word(text)[ends]
    # A token may carry the space before its word, so a sentence may begin with that.
    starts = np.concatenate([[0], _tokens_at(begins, bounds)])
    if len(starts) == 1:
        starts = np.concatenate([[0], _tokens_at(ends, bounds)])
    document_bytes = np.cumsum([0, *(len(document.text) + 2 for document in documents)])[:-1]
    return Hay(
        corpus_digest=corpus.digest,
        names=tuple(document.name for document in documents),
        ids=ids,
        document_starts=np.searchsorted(bounds, document_bytes),
        starts=starts[starts < len(ids)],
        ends=_tokens_at(ends, bounds),
        joint="\n" if by_lines else " ",
    )


def cut_essay(hay: Hay, *, offset: int, haystack_len: int) -> Haystack:
    """`haystack_len` tokens of the documents."""
    first, last = np.searchsorted(hay.ends, [offset, offset + haystack_len])
    inner = hay.ends[first:last] - offset
    return Haystack(
        ids=hay.ids[offset : offset + haystack_len],
        places=np.unique(np.concatenate([[0], inner, [haystack_len]])),
        joint=hay.joint,
    )


def stack_lines(lines: Iterable[str], tokenizer: Tokenizer, *, haystack_len: int) -> Haystack:
    """As many whole lines as fit in `haystack_len` tokens, at least one place: 0. Equal lines are tokenised once."""
    parts: list[Int[np.ndarray, "T"]] = []
    encoded: dict[str, Int[np.ndarray, "T"]] = {}
    total = 0
    for line in lines:
        spelled = f"\n{line}" if parts else line
        if spelled not in encoded:
            encoded[spelled] = tokenizer.encode(spelled.encode())
        ids = encoded[spelled]
        if total + len(ids) > haystack_len or not len(ids):
            break
        parts.append(ids)
        total += len(ids)
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return Haystack(ids=ids, places=np.cumsum([0, *map(len, parts)]), joint="\n")


def _sentence_ends(text: bytes) -> tuple[Int[np.ndarray, "N"], bool]:
    """Byte positions after sentences, or after lines where sentences are rare; and which of the two."""
    sentences = np.array([match.end() for match in re.finditer(rb"[.!?][\"')\]]*(?=\s)", text)], dtype=np.int64)
    if len(sentences) * LONGEST_SENTENCE >= len(text):
        return sentences, False
    return np.array([match.end() for match in re.finditer(rb"[^\n](?=\n)", text)], dtype=np.int64), True


def _next_word(text: bytes) -> Int[np.ndarray, "N"]:
    """For each byte position, the end included, the first position from there on that is not white space."""
    here = np.arange(len(text) + 1)
    space = np.isin(np.frombuffer(text, dtype=np.uint8), np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8))
    here[:-1][space] = len(text)
    return np.minimum.accumulate(here[::-1])[::-1]


def _tokens_at(positions: Int[np.ndarray, "P"], bounds: Int[np.ndarray, "B"]) -> Int[np.ndarray, "_"]:
    """Tokens that begin exactly at these bytes."""
    tokens = np.searchsorted(bounds, positions)
    return tokens[bounds[tokens] == positions]
