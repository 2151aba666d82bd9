"""Sequences cut into tokens, by hand; what they ask and how they are judged is in test_recall."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from stub_engine import PairTokenizer

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.training_rows.keyed_rows import Span
from ttbench.errors import UnsupportedError
from ttbench.tasks.recall.sequences import _byte_ids, _from_spans


@dataclasses.dataclass
class Pieces:
    """A tokenizer of a few pieces."""

    pieces: tuple[bytes, ...]

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def byte_lengths(self, ids: np.ndarray) -> np.ndarray:
        return np.array([len(self.pieces[index]) for index in ids])

    def decode(self, ids: np.ndarray) -> bytes:
        return b"".join(self.pieces[index] for index in ids)


def test_a_symbol_is_the_first_token_that_stands_for_its_byte() -> None:
    tokenizer: Any = Pieces((b"ab", b"a", b"b", b"a"))
    table = _byte_ids(tokenizer)
    assert {byte: index for byte, index in enumerate(table.tolist()) if index >= 0} == {ord("a"): 1, ord("b"): 2}


def test_spans_that_weigh_are_questions_and_targets_stand_one_token_before() -> None:
    spans = [Span(text=b"ab", weight=0.0), Span(text=b"c", weight=1.0), Span(text=b"d", weight=0.0)]
    spans.append(Span(text=b"efg", weight=1.0))
    made = _from_spans(spans, PairTokenizer(), context_len=5, num_stated=None)
    ab, c, d, ef, g = PairTokenizer().encode(b"ab")[0], *b"cd", PairTokenizer().encode(b"ef")[0], *b"g"
    assert made.ids.tolist() == [ab, c, d, ef]
    assert made.targets.tolist() == [c, -1, ef, g]
    assert made.questions.tolist() == [0, -1, 1, 1]
    # with BOS a token more is read, and the text's first token is a target too
    bos = ByteTokenizer().bos_id
    assert bos is not None
    made = _from_spans(spans[:2], ByteTokenizer(), context_len=4, num_stated=None)
    assert (made.ids.tolist(), made.targets.tolist()) == ([bos, *b"ab"], [-1, -1, ord("c")])


@pytest.mark.parametrize("texts", [(), (b"abcdef",)])
def test_what_asks_nothing_has_no_room(texts: tuple[bytes, ...]) -> None:
    spans = [Span(text=text, weight=0.0) for text in texts]
    with pytest.raises(UnsupportedError, match="with 0 questions"):
        _from_spans(spans, PairTokenizer(), context_len=8, num_stated=None)
