"""Corpora of the user's own: nothing is left out without a word, and no split is guessed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ttbench.corpora.corpus import SPLITS, Document, open_corpus
from ttbench.errors import CorpusError, TtbenchError
from ttbench.runs.options import Options
from ttbench.runs.request import plan_task


def test_a_file_is_one_test_document(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("Grüße\r\n".encode())
    corpus = open_corpus(f"text:{path}")
    assert corpus.documents("test") == (Document(name="mine.txt", text="Grüße\r\n".encode()),)
    with pytest.raises(CorpusError, match="no documents in its train split, only in test"):
        corpus.documents("train")


def test_a_folder_is_one_document_per_file_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.txt", "sub/a.txt", ".hidden", ".git/config", "sub/empty.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if "empty" in name else name)
    corpus = open_corpus(f"text:{tmp_path}")
    assert [document.name for document in corpus.documents("test")] == ["b.txt", "sub/a.txt"]


def test_a_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    for split in SPLITS:
        (tmp_path / split).mkdir()
        (tmp_path / split / "one.txt").write_text(f"text for {split}")
    corpus = open_corpus(f"text:{tmp_path}")
    assert {split: corpus.documents(split)[0].text for split in SPLITS} == {
        split: f"text for {split}".encode() for split in SPLITS
    }


def test_what_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file or folder; give a UTF-8 text file"):
        open_corpus(f"text:{tmp_path / 'nowhere'}")
    (tmp_path / "latin.txt").write_bytes("Gr\xfc\xdfe".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"latin\.txt is not UTF-8 \(byte 2\)"):
        open_corpus(f"text:{tmp_path}")
    (tmp_path / "latin.txt").write_bytes("plain".encode("utf-16-le"))
    with pytest.raises(CorpusError, match=r"latin\.txt is no UTF-8 text: it has a NUL at byte 1, as UTF-16 does"):
        open_corpus(f"text:{tmp_path}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="has no text"):
        open_corpus(f"text:{tmp_path / 'empty'}")


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")
    return root


def test_a_folder_named_test_among_others_is_no_split_and_no_file_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, *(f"docs/{i}.txt" for i in range(12)), "README.txt", "src/a.txt", "test/t.txt")
    corpus = open_corpus(f"text:{tmp_path}")
    assert len(corpus.documents("test")) == 15
    assert corpus.notes == ("its folder 'test' is not taken for a split, because it holds README.txt, docs, src too",)


@pytest.mark.parametrize("named", [("train",), ("train", "test"), ("valid", "test")])
def test_a_train_folder_beside_other_files_is_a_question_not_a_guess(named: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path, *(f"{split}/a.txt" for split in named), "README.txt")
    with pytest.raises(CorpusError, match=rf"holds {', '.join(named)} beside README.txt: are they splits\? Give text:"):
        open_corpus(f"text:{tmp_path}")


def test_what_a_folder_leaves_out_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", ".hidden", ".git/config", "elsewhere/b.txt")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    corpus = open_corpus(f"text:{tmp_path}")
    assert [d.name for d in corpus.documents("test")] == ["a.txt", "elsewhere/b.txt", "marked.txt"]
    assert corpus.notes == (
        "left out: 2 hidden files, 1 linked folder, 1 empty file",
        "a byte-order mark was taken off 1 file: it is no text",
    )


def test_a_byte_order_mark_is_not_scored(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe")
    corpus = open_corpus(f"text:{tmp_path / 'a.txt'}")
    assert corpus.documents("test")[0].text == b"Gr\xc3\xbc\xc3\x9fe"
    assert corpus.notes == ("a byte-order mark was taken off 1 file: it is no text",)


def test_a_plan_refuses_a_corpus_that_no_cell_could_read_and_tells_what_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "only/train/a.txt", "some/a.txt", "some/.b")
    options = Options(checkpoints=("ttt-linear",), ctx=256, corpus=f"text:{tmp_path}/only")
    with pytest.raises(CorpusError, match=r"no documents in its test split, only in train; .* text:FOLDER/train"):
        plan_task("perplexity", options, out=tmp_path)
    options = Options(checkpoints=("ttt-linear",), ctx=256, corpus=f"text:{tmp_path}/some")
    assert plan_task("perplexity", options, out=tmp_path).notes == (
        f"corpus text:{tmp_path}/some: left out: 1 hidden file",
    )
    with pytest.raises(TtbenchError, match="bits per base are of A, C, G and T"):
        plan_task("genomics", Options(checkpoints=("ttt-linear",), corpus="kjv"), out=tmp_path)
    with pytest.raises(CorpusError, match="has no class; the task probe reads"):
        plan_task("probe", Options(checkpoints=("ttt-linear",), corpus="kjv"), out=tmp_path)


# Datasets


def write_dataset(folder: Path, *, column: str = "text") -> None:
    for split, num_rows in (("train", 3), ("validation", 1), ("test", 2)):
        lines = [json.dumps({column: f"{split} {i}", "other": i}) for i in range(num_rows)]
        (folder / f"{split}.jsonl").write_text("\n".join([*lines, json.dumps({column: "", "other": 9})]))


@pytest.fixture
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Late: seconds to import, for three tests.
    from datasets import config, disable_progress_bars

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    disable_progress_bars()


@pytest.mark.usefixtures("offline")
def test_a_local_folder_is_read_through_datasets(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    corpus = open_corpus(f"hf:{tmp_path}")
    assert [document.text for document in corpus.documents("test")] == [b"test 0", b"test 1"]
    assert [len(corpus.documents(split)) for split in SPLITS] == [3, 1, 2]
    assert corpus.documents("valid")[0].name == "validation/00000000"


@pytest.mark.usefixtures("offline")
def test_another_column_of_a_dataset_is_named_behind_a_hash(tmp_path: Path) -> None:
    write_dataset(tmp_path, column="body")
    with pytest.raises(CorpusError, match=r"no column 'text' in \w+; choose one of body by hf:.*#COLUMN"):
        open_corpus(f"hf:{tmp_path}")
    assert open_corpus(f"hf:{tmp_path}#body").documents("test")[1].text == b"test 1"


@pytest.mark.usefixtures("offline")
def test_a_dataset_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="cannot be loaded"):
        open_corpus(f"hf:{tmp_path / 'nowhere'}")


def write_rows(path: Path, *rows: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


CARD = """---
configs:
- config_name: a
  data_files:
  - {split: train_sft, path: a/x.jsonl}
  - {split: test_sft, path: a/y.jsonl}
