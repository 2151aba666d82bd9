from __future__ import annotations

from pathlib import Path

import pytest

from ttbench.corpora.corpus import open_corpus
from ttbench.corpora.genomic_benchmarks import BENCHMARKS, HOME
from ttbench.errors import CorpusError


def lay_out(folder: Path, *, num_train: int = 3, num_test: int = 2, classes: tuple[str, ...] = ("a", "b")) -> Path:
    for split, count in (("train", num_train), ("test", num_test)):
        for label in classes:
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                (folder / split / label / f"{number}.txt").write_text(f"acgN{'ACGT'[number % 4]}\n")
    return folder


def test_the_catalogue_has_nine_sets_of_which_titans_reports_five() -> None:
    assert len(BENCHMARKS) == 9
    assert sum(benchmark.titans is not None for benchmark in BENCHMARKS.values()) == 5
    for name, benchmark in BENCHMARKS.items():
        assert name == benchmark.name
        assert benchmark.lengths[0] <= benchmark.lengths[1]
        assert len(benchmark.classes) >= 2


def test_a_folder_in_its_layout_is_a_corpus_of_labelled_documents(tmp_path: Path) -> None:
    corpus = open_corpus(f"genomic-benchmarks:{lay_out(tmp_path / 'own')}")
    assert [document.name for document in corpus.documents("test")] == ["a/0", "a/1", "b/0", "b/1"]
    assert corpus.documents("train")[1].text == b"ACGNC"
    with pytest.raises(CorpusError, match="no documents in its valid split"):
        corpus.documents("valid")


def test_a_name_of_the_catalogue_is_read_where_the_package_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    name = "dummy_mouse_enhancers_ensembl"
    with pytest.raises(CorpusError, match=f"'{name}' is not in .*pip install genomic-benchmarks"):
        open_corpus(f"genomic-benchmarks:{name}")
    lay_out(tmp_path / HOME / name, num_train=484, num_test=121, classes=("negative", "positive"))
    assert len(open_corpus(f"genomic-benchmarks:{name}").documents("test")) == 242
    (tmp_path / HOME / name / "test" / "positive" / "7.txt").unlink()
    with pytest.raises(CorpusError, match=r"positive 484/120 sequences .*has .*positive 484/121"):
        open_corpus(f"genomic-benchmarks:{name}")


def test_other_layouts_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder, and none of the catalogue: demo_coding"):
        open_corpus("genomic-benchmarks:human_enhancers")
    with pytest.raises(CorpusError, match=r"not laid out as train/CLASS/FILE.txt"):
        open_corpus(f"genomic-benchmarks:{tmp_path}")
    one = lay_out(tmp_path / "one")
    (one / "test" / "b").rename(one / "test" / "c")
    with pytest.raises(CorpusError, match="classes a, b in train and a, c in test"):
        open_corpus(f"genomic-benchmarks:{one}")
    two = lay_out(tmp_path / "two")
    (two / "train" / "a" / "0.txt").write_text(">header 1\nACGT")
    with pytest.raises(CorpusError, match="not one sequence of letters"):
        open_corpus(f"genomic-benchmarks:{two}")
    (two / "train" / "a.csv.gz").touch()
    with pytest.raises(CorpusError, match="holds intervals"):
        open_corpus(f"genomic-benchmarks:{two}")
