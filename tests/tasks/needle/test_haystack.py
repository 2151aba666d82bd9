"""Haystacks of a few words, with every place worked out by hand; a token is a byte."""

from __future__ import annotations

import numpy as np
from stub_engine import corpus_of

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.tasks.needle.haystack import Haystack, cut_essay, gather, put_in, stack_lines

BYTES = ByteTokenizer()


def ids(text: str) -> np.ndarray:
    return BYTES.encode(text.encode())


def test_sentences_begin_at_a_word_and_end_before_white_space() -> None:
    hay = gather(corpus_of({"one": b"A b. C d.", "two": b"E f.\n"}), BYTES)
    assert BYTES.decode(hay.ids) == b"A b. C d.\n\nE f.\n"
    assert hay.names == ("one", "two")
    assert hay.document_starts.tolist() == [0, 11]
    # nothing begins after the last sentence
    assert hay.starts.tolist() == [0, 5, 11]
    assert hay.ends.tolist() == [4, 9, 15]
    assert hay.joint == " "
    essay = cut_essay(hay, offset=5, haystack_len=8)
    assert BYTES.decode(essay.ids) == b"C d.\n\nE "
    assert essay.places.tolist() == [0, 4, 8]


def test_where_sentences_are_rare_lines_stand_for_them() -> None:
    hay = gather(corpus_of({"one": b"aaa\nbb\n"}), BYTES)
    assert (hay.starts.tolist(), hay.ends.tolist(), hay.joint) == ([0, 4], [3, 6], "\n")


def test_whole_lines_are_stacked_as_far_as_they_fit() -> None:
    haystack = stack_lines(["ab", "ab", "c"], BYTES, haystack_len=6)
    assert BYTES.decode(haystack.ids) == b"ab\nab"
    assert (haystack.places.tolist(), haystack.joint) == ([0, 2, 5], "\n")
    assert stack_lines(["ab", "ab", "c"], BYTES, haystack_len=7).places.tolist() == [0, 2, 5, 7]
    nothing = stack_lines(["too long"], BYTES, haystack_len=6)
    assert (len(nothing.ids), nothing.places.tolist()) == (0, [0])


def test_a_needle_goes_to_the_nearest_place_and_moves_those_behind_it() -> None:
    haystack = Haystack(ids=ids("ab cd ef"), places=np.array([0, 2, 5, 8]), joint=" ")
    assert [haystack.nearest(depth) for depth in (0.0, 0.3, 0.5, 1.0)] == [0, 2, 5, 8]
    assert BYTES.decode(haystack.piece("X.", 0, BYTES)) == b"X. "
    assert BYTES.decode(haystack.piece("X.", 5, BYTES)) == b" X."
    filled = haystack.with_pieces([(0, ids("X. ")), (5, ids(" Y"))])
    assert BYTES.decode(filled.ids) == b"X. ab cd Y ef"
    assert filled.places.tolist() == [0, 5, 8, 10, 13]
    assert haystack.with_pieces([]) is haystack


def test_pieces_are_put_in_after_so_many_tokens_of_the_whole() -> None:
    assert put_in(np.arange(6), [(2, np.array([90])), (5, np.array([91, 92]))]).tolist() == [
        0,
        1,
        90,
        2,
        3,
        4,
        91,
        92,
        5,
    ]
    assert put_in(np.arange(6), [(2, np.array([90]))], first=1).tolist() == [1, 90, 2, 3, 4, 5]
