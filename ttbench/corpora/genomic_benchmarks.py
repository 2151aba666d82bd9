"""GenomicsBenchmarks: the catalogue of its data sets, and a reader of their folders. Torch-free; nothing is downloaded.

    FOLDER/train/CLASS/0.txt ...     one sequence a file, no header
    FOLDER/test/CLASS/0.txt ...

This is what `genomic_benchmarks.loc2seq.download_dataset(NAME)` of the PyPI package genomic-benchmarks 1.0.0 leaves in
~/.genomic_benchmarks/NAME. Its repository holds intervals only (train/CLASS.csv.gz), which that function turns into
sequences. `genomic-benchmarks:NAME` reads that place, `genomic-benchmarks:PATH` any folder laid out alike.

Documents are named CLASS/FILE; letters become capitals, as in the genomes that models here are trained on. Where a
folder bears a name of the catalogue, its numbers of sequences must be the catalogue's.

Source: sequence counts and interval lengths were counted in the interval files of ML-Bioinfo-CEITEC/genomic_benchmarks
@ 605d853 (Apache-2.0); Gresova et al. 2023, BMC Genomic Data 24:25. The licence of a set's sequences is that of its
source, which the repository does not state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ttbench.corpora.corpus import Corpus, Document, make_corpus
from ttbench.errors import CorpusError, MissingDataError

KIND = "genomic-benchmarks"
HOME = ".genomic_benchmarks"  # below the user's home folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One data set."""

    name: str
    classes: Mapping[str, tuple[int, int]]  # class -> sequences in train and in test
    lengths: tuple[int, int]  # bases of the shortest and of the longest sequence
    titans: str | None = None  # its column in table 4 of the Titans paper


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="demo_coding_vs_intergenomic_seqs",
            classes={"coding_seqs": (37_500, 12_500), "intergenomic_seqs": (37_500, 12_500)},
            lengths=(200, 200),
        ),
        Benchmark(
            name="demo_human_or_worm",
            classes={"human": (37_500, 12_500), "worm": (37_500, 12_500)},
            lengths=(200, 200),
        ),
        Benchmark(
            name="drosophila_enhancers_stark",
            classes={"negative": (2_592, 865), "positive": (2_592, 865)},
            lengths=(236, 3_237),
        ),
        Benchmark(
            name="dummy_mouse_enhancers_ensembl",
            classes={"negative": (484, 121), "positive": (484, 121)},
            lengths=(331, 4_776),
        ),
        Benchmark(
            name="human_enhancers_cohn",
            classes={"negative": (10_422, 3_474), "positive": (10_421, 3_474)},
            lengths=(500, 500),
            titans="Enhancer Cohn",
        ),
        Benchmark(
            name="human_enhancers_ensembl",
            classes={"negative": (61_936, 15_485), "positive": (61_936, 15_485)},
            lengths=(2, 573),
            titans="Enhancer Ens",
        ),
        Benchmark(
            name="human_ensembl_regulatory",
            classes={"enhancer": (85_512, 21_378), "ocr": (69_902, 17_476), "promoter": (75_934, 18_859)},
            lengths=(71, 802),
            titans="Human Reg.",
        ),
        Benchmark(
            name="human_nontata_promoters",
            classes={"negative": (12_355, 4_119), "positive": (14_742, 4_915)},
            lengths=(251, 251),
            titans="Non-TATA Prom.",
        ),
        Benchmark(
            name="human_ocr_ensembl",
            classes={"negative": (69_902, 17_476), "positive": (69_902, 17_476)},
            lengths=(71, 593),
            titans="OCR Ens.",
        ),
    )
}


def open_benchmark(text: str) -> Corpus:
    """The data set of a catalogue name or of a folder, with splits train and test.

    Raises MissingDataError when a data set of the catalogue is not there, CorpusError when a folder is not there, is
    not laid out so, or has other numbers than the catalogue says.
    """
    folder = Path(os.path.expanduser(f"~/{HOME}/{text}" if text in BENCHMARKS else text))
    if not folder.is_dir():
        if text not in BENCHMARKS:
            raise CorpusError(
                f"corpus '{KIND}:{text}': no such folder, and none of the catalogue: {', '.join(BENCHMARKS)}"
            )
        raise MissingDataError(
            f"'{text}' is not in '{folder}'; where the network allows it: pip install genomic-benchmarks, then python "
            f"-c \"from genomic_benchmarks.loc2seq import download_dataset as d; d('{text}')\"; or give a folder: "
            f"--corpus {KIND}:PATH"
        )
    splits = {split: _read_split(folder, split) for split in ("train", "test")}
    found = {split: _count(documents) for split, documents in splits.items()}
    if found["train"].keys() != found["test"].keys():
        raise CorpusError(
            f"'{folder}' has classes {', '.join(found['train'])} in train and {', '.join(found['test'])} in test; "
            "they must be the same"
        )
    known = BENCHMARKS.get(folder.name)
    numbers = {label: (found["train"][label], found["test"][label]) for label in found["train"]}
    if known is not None and numbers != dict(known.classes):
        raise CorpusError(
            f"'{folder}' holds {_listing(numbers)} sequences (train/test), and {known.name} has "
            f"{_listing(known.classes)}; download it again, or rename a folder that is meant to differ"
        )
    return make_corpus(f"{KIND}:{text}", splits, source=f"GenomicsBenchmarks, folder {folder.name}")


def _read_split(folder: Path, split: str) -> list[Document]:
    root = folder / split
    if root.is_dir() and next(root.glob("*.csv.gz"), None):
        raise CorpusError(
            f"'{root}' holds intervals (CLASS.csv.gz), not sequences; genomic_benchmarks.loc2seq.download_dataset "
            "turns them into sequences, with the reference genome"
        )
    files = sorted(root.glob("*/*.txt"))
    if not files:
        raise CorpusError(f"'{folder}' is not laid out as {split}/CLASS/FILE.txt; nothing of that kind is there")
    return [_read(file) for file in files]


def _read(file: Path) -> Document:
    try:
        letters = b"".join(file.read_bytes().split()).upper()
    except OSError as error:
        raise CorpusError(f"cannot read {file}: {error.strerror}") from error
    if not letters.isalpha():
        raise CorpusError(f"{file} is not one sequence of letters; headers and numbers do not belong there")
    return Document(name=f"{file.parent.name}/{file.stem}", text=letters)


def _count(documents: list[Document]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for document in documents:
        label = document.name.partition("/")[0]
        counts[label] = counts.get(label, 0) + 1
    return dict(sorted(counts.items()))


def _listing(numbers: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{label} {train}/{test}" for label, (train, test) in numbers.items())
