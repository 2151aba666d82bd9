"""Haystacks, needles and questions: prompts that a recipe of a few fields rebuilds token for token.

    BOS  [introduction]  haystack ... NEEDLE ... haystack  question        -> value
         ruler only      |<---- depth 0 to 1 of its tokens ---->|          tokens kept free for it

The wording is RULER's (Hsieh et al. 2024, arXiv:2404.06654, task niah with one key, value and query): the needle "One
of the special magic numbers for {key} is: {value}.", the introduction and the question. `cloze` leaves the
introduction out and asks by beginning the needle's sentence again, for checkpoints that have never seen a question.

A haystack is a stretch of the test documents put end to end, in tokens, beginning with a sentence. A needle goes in at
the end of a sentence, the nearest to its depth (depth 0 and 1: before the first and after the last token). In
text without sentences, such as code, lines take their place. Letters: T tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ttbench.errors import TooShortError, UnsupportedError, UsageError
from ttbench.harness.data import Corpus
from ttbench.harness.needle_words import ADJECTIVES, NOUNS
from ttbench.tasks.draw import generator
from ttbench.types import canonical_json

if TYPE_CHECKING:
    from ttbench.harness.tokenizer import Tokenizer

NUM_DIGITS = 7
# Fewer tokens than this hide nothing.
MIN_HAYSTACK_LEN = 64
# Above this many bytes between sentence ends, a text is taken line by line.
LONGEST_SENTENCE = 300

INTRODUCTION = (
    "A special magic number is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the number afterwards.\n"
)
NEEDLE = "One of the special magic numbers for {key} is: {value}."
QUESTIONS = {
    "ruler": (
        "\nWhat is the special magic number for {key} mentioned in the provided text? "
        "The special magic number for {key} mentioned in the provided text is"
    ),
    "cloze": "\nOne of the special magic numbers for {key} is:",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hay:
    """All test documents of a corpus end to end, as tokens, and where sentences begin and end among them."""

    corpus_digest: str
    names: tuple[str, ...]
    ids: Int[np.ndarray, "T"]
    document_starts: Int[np.ndarray, "N"]  # first token of each document
    starts: Int[np.ndarray, "N"]  # tokens with which a sentence begins
    ends: Int[np.ndarray, "N"]  # tokens before which a sentence has ended
    joint: str  # what stands between a needle and its neighbour: a space, or a new line in text taken by lines

    def document_of(self, token: int) -> str:
        """Name of the document that holds a token."""
        return self.names[int(np.searchsorted(self.document_starts, token, side="right")) - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Riddle:
    """What is hidden and asked for: one per haystack, the same at every depth, context length and checkpoint."""

    key: str
    value: str
    share: float  # 0 to 1; where in the corpus the haystack begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that is needed, beside the corpus and the tokenizer, to rebuild a prompt."""

    corpus: str  # digest
    tokenizer: str  # digest
    document: str  # that the haystack begins in
    offset: int  # tokens; of the haystack's first token in the corpus's test documents
    haystack_len: int  # tokens
    key: str
    value: str
    question: str  # ruler | cloze
    depth: float  # asked for
    insert_at: int  # tokens of the haystack before the needle
    seed: int
    trial: int

    def to_text(self) -> str:
        """JSON, as rows carry it."""
        return canonical_json(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Recipe:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """The parts of a prompt, in tokens."""

    head: Int[np.ndarray, "T"]  # BOS and the introduction
    haystack: Int[np.ndarray, "T"]
    needle: Int[np.ndarray, "T"]
    insert_at: int  # tokens of the haystack before the needle
    question: Int[np.ndarray, "T"]

    @property
    def needle_index(self) -> int:
        """Index of the needle's first token in the prompt."""
        return len(self.head) + self.insert_at

    @property
    def ids(self) -> Int[np.ndarray, "T"]:
        before, after = self.haystack[: self.insert_at], self.haystack[self.insert_at :]
        return np.concatenate([self.head, before, self.needle, after, self.question])

    @property
    def control_ids(self) -> Int[np.ndarray, "T"]:
        """The same prompt without the needle."""
        return np.concatenate([self.head, self.haystack, self.question])


def gather(corpus: Corpus, tokenizer: Tokenizer) -> Hay:
    """Tokenise the test documents once, and find the sentences."""
    documents = corpus.documents("test")
    text = b"\n\n".join(document.text for document in documents)
    ids = tokenizer.encode(text)
    bounds = np.concatenate([[0], np.cumsum(tokenizer.byte_lengths(ids))])
    ends, by_lines = _sentence_ends(text)
    begins = _next_word(text)[ends]
    # A token may carry the space before its word, so a sentence may begin with that.
    starts = np.concatenate([[0], _tokens_at(begins, bounds)])
    if len(starts) == 1:
        starts = np.concatenate([[0], _tokens_at(ends, bounds)])
    document_bytes = np.cumsum([0, *(len(document.text) + 2 for document in documents)])[:-1]
    return Hay(
        corpus_digest=corpus.digest,
        names=tuple(document.name for document in documents),
        ids=ids,
        document_starts=np.searchsorted(bounds, document_bytes),
        starts=starts[starts < len(ids)],
        ends=_tokens_at(ends, bounds),
        joint="\n" if by_lines else " ",
    )


def draw_riddle(*, seed: int, trial: int) -> Riddle:
    """A key of an adjective and a noun, a value of seven digits, and a place."""
    rng = generator(seed, "needle", trial)
    key = f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]}-{NOUNS[rng.integers(len(NOUNS))]}"
    return Riddle(key=key, value=draw_value(rng), share=float(rng.random()))


