from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ttbench.corpora import genomes
from ttbench.corpora.corpus import open_corpus
from ttbench.corpora.genomes import GENOMES, MEMBERS, fetch, place, read_fasta, read_genome
from ttbench.errors import CorpusError, MissingDataError
from ttbench.runs.options import Options
from ttbench.runs.request import plan_task
from ttbench.runs.sweep import run_cells
from ttbench.store.store import find_done
from ttbench.tasks.genomics import kmers


def fasta(*records: str) -> bytes:
    return "".join(f">record {i}\n{record}\n" for i, record in enumerate(records)).encode()


def entry(name: bytes, data: bytes) -> bytes:
    header = name.ljust(16) + b"0".ljust(32) + str(len(data)).encode().ljust(10) + b"`\n"
    return header + data + b"\n" * (len(data) % 2)


def package(files: dict[str, bytes]) -> bytes:
    """A .deb: an ar archive with a tar of these files inside."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(MEMBERS + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return b"!<arch>\n" + entry(b"debian-binary", b"2.0\n1") + entry(b"data.tar.xz", buffer.getvalue())


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Genomes of 20 bases in place of the real ones; the cache is empty. Gives the package's files."""
    monkeypatch.setattr(genomes, "cache_folder", lambda: tmp_path / "cache" / "ttbench")
    files = {}
    for number, genome in enumerate(GENOMES.values()):
        bases = "".join(np.random.default_rng(number).choice(list("ACGT"), size=20))
        files[genome.member] = gzip.compress(fasta(bases[:12] + "\n" + bases[12:]), mtime=0)
        digest = hashlib.sha256(files[genome.member]).hexdigest()
        monkeypatch.setitem(GENOMES, genome.name, replace(genome, sha256=digest, num_bases=20))
    genomes.genomes_corpus.cache_clear()
    genomes.strain_corpus.cache_clear()
    yield files
    genomes.genomes_corpus.cache_clear()
    genomes.strain_corpus.cache_clear()


@pytest.mark.parametrize("name", ["genomes", "genomes-strain"])
def test_without_the_genomes_the_corpus_says_what_to_run(name: str, small: dict[str, bytes]) -> None:
    with pytest.raises(MissingDataError, match=r"not on this machine .* python -m ttbench\.corpora\.genomes"):
        open_corpus(name)


def test_without_the_genomes_a_cell_is_skipped_and_says_so_until_they_are_there(
    small: dict[str, bytes], tmp_path: Path
) -> None:
    options = Options(checkpoints=("transformer",), ctx="32", corpus="genomes")
    before = plan_task("genomics", options)
    assert before.cells == ()
    ((status, reason),) = {(skip.status, skip.reason) for skip in before.skips}
    assert status == "unsupported"
    assert "python -m ttbench.corpora.genomes" in reason
    run_cells(before, out=tmp_path / "runs")
    (tmp_path / "x.deb").write_bytes(package(small))
    fetch(tmp_path / "x.deb")
    (cell,) = plan_task("genomics", options).cells
    assert find_done(tmp_path / "runs", [cell.cell_id, before.skips[0].cell.cell_id]) == {}


def test_a_package_at_hand_becomes_two_corpora_that_share_train_and_differ_in_test(
    small: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "x.deb").write_bytes(package(small))
    assert fetch(tmp_path / "x.deb") == [place(genome) for genome in GENOMES.values()]
    assert fetch() == fetch(tmp_path / "absent.deb"), "what is there is not fetched again"
    species, strain = open_corpus("genomes"), open_corpus("genomes-strain")
    assert species.documents("train") == strain.documents("train")
    assert {document.name for document in species.documents("test")} == {"v-cholerae/o395/1/00000000"}
    assert {document.name for document in strain.documents("test")} == {"e-coli/dh1/1/00000000"}
    assert "near duplicate" in strain.source
    assert "near duplicate" not in species.source
    families = [{d.name.split("/")[0] for d in species.documents(split)} for split in ("train", "valid", "test")]
    assert not families[0] & families[1]
    assert not (families[0] | families[1]) & families[2]


def test_a_changed_file_is_refused_in_the_package_and_in_the_cache(small: dict[str, bytes], tmp_path: Path) -> None:
    member = GENOMES["h-pylori/g27"].member
    (tmp_path / "x.deb").write_bytes(package({**small, member: small[member] + b"x"}))
    with pytest.raises(CorpusError, match=r"G27.* is not the file expected"):
        fetch(tmp_path / "x.deb")
    (tmp_path / "y.deb").write_bytes(package(small))
    fetch(tmp_path / "y.deb")
    place(GENOMES["e-coli/mg1655"]).write_bytes(b"other")
    with pytest.raises(CorpusError, match="not the file expected; remove it and fetch it again: python -m ttbench"):
        open_corpus("genomes")


@pytest.mark.parametrize("data", [b"", b"no archive", b"!<arch>\n" + entry(b"debian-binary", b"2.0\n"), b"!<arch>\n\0"])
def test_what_is_no_package_is_refused(data: bytes, small: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(data)
    with pytest.raises(CorpusError, match="no Debian package"):
        fetch(tmp_path / "x.deb")


def test_a_genome_is_cut_in_stretches_that_join_to_all_of_it(
    small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genomes, "STRETCH", 7)
    (tmp_path / "x.deb").write_bytes(package(small))
    fetch(tmp_path / "x.deb")
    genome = GENOMES["v-cholerae/o395"]
    whole, parts = read_genome(genome, cut=False), read_genome(genome, cut=True)
    assert [len(part.text) for part in parts] == [7, 7, 6]
    assert b"".join(part.text for part in parts) == whole[0].text
    other = read_genome(replace(genome, reverse=True), cut=False)[0].text
    assert other == whole[0].text[::-1].translate(bytes.maketrans(b"ACGT", b"TGCA"))


def test_fasta_is_records_of_capitals_without_line_ends() -> None:
    assert list(read_fasta(b">a b\nacG\nTT\n>c\r\nA\r\n", where="x")) == [b"ACGTT", b"A"]


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"ACGT", "must begin with '>'"), (b">a\nACNT", "holds 'N'"), (b">a\n\n", "is empty"), (b"", "must begin")],
)
def test_anything_but_bases_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(CorpusError, match=words):
        list(read_fasta(data, where="x"))


@pytest.mark.skipif(not all(place(genome).is_file() for genome in GENOMES.values()), reason="make genomes")
def test_the_real_test_species_is_new_and_the_real_test_strain_is_a_near_duplicate() -> None:
    species, strain = open_corpus("genomes"), open_corpus("genomes-strain")
    sizes = {split: sum(len(d.text) for d in species.documents(split)) for split in ("train", "valid", "test")}
    assert sizes == {"train": 7_454_491, "valid": 1_652_982, "test": 4_135_300}
    assert sum(len(document.text) for document in strain.documents("test")) == 4_630_707
    known = kmers.vocabulary(species.documents("train")[:1])
    # of all stretches: 0.0004, 0.0032 and 0.9986; a few are enough to tell
    assert kmers.shared(species.documents("valid")[::6], known) < 0.01
    assert kmers.shared(species.documents("test")[::6], known) < 0.01
    assert kmers.shared(strain.documents("test")[::6], known) > 0.99
