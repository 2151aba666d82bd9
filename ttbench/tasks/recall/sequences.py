"""Sequences of the recall task in the tokens of a checkpoint: what is read, what is asked for, and where.

    form text      the sentences that the zoo was trained on, cut into tokens piece by piece; several to an answer.
                   The context is filled in tokens: with sentences that nobody asks for (mqar), with strings (copy)
    form symbols   puzzles of `ttbench.corpora.training_rows.puzzles`: each symbol is the token that is that one byte

A sequence follows from the seed, the kind, the form, the context, the number of pairs, its own number and, in form
text, from how long the tokenizer's tokens are: what is asked for is the same for every checkpoint. Letters: T tokens,
Q questions, V vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int

from ttbench.corpora.training_rows.keyed_rows import RecallQuery, Span, copy_row, recall_query
from ttbench.corpora.training_rows.puzzles import NOT_ASKED, PUZZLES, Puzzle, mqar
from ttbench.errors import UnsupportedError, UsageError
from ttbench.tasks.draw import generator
from ttbench.types import canonical_json

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

Kind = Literal["mqar", "copy", "parity", "s5"]
Form = Literal["text", "symbols"]
# Kind -> the same among training rows.
ROW_KINDS = {
    "text": {"mqar": "recall", "copy": "copy"},
    "symbols": {"mqar": "mqar", "copy": "copying", "parity": "parity", "s5": "s5"},
}
# What is tracked is asked for everywhere; to count it once in a sweep of doubling contexts, from the middle on.
TRACKED = ("parity", "s5")
TEXT_PAIR_LEN = 128  # bytes within which a pair of any wording is stated and asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceRecipe:
    """All that rebuilds a sequence, beside the tokenizer."""

    kind: Kind
    form: Form
    context_len: int  # tokens
    pairs: int | None  # mqar
    seed: int
    trial: int
    tokenizer: str  # digest

    def to_text(self) -> str:
        """JSON, as rows carry it."""
        return canonical_json(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Tokens with questions."""

    ids: Int[np.ndarray, "T"]  # read, BOS included
    targets: Int[np.ndarray, "T"]  # asked for after each; NOT_ASKED where nothing is
    questions: Int[np.ndarray, "T"]  # number of the question, 0 to Q - 1, that a target belongs to; NOT_ASKED likewise
    num_stated: int | None  # mqar: pairs that are stated, asked for or not

    @property
    def num_questions(self) -> int:
        return int(self.questions.max()) + 1


def make(recipe: SequenceRecipe, tokenizer: Tokenizer) -> Sequence:
    """The sequence of a recipe.

    Raises:
        UnsupportedError: the tokenizer has no tokens for the symbols, or the text does not fit the context.
    """
    rng = generator(recipe.seed, "recall", recipe.form, recipe.kind, recipe.context_len, recipe.pairs, recipe.trial)
    if recipe.form == "text":
        spans = _draw_spans(recipe, rng, tokenizer)
        # a sentence is three spans, and each pair has one more that asks for it
        num_stated = None if recipe.pairs is None else len(spans) // 3 - recipe.pairs
        return _from_spans(spans, tokenizer, context_len=recipe.context_len, num_stated=num_stated)
    if recipe.kind == "mqar":
        puzzle = mqar(rng, recipe.context_len, recipe.pairs or 0)
    else:
        puzzle = PUZZLES[ROW_KINDS["symbols"][recipe.kind]](rng, recipe.context_len)
    first = recipe.context_len // 2 if recipe.kind in TRACKED else 0
    return _from_puzzle(puzzle, tokenizer, first=first, num_stated=recipe.pairs)


def rebuild(text: str, tokenizer: Tokenizer) -> Sequence:
    """The sequence of a row's recipe. Raises UsageError when it was made with another tokenizer."""
    recipe = SequenceRecipe(**json.loads(text))
    if recipe.tokenizer != tokenizer.digest:
        raise UsageError(
            f"the recipe was made with the tokenizer of digest {recipe.tokenizer}; this one has {tokenizer.digest}"
        )
    return make(recipe, tokenizer)