- config_name: b
  data_files:
  - {split: test, path: b/z.jsonl}
---
"""


@pytest.fixture
def two_configs(tmp_path: Path) -> Path:
    write_rows(tmp_path / "a/x.jsonl", {"text": "train 0"})
    write_rows(tmp_path / "a/y.jsonl", {"text": "held out 0"})
    write_rows(tmp_path / "b/z.jsonl", {"text": "\ufeffother"}, {"text": None})
    write_rows(tmp_path / "b/forgotten.jsonl", {"text": "?"})
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


@pytest.mark.usefixtures("offline")
def test_a_configuration_is_chosen_by_the_user(two_configs: Path) -> None:
    with pytest.raises(CorpusError, match=re.escape(f"has configurations a, b; name one, such as hf:{two_configs}:a")):
        open_corpus(f"hf:{two_configs}")
    corpus = open_corpus(f"hf:{two_configs}:b")
    assert [document.text for document in corpus.documents("test")] == [b"other"]
    assert corpus.notes == (
        "left out by datasets: a/x.jsonl, a/y.jsonl, b/forgotten.jsonl",
        "left out: 1 row without text",
        "a byte-order mark was taken off 1 row: it is no text",
    )


@pytest.mark.usefixtures("offline")
def test_a_split_whose_name_is_not_plain_is_chosen_by_the_user(two_configs: Path) -> None:
    with pytest.raises(CorpusError, match=r"no split named test; it has train_sft, test_sft: .* hf:\S+:a@test_sft"):
        open_corpus(f"hf:{two_configs}:a")
    corpus = open_corpus(f"hf:{two_configs}:a@test_sft")
    assert [document.text for document in corpus.documents("test")] == [b"held out 0"]
    assert "left out: split train_sft" in corpus.notes
    with pytest.raises(CorpusError, match="no split 'test'; it has train_sft, test_sft"):
        open_corpus(f"hf:{two_configs}:a@test")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("value", "held"), [([{"role": "user"}], "[Ll]ist"), (7, "int64"), (0.5, "float64")])
def test_a_column_that_is_not_text_is_refused(value: object, held: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", {"text": value, "body": "b"})
    with pytest.raises(CorpusError, match=rf"holds {held} in column 'text', not text; choose one of body by hf:"):
        open_corpus(f"hf:{tmp_path}")