def draw_value(rng: np.random.Generator) -> str:
    """Seven digits, the first of them not 0."""
    return str(rng.integers(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS))


def draw_candidates(
    value: str, tokenizer: Tokenizer, *, count: int, seed: int, trial: int
) -> tuple[list[str], Int[np.ndarray, "N T"]]:
    """`count` values, the true one first, all of as many bytes and tokens; and their ids as answers.

    Raises:
        UnsupportedError: the tokenizer has too few values of the true one's length in tokens.
    """
    rng = generator(seed, "needle", "candidates", trial)
    values, rows = [value], [answer_ids(value, tokenizer)]
    for _ in range(1000 * count):
        if len(values) == count:
            return values, np.stack(rows)
        other = draw_value(rng)
        ids = answer_ids(other, tokenizer)
        if other not in values and len(ids) == len(rows[0]):
            values.append(other)
            rows.append(ids)
    if len(values) == count:
        return values, np.stack(rows)
    raise UnsupportedError(
        f"only {len(values)} of {count} candidates are {len(rows[0])} tokens long like '{value}' in tokenizer "
        f"'{tokenizer.name}'; use the scorer generate, or fewer candidates"
    )


def answer_ids(value: str, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """A value as it continues the question."""
    return tokenizer.encode(f" {value}".encode())


def write_recipes(
    hay: Hay,
    tokenizer: Tokenizer,
    riddle: Riddle,
    *,
    depths: tuple[float, ...],
    context_len: int,
    answer_len: int,
    question: str,
    seed: int,
    trial: int,
) -> list[Recipe]:
    """One haystack that fills `context_len` together with needle, question and answer; one recipe per depth.

    Raises:
        UnsupportedError: the context has no room for a haystack beside them.
        TooShortError: the corpus has fewer tokens than the haystack.
    """
    needle = NEEDLE.format(key=riddle.key, value=riddle.value)
    needle_len = max(len(tokenizer.encode(piece.encode())) for piece in (hay.joint + needle, needle + hay.joint))
    fixed = len(_head(tokenizer, question)) + needle_len + len(_ask(tokenizer, question, riddle.key)) + answer_len
    haystack_len = context_len - fixed
    if haystack_len < MIN_HAYSTACK_LEN:
        raise UnsupportedError(
            f"a context of {context_len} tokens has no room for a haystack: needle, question and answer take {fixed}; "
            f"ask for at least {fixed + MIN_HAYSTACK_LEN}"
        )
    if haystack_len > len(hay.ids):
        raise TooShortError(
            f"the test documents have {len(hay.ids):,} tokens in all, too few for a haystack of {haystack_len:,}; "
            f"ask for at most {len(hay.ids) + fixed:,} tokens of context, or give a longer corpus"
        )
    allowed = int(np.searchsorted(hay.starts, len(hay.ids) - haystack_len, side="right"))
    offset = int(hay.starts[int(riddle.share * allowed)])
    return [
        Recipe(
            corpus=hay.corpus_digest,
            tokenizer=tokenizer.digest,
            document=hay.document_of(offset),
            offset=offset,
            haystack_len=haystack_len,
            key=riddle.key,
            value=riddle.value,
            question=question,
            depth=depth,
            insert_at=_insertion(hay, offset, haystack_len, depth),
            seed=seed,
            trial=trial,
        )
        for depth in depths
    ]


def lay_prompt(recipe: Recipe, hay: Hay, tokenizer: Tokenizer) -> Prompt:
    """The prompt of a recipe."""
    needle = NEEDLE.format(key=recipe.key, value=recipe.value)
    # At depth 0 nothing stands before the needle but the introduction's new line.
    piece = needle + hay.joint if recipe.insert_at == 0 else hay.joint + needle
    return Prompt(
        head=_head(tokenizer, recipe.question),
        haystack=hay.ids[recipe.offset : recipe.offset + recipe.haystack_len],
        needle=tokenizer.encode(piece.encode()),
        insert_at=recipe.insert_at,
        question=_ask(tokenizer, recipe.question, recipe.key),
    )


def rebuild(recipe: Recipe | Mapping[str, Any] | str, corpus: Corpus, tokenizer: Tokenizer) -> Int[np.ndarray, "T"]:
    """The ids of a scored prompt, from the recipe in its row (JSON text, its content, or a Recipe).

    Raises:
        UsageError: the corpus or the tokenizer is not the one that the prompt was made from.
    """
    if isinstance(recipe, str):
        recipe = Recipe.from_text(recipe)
    if not isinstance(recipe, Recipe):
        recipe = Recipe(**recipe)
    for noun, wanted, given in (
        ("corpus", recipe.corpus, corpus.digest),
        ("tokenizer", recipe.tokenizer, tokenizer.digest),
    ):
        if wanted != given:
            raise UsageError(f"the recipe was made with the {noun} of digest {wanted}; this one has {given}")
    return lay_prompt(recipe, gather(corpus, tokenizer), tokenizer).ids


def _head(tokenizer: Tokenizer, question: str) -> Int[np.ndarray, "T"]:
    bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=np.int64)
    return np.concatenate([bos, tokenizer.encode(INTRODUCTION.encode() if question == "ruler" else b"")])


