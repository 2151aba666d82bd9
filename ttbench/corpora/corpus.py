"""Corpora: named texts, split by document into train, valid and test. Torch-free.

A registered corpus is a function without arguments; a kind of corpus (`text:PATH`, `hf:DATASET`) is one of what stands
behind the colon. A document's split follows from its name alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ttbench.errors import CorpusError, UnknownNameError
from ttbench.registry import CORPORA, CORPUS_KINDS
from ttbench.types import digest

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text, UTF-8."""

    name: str
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents by split; `digest` covers every name, split and byte."""

    name: str
    digest: str
    source: str  # what a reader needs to get the same bytes
    licence: str
    splits: Mapping[str, tuple[Document, ...]]
    caveat: str = ""  # what a number on this text must not be read without; empty: nothing
    notes: tuple[str, ...] = ()  # what was left out or changed, for a reader

    def documents(self, split: str) -> tuple[Document, ...]:
        """The documents of a split, sorted by name. Raises CorpusError when the corpus has none there."""
        if split not in SPLITS:
            raise UnknownNameError("split", split, known=SPLITS)
        found = self.splits.get(split, ())
        if not found:
            kept = ", ".join(name for name, documents in self.splits.items() if documents)
            raise CorpusError(
                f"corpus '{self.name}' has no documents in its {split} split, only in {kept}; name a folder or split "
                "to score, such as text:FOLDER/train or hf:NAME@train"
            )
        return found


def make_corpus(
    name: str,
    splits: Mapping[str, Iterable[Document]],
    *,
    source: str,
    licence: str = "unknown",
    caveat: str = "",
    notes: tuple[str, ...] = (),
) -> Corpus:
    """Sort, drop empty documents, and digest."""
    sorted_splits = {
        split: tuple(sorted((d for d in splits.get(split, ()) if d.text), key=lambda d: d.name)) for split in SPLITS
    }
    lines = [
        f"{split}\t{document.name}\t{digest(document.text)}"
        for split, documents in sorted_splits.items()
        for document in documents
    ]
    if not lines:
        raise CorpusError(f"corpus '{name}' ({source}) has no text")
    return Corpus(
        name=name,
        digest=digest("\n".join(lines)),
        source=source,
        licence=licence,
        splits=sorted_splits,
        caveat=caveat,
        notes=notes,
    )


def open_corpus(name: str) -> Corpus:
    """Open a registered corpus (`code`, `kjv`, `genomes` ...) or one of a kind: `text:PATH`, `hf:DATASET` ...

    Raises UnknownNameError, or CorpusError when the text cannot be read.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind in CORPUS_KINDS:
        return CORPUS_KINDS.load(kind)(rest)
    if colon or name not in CORPORA:
        raise UnknownNameError("corpus", name, known=[*CORPORA, *(f"{kind}:..." for kind in CORPUS_KINDS)])
    return CORPORA.load(name)()


def split_of(key: str, *, test: float, valid: float) -> str:
    """The split of a document or of its family: a fixed hash of `key` against the shares asked for."""
    share = int.from_bytes(hashlib.sha256(f"ttbench-split-1\n{key}".encode()).digest()[:8], "big") / 2**64
    return "test" if share < test else "valid" if share < test + valid else "train"
