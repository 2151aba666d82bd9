"""Translated messages out of message catalogues: gettext's compiled and written forms, and JSON. Torch-free.

A catalogue is data: no plural rule in it is evaluated and nothing is run. `.mo` begins with a magic number, a revision,
the number of messages, and the offsets of two tables; each entry of a table is a length and an offset, of the source
text in the first and of its translation in the second. A context stands before the source text and `\\x04`; plural
forms are parted by `\\0`.

Source: GNU gettext manual, sections 10.3 (the format of .mo) and 3 (the format of .po).
"""

from __future__ import annotations

import ast
import html
import json
import re
import struct
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ttbench.errors import CorpusError

_MAGIC = 0x950412DE
_HEADER_BYTES = 28
_KEYWORD = re.compile(r'(msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?) (".*")')
# What a program fills in, in its three spellings: %(name)s or %s or %1$s, {name}, {{name}}.
_BLANK = re.compile(r"%\([^()]*\)[-#0 +.\d]*[a-zA-Z]|%(?:\d+\$)?[-#0+.\d]*[diouxXeEfFgGcrsa]|%%|\{+[^{}]*\}+")
_LINK = re.compile(r"\b(?:https?://|www\.)\S+|\S+@\S+\.\S+")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
BLANK = "%"  # stands for whatever a program fills in


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueMessage:
    """A text of a program and what a translator made of it; of plural forms the last, which is the general one."""

    source: str
    translation: str


def read_mo(data: bytes, *, where: str) -> Iterator[CatalogueMessage]:
    """The messages of a compiled catalogue, without its header. Raises CorpusError on what is none."""
    try:
        order = {struct.pack("<I", _MAGIC): "<", struct.pack(">I", _MAGIC): ">"}[data[:4]]
        _, _, count, sources, translations = struct.unpack(f"{order}5I", data[:20])
        for number in range(count):
            source, translation = (
                _entry(data, struct.unpack_from(f"{order}2I", data, table + 8 * number))
                for table in (sources, translations)
            )
            if source:
                yield CatalogueMessage(source=_source(source), translation=_last_form(translation))
    except (KeyError, struct.error, UnicodeDecodeError) as error:
        raise CorpusError(f"{where} is no whole .mo catalogue in UTF-8") from error


def _entry(data: bytes, place: tuple[int, int]) -> str:
    length, start = place
    if start < _HEADER_BYTES or start + length > len(data):
        raise struct.error("text outside the file")
    return data[start : start + length].decode()


def _source(text: str) -> str:
    return text.rpartition("\x04")[2].partition("\0")[0]


def _last_form(text: str) -> str:
    return text.rpartition("\0")[2]


def read_po(data: bytes, *, where: str) -> Iterator[CatalogueMessage]:
    """The messages of a written catalogue, without its header and what its translators left in doubt.

    Raises CorpusError on a line that no catalogue has.
    """
    for block in re.split(r"\n\s*\n", data.decode().replace("\r\n", "\n")):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        if any(line.startswith("#,") and "fuzzy" in line for line in lines):
            continue
        fields: dict[str, str] = {}
        key = ""
        for line in lines:
            if line.startswith("#"):
                continue
            found = _KEYWORD.fullmatch(line)
            key, text = found.groups() if found else (key, line)
            if not (key and text.startswith('"') and text.endswith('"') and len(text) > 1):
                raise CorpusError(f"{where} is no .po catalogue: it has the line {line[:60]!r}")
            fields[key] = fields.get(key, "") + ast.literal_eval(text)
        forms = [text for key, text in fields.items() if key.startswith("msgstr")]
        if fields.get("msgid") and forms:
            yield CatalogueMessage(source=fields["msgid"], translation=forms[-1])


def read_json(data: bytes, *, where: str) -> Iterator[CatalogueMessage]:
    """The messages of a JSON object of keys and texts; what they translate is not in it.

    Raises CorpusError on what is none.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        raise CorpusError(f"{where} is no JSON") from error
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise CorpusError(f"{where} is no object of texts")
    for text in found.values():
        yield CatalogueMessage(source="", translation=text)


READERS: Mapping[str, Callable[..., Iterator[CatalogueMessage]]] = {"mo": read_mo, "po": read_po, "json": read_json}


def plain(text: str) -> str:
    """A message as a reader sees it: no mark-up, `%` for what is filled in and for links, one blank between words."""
    text = unicodedata.normalize("NFC", html.unescape(_TAG.sub(" ", text)))
    return " ".join(_LINK.sub(BLANK, _BLANK.sub(BLANK, text)).split())


def is_language(text: str) -> bool:
    """Whether a plain message is words for the most part: two letters at least, and more letters than other signs.

    What is left of a choice between plural forms has braces, and is none.
    """
    num_letters = len(letters(text))
    return num_letters >= 2 and 2 * num_letters > len(text.replace(" ", "")) and not {"{", "}"} & set(text)


def letters(text: str) -> str:
    """The letters of a text and the marks on them, in lower case: what tells one message from another."""
    return "".join(sign for sign in text.casefold() if unicodedata.category(sign)[0] in "LM")


def script(text: str) -> str:
    """The script of most letters of a text, by the first word of their names in Unicode; empty where it has none."""
    counts: dict[str, int] = {}
    for sign in text:
        if sign.isalpha():
            name = unicodedata.name(sign, "").partition(" ")[0].partition("-")[0]
            counts[name] = counts.get(name, 0) + 1
    return max(sorted(counts), key=lambda name: counts[name], default="")