def _draw_spans(recipe: SequenceRecipe, rng: np.random.Generator, tokenizer: Tokenizer) -> list[Span]:
    """Spans that fill the context in tokens of this tokenizer: no further sentence or string would fit."""
    room = recipe.context_len - (tokenizer.bos_id is not None)
    if recipe.kind == "mqar":
        return _fill_query(recall_query(rng, recipe.pairs or 0), rng, tokenizer, room=room)
    # A token may be several bytes; more of a row begins as less of it does.
    state, num_bytes = rng.bit_generator.state, recipe.context_len
    while True:
        rng.bit_generator.state = state
        row = copy_row(rng, num_bytes)
        ends = np.cumsum([len(tokenizer.encode(span.text)) for span in row])
        if ends[-1] > room:
            break
        num_bytes *= 2
    spans = row[: int(np.searchsorted(ends, room, side="right"))]
    # what comes after the last question asks for nothing
    last = max((i for i, span in enumerate(spans) if span.weight), default=-1)
    return spans[: last + 1]


def _fill_query(query: RecallQuery, rng: np.random.Generator, tokenizer: Tokenizer, *, room: int) -> list[Span]:
    """The pairs asked for, strewn among as many other sentences as fit, and then the questions."""
    left = room - sum(_num_tokens(sentence, tokenizer) for sentence in (*query.stated, *query.asked))
    others: list[list[Span]] = []
    for sentence in query.others:
        left -= _num_tokens(sentence, tokenizer)
        if left < 0:
            break
        others.append(sentence)
    stated = [*query.stated, *others]
    sentences = [*(stated[i] for i in rng.permutation(len(stated))), *query.asked]
    return [span for sentence in sentences for span in sentence]


def _num_tokens(sentence: list[Span], tokenizer: Tokenizer) -> int:
    return sum(len(tokenizer.encode(span.text)) for span in sentence)


def _from_spans(spans: list[Span], tokenizer: Tokenizer, *, context_len: int, num_stated: int | None) -> Sequence:
    """Each span cut into tokens by itself; one that weighs is a question."""
    pieces = [tokenizer.encode(span.text) for span in spans]
    if tokenizer.bos_id is not None:
        pieces, spans = [np.array([tokenizer.bos_id]), *pieces], [Span(text=b"", weight=0.0), *spans]
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
    asked = np.array([span.weight > 0 for span in spans], dtype=bool)
    if not asked.any() or len(tokens) > context_len:
        raise UnsupportedError(
            f"a context of {context_len} tokens has no room for these sentences and questions: they take {len(tokens)} "
            f"tokens of '{tokenizer.name}' with {asked.sum()} questions; ask for a longer context"
        )
    numbers = np.where(asked, np.cumsum(asked) - 1, NOT_ASKED).repeat([len(piece) for piece in pieces])
    # what is asked for after a token is the token that follows it
    return Sequence(
        ids=tokens[:-1],
        targets=np.where(numbers >= 0, tokens, NOT_ASKED)[1:],
        questions=numbers[1:],
        num_stated=num_stated,
    )


def _from_puzzle(puzzle: Puzzle, tokenizer: Tokenizer, *, first: int, num_stated: int | None) -> Sequence:
    """Symbols as tokens of one byte; questions before position `first` are not counted."""
    table = _byte_ids(tokenizer)
    targets = np.where(np.arange(len(puzzle.targets)) < first, NOT_ASKED, puzzle.targets)
    asked = targets != NOT_ASKED
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids, wanted = table[puzzle.symbols], np.where(asked, table[np.where(asked, targets, 0)], NOT_ASKED)
    if (ids < 0).any() or (wanted[asked] < 0).any():
        raise UnsupportedError(
            f"tokenizer '{tokenizer.name}' has no token for some single bytes, and form symbols reads one token for "
            "each; use form text"
        )
    questions = np.where(asked, np.cumsum(asked) - 1, NOT_ASKED)
    # without BOS nothing stands before the first symbol, and nothing is asked for there
    skip = 1 - len(start)
    ids = np.concatenate([np.array(start, dtype=np.int64), ids])
    return Sequence(ids=ids, targets=wanted[skip:], questions=questions[skip:], num_stated=num_stated)


def _byte_ids(tokenizer: Tokenizer) -> Int[np.ndarray, "256"]:
    """The first token that stands for each single byte; -1 where there is none."""
    ids = np.arange(tokenizer.vocab_size)
    table = np.full(256, -1, dtype=np.int64)
    for index in ids[tokenizer.byte_lengths(ids) == 1][::-1]:
        table[tokenizer.decode(np.array([index]))[0]] = index
    return table