def _ask(tokenizer: Tokenizer, question: str, key: str) -> Int[np.ndarray, "T"]:
    return tokenizer.encode(QUESTIONS[question].format(key=key).encode())


def _insertion(hay: Hay, offset: int, haystack_len: int, depth: float) -> int:
    """Tokens of the haystack before the needle: 0, all, or those up to the sentence end nearest to the depth."""
    target = round(depth * haystack_len)
    if depth in (0.0, 1.0):
        return target
    first, last = np.searchsorted(hay.ends, [offset, offset + haystack_len])
    ends = np.concatenate([[0], hay.ends[first:last] - offset, [haystack_len]])
    return int(ends[np.argmin(np.abs(ends - target))])


def _sentence_ends(text: bytes) -> tuple[Int[np.ndarray, "N"], bool]:
    """Byte positions after sentences, or after lines where sentences are rare; and which of the two."""
    sentences = np.array([match.end() for match in re.finditer(rb"[.!?][\"')\]]*(?=\s)", text)], dtype=np.int64)
    if len(sentences) * LONGEST_SENTENCE >= len(text):
        return sentences, False
    return np.array([match.end() for match in re.finditer(rb"[^\n](?=\n)", text)], dtype=np.int64), True


def _next_word(text: bytes) -> Int[np.ndarray, "N"]:
    """For each byte position, the end included, the first position from there on that is not white space."""
    here = np.arange(len(text) + 1)
    space = np.isin(np.frombuffer(text, dtype=np.uint8), np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8))
    here[:-1][space] = len(text)
    return np.minimum.accumulate(here[::-1])[::-1]


def _tokens_at(positions: Int[np.ndarray, "N"], bounds: Int[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """Tokens that begin exactly at these bytes."""
    tokens = np.searchsorted(bounds, positions)
    return tokens[bounds[tokens] == positions]
