"""Code with its words drawn anew: what changes, what stays, and that each document has words of its own."""

from __future__ import annotations

import importlib.metadata
import re

from ttbench.corpora.corpus import SPLITS, open_corpus
from ttbench.corpora.renamed import rename

CODE = b"def MatrixBase(matrix, x1, HTTPServer=None):\n    return matrix_base + BASE[x] * 2.5e-3  # the matrix\n"


def words(text: bytes) -> list[bytes]:
    return re.findall(rb"[A-Za-z]+", text)


def test_words_change_and_signs_numbers_layout_and_single_letters_stay() -> None:
    changed = rename(CODE, seed="a")
    assert re.sub(rb"[A-Za-z]{2,}", b"", changed) == re.sub(rb"[A-Za-z]{2,}", b"", CODE)
    assert [len(word) for word in words(changed)] == [len(word) for word in words(CODE)]
    assert not {w.lower() for w in words(changed) if len(w) > 3} & {w.lower() for w in words(CODE)}
    assert rename(CODE, seed="a") == changed != rename(CODE, seed="b")


def test_a_word_is_the_same_one_throughout_whatever_its_case_and_what_it_is_part_of() -> None:
    found = words(rename(CODE, seed="a"))
    names = dict(zip(words(CODE), found, strict=True))
    matrix, base = names[b"matrix"], names[b"base"]
    assert found.count(matrix) == 3  # an argument, half of matrix_base, and the comment
    assert names[b"MatrixBase"] == matrix.capitalize() + base.capitalize()
    assert names[b"BASE"] == base.upper()
    server = names[b"HTTPServer"]
    assert server[:4].isupper()
    assert server[4:5].isupper()
    assert server[5:].islower()


def test_no_two_words_become_one_even_where_most_words_of_a_length_are_taken() -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    pairs = [a + b for a in alphabet for b in alphabet]
    changed = rename(" ".join(pairs).encode(), seed="full").split()
    assert len(set(changed)) == len(pairs) == 676
    # beyond the first hundred draws a word may be one letter longer
    assert sum(len(word) == 2 for word in changed) > 600


def test_the_letters_of_new_words_are_drawn_alike() -> None:
    text = " ".join(
        f"word{'abcdefghij'[n % 10]}{'abcdefghij'[n // 10 % 10]}{'abcdefghij'[n // 100]}" for n in range(1000)
    )
    letters = rename(text.encode(), seed="1").replace(b" ", b"")
    counts = [letters.count(bytes([letter])) for letter in range(97, 123)]
    assert sum(counts) == 7000
    # 269 on average, with a standard deviation of 16
    assert min(counts) > 200
    assert max(counts) < 340


def test_every_document_is_one_of_code_with_words_of_its_own() -> None:
    renamed, code = open_corpus("renamed"), open_corpus("code")
    assert "synthetic" in renamed.caveat
    for split in SPLITS:
        ours, theirs = renamed.documents(split), code.documents(split)
        assert [document.name for document in ours] == [document.name for document in theirs]
        for one, other in list(zip(ours, theirs, strict=True))[:40]:
            assert one.text.count(b"\n") == other.text.count(b"\n")
            assert b"return" not in one.text
    first = [words(document.text)[0] for document in code.documents("test")]
    assert len(set(first)) < 120
    assert len({words(document.text)[0] for document in renamed.documents("test")}) > 200


def test_the_corpus_has_a_recorded_digest_for_each_release_of_the_wheel() -> None:
    recorded = {"1.14.0": "83708e54b7fce1d4ba5df6fa7953bd23"}
    assert open_corpus("renamed").digest == recorded[importlib.metadata.version("sympy")]
