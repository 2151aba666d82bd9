"""Corpora of DNA: complete bacterial genomes out of Debian's package ragout-examples, split by species. Torch-free.

    make genomes                                     fetch once, 18 MB, without root
    python -m ttbench.corpora.genomes [--deb FILE]   the same

`genomes` tests on a species that training never saw:

    train   Escherichia coli K-12 MG1655, Staphylococcus aureus N315    7,454,491 bases
    valid   Helicobacter pylori G27                                     1,652,982
    test    Vibrio cholerae O395, both chromosomes                      4,135,300

`genomes-strain` has the same train and valid, and tests on E. coli DH1 (4,630,707 bases), a second strain of a species
that was trained on: a near duplicate, of whose 24-mers 99.9 % stand in the train split. Its score says what memory
does and nothing about new DNA. Its file holds the other strand than that of MG1655, so it is read backwards and
complemented: else no model of one strand could recognise it. V. cholerae shares 0.3 % of its 24-mers with the
train split (`tests/corpora/test_genomes.py` measures both where the genomes are).

One byte is one base: capital A, C, G, T, no headers, no line ends, so bits per byte are bits per base. Genomes of valid
and test are cut in stretches of 131,072 bases, each a document; intervals are over stretches of one genome, and say
nothing about other species. The strains of a species are near duplicates of each other, so one of each is used.

Licence: the package says BSD-3-Clause of its files; the genomes themselves are records of public sequence archives
(accessions in GENOMES; MG1655 carries none in the package).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ttbench.corpora.corpus import SPLITS, Corpus, Document, make_corpus
from ttbench.errors import CorpusError, MissingDataError, TtbenchError
from ttbench.machine.user_cache import cache_folder

PACKAGE = "ragout-examples 2.3-4"
URL = "http://deb.debian.org/debian/pool/main/r/ragout/ragout-examples_2.3-4_all.deb"
MEMBERS = "./usr/share/doc/ragout/examples/"
COMMAND = "python -m ttbench.corpora.genomes"  # the same as `make genomes`, which only a checkout has
STRETCH = 131_072  # bases of a document of valid and test
BASES = b"ACGT"
_COMPLEMENT = bytes.maketrans(BASES, BASES[::-1])
LICENCE = "BSD-3-Clause (packaging); the sequences are public-archive records"
_MAX_BYTES = 64 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Genome:
    """One FASTA file of the package."""

    name: str  # species/strain
    member: str  # below MEMBERS
    sha256: str  # of the compressed file
    accession: str | None  # of its records
    num_bases: int
    reverse: bool = False  # read on the other strand than the file's


GENOMES: dict[str, Genome] = {
    genome.name: genome
    for genome in (
        Genome(
            name="e-coli/mg1655",
            member="E.Coli/references/MG1655-K12.fasta.gz",
            sha256="ae952b2873ef8badc956925a61c5b536d4e40322b4e8b15dde3d8eda7ce3c879",
            accession=None,
            num_bases=4_639_675,
        ),
        Genome(
            name="e-coli/dh1",
            member="E.Coli/references/DH1.fasta.gz",
            sha256="53621b05f11c062c3600ed53fc05f2e6db3605d8104260674ff019e536acdccd",
            accession="NC_017625.1",
            num_bases=4_630_707,
            reverse=True,
        ),
        Genome(
            name="s-aureus/n315",
            member="S.Aureus/references/N315.fasta.gz",
            sha256="f00af0fea6d59d4aef1cac64be57a5215739b7c23fae7f6bc0d44e1f9805a0e9",
            accession="NC_002745.2",
            num_bases=2_814_816,
        ),
        Genome(
            name="h-pylori/g27",
            member="H.Pylori/references/G27.fasta.gz",
            sha256="80dd2ad4125b47fa644350cec0bee7bf3956e379bf3e3e97a25e9c17ba297658",
            accession="NC_011333.1",
            num_bases=1_652_982,
        ),
        Genome(
            name="v-cholerae/o395",
            member="V.Cholerae/references/O395.fasta.gz",
            sha256="3ecf6fc1bfac8787e560fe4c9965d1248bb2de1987d0cb7eb5470f01a1ca8772",
            accession="CP001235.1 CP001236.1",
            num_bases=4_135_300,
        ),
    )
}
TRAIN, VALID = ("e-coli/mg1655", "s-aureus/n315"), ("h-pylori/g27",)
NEW_SPECIES, NEAR_DUPLICATE = ("v-cholerae/o395",), ("e-coli/dh1",)


@cache
def genomes_corpus() -> Corpus:
    """Bacterial genomes, tested on a species that training never saw; fetched by `make genomes`.

    Raises MissingDataError when they are not on this machine.
    """
    return _corpus("genomes", test=NEW_SPECIES, remark="the test species is in no other split")


@cache
def strain_corpus() -> Corpus:
    """The same training genomes, tested on a near duplicate of one of them: what a model remembers.

    Raises MissingDataError when they are not on this machine.
    """
    return _corpus("genomes-strain", test=NEAR_DUPLICATE, remark="the test strain is a near duplicate of one in train")


def _corpus(name: str, *, test: Iterable[str], remark: str) -> Corpus:
    parts = dict(zip(SPLITS, (TRAIN, VALID, tuple(test)), strict=True))
    splits = {
        split: [document for genome in genomes for document in read_genome(GENOMES[genome], cut=split != "train")]
        for split, genomes in parts.items()
    }
    return make_corpus(name, splits, source=f"Debian package {PACKAGE}; {remark}", licence=LICENCE)


def read_genome(genome: Genome, *, cut: bool) -> list[Document]:
    """The records of a genome as documents, each whole or cut in stretches.

    Raises MissingDataError when the file is not in the cache, CorpusError when it is not as it should be.
    """
    path = place(genome)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MissingDataError(
            f"the genomes are not on this machine ({path}); fetch them once (18 MB): {COMMAND}"
        ) from error
    if hashlib.sha256(data).hexdigest() != genome.sha256:
        raise CorpusError(f"'{path}' is not the file expected; remove it and fetch it again: {COMMAND}")
    documents = []
    for number, bases in enumerate(read_fasta(gzip.decompress(data), where=str(path)), start=1):
        bases = bases.translate(_COMPLEMENT)[::-1] if genome.reverse else bases
        name = f"{genome.name}/{number}"
        starts = range(0, len(bases), STRETCH) if cut else ()
        documents += [Document(name=f"{name}/{at:08d}", text=bases[at : at + STRETCH]) for at in starts]
        documents += [] if cut else [Document(name=name, text=bases)]
    return documents


def read_fasta(data: bytes, *, where: str) -> Iterator[bytes]:
    """The bases of each record, in capitals. Raises CorpusError on what is not FASTA of A, C, G, T alone."""
    head, *records = data.split(b">")
    if head.strip() or not records:
        raise CorpusError(f"{where} is not FASTA: it must begin with '>'")
    for record in records:
        title, _, lines = record.partition(b"\n")
        bases = b"".join(lines.split()).upper()
        other = sorted(set(bases) - set(BASES))
        if other or not bases:
            found = f"holds {bytes(other).decode(errors='replace')!r}" if other else "is empty"
            name = title.decode(errors="replace").strip()
            raise CorpusError(f"record '{name}' of {where} {found}; only A, C, G and T can be scored as bases")
        yield bases


def place(genome: Genome) -> Path:
    """Where a genome is kept."""
    return cache_folder() / "data" / "genomes" / f"{genome.name.replace('/', '-')}.fasta.gz"


def fetch(deb: Path | None = None) -> list[Path]:
    """Put the genomes into the cache, from a package at hand or from Debian's mirror, and say where.

    Raises CorpusError when the package cannot be had, or does not hold these files.
    """
    genomes = list(GENOMES.values())
    if not all(_is_whole(genome) for genome in genomes):
        members = _members(_download() if deb is None else _read(deb), {MEMBERS + each.member for each in genomes})
        for genome in genomes:
            data = members.get(MEMBERS + genome.member, b"")
            if hashlib.sha256(data).hexdigest() != genome.sha256:
                raise CorpusError(f"{genome.member} in the package is not the file expected; give that of {PACKAGE}")
            _keep(data, place(genome))
    return [place(genome) for genome in genomes]


def _is_whole(genome: Genome) -> bool:
    path = place(genome)
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == genome.sha256


def _download() -> bytes:
    """The package; what it holds is checked file by file, so that the mirror need not be trusted."""
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer:
            return answer.read(_MAX_BYTES)
    except (urllib.error.URLError, TimeoutError) as error:
        raise CorpusError(
            f"{URL} cannot be fetched: {error}; get the package elsewhere (apt-get download ragout-examples), "
            f"then: {COMMAND} --deb FILE"
        ) from error


def _read(deb: Path) -> bytes:
    try:
        return deb.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot read '{deb}': {error.strerror}; give the .deb of {PACKAGE}") from error


def _members(deb: bytes, wanted: set[str]) -> dict[str, bytes]:
    """Files of the package's data.tar, read in place: nothing is unpacked or run."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_archive_entry(deb, b"data.tar.xz")), mode="r:xz") as archive:
            files = [(member.name, archive.extractfile(member)) for member in archive if member.name in wanted]
            return {name: file.read() for name, file in files if file is not None}
    except (tarfile.TarError, EOFError) as error:
        raise CorpusError(f"the package cannot be read: {error}; give the .deb of {PACKAGE}") from error


def _archive_entry(archive: bytes, name: bytes) -> bytes:
    """An entry of an `ar` archive: 60 bytes of header with the name first and the size at 48, padded to even."""
    at = 8
    while archive.startswith(b"!<arch>\n") and at + 60 <= len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58]) if header[48:58].strip().isdigit() else 0
        if header[:16].strip().rstrip(b"/") == name:
            return archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise CorpusError(f"the file is no Debian package with {name.decode()} inside; give the .deb of {PACKAGE}")


def _keep(data: bytes, path: Path) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".genome-")
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def main() -> None:
    """Fetch, and print where the genomes are."""
    parser = argparse.ArgumentParser(prog="python -m ttbench.corpora.genomes", description=COMMAND)
    parser.add_argument("--deb", type=Path, help="the package, downloaded already")
    try:
        print(*fetch(parser.parse_args().deb), sep="\n")
    except TtbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
