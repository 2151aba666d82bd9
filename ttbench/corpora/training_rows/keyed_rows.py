"""Rows of keys and values: strings to copy, sentences to recall, and needles in text.

{key} comes before {value}, and a row asks for what it stated. A row is a list of spans, each with the weight of its
bytes in the loss: only what can be known counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ttbench.corpora.corpus import open_corpus
from ttbench.corpora.training_rows.needle_words import ADJECTIVES, NOUNS, SENTENCE

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"
_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"
LAST = 0.3  # share of needle-any rows whose last sentence stands right before the question
SHORTEST = 192  # tokens of a needle row in a series
FIRST = 0.3  # share of needle rows whose first sentence opens the row: uniform cuts seldom reach so far back
# {key} comes before {value}, and what stands between them is short: the look-up is by the words before the value.
WORDINGS = (
    "The code of {key} is {value}.",
    "{key} has the code {value}.",
    "{key}: {value}\n",
    "{key} = {value}\n",
    '"{key}": "{value}", ',
    "Note that {key} stands for {value}.",
    "The password for {key} was {value}.",
    "Entry {key} holds {value};",
    "<{key}>{value}</{key}>",
    "Room {key}, shelf {value}.",
    "We gave {key} the label {value}.",
    "set {key} to {value}\n",
    "The price of one {key} is {value} coins.",
    "key {key} -> value {value}\n",
)

# What may stand between a key and its value in a wording put together from words.
LINKS = (" is", " is:", ":", " was", " was:", " =", " has", " has:", " ->", " means", ",", " stands for", " gives", "")
ENDS = (".", ";", "\n", ",", "!", " /")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of text and the loss weight of its bytes."""

    text: bytes
    weight: float


Wording = Callable[[np.random.Generator], tuple[str, Callable[[np.random.Generator], str]]]
Maker = Callable[[np.random.Generator, int], list[Span]]


def _word(rng: np.random.Generator) -> str:
    syllables = "".join(
        _CONSONANTS[rng.integers(len(_CONSONANTS))] + _VOWELS[rng.integers(len(_VOWELS))]
        for _ in range(rng.integers(2, 5))
    )
    return syllables.capitalize() if rng.random() < 0.3 else syllables


def _key(rng: np.random.Generator) -> str:
    return " ".join(_word(rng) for _ in range(rng.integers(1, 3)))


def listed_wording(rng: np.random.Generator) -> tuple[str, Callable[[np.random.Generator], str]]:
    """One of WORDINGS, and what makes its keys."""
    return WORDINGS[rng.integers(len(WORDINGS))], _key


def composed_wording(split: str) -> Wording:
    """Wordings of up to eight words of a split's prose before the key; keys of syllables or of such words."""

    def draw(rng: np.random.Generator, count: int) -> list[str]:
        words = _words(split)
        return [words[i] for i in rng.integers(len(words), size=count)]

    def key(rng: np.random.Generator) -> str:
        return _key(rng) if rng.random() < 0.4 else "- "[rng.integers(2)].join(draw(rng, int(rng.integers(1, 3))))

    def wording(rng: np.random.Generator) -> tuple[str, Callable[[np.random.Generator], str]]:
        before = " ".join(draw(rng, int(rng.integers(9))))
        if rng.random() < 0.5:
            before = before[:1].upper() + before[1:]
        link = LINKS[rng.integers(len(LINKS))] if rng.random() < 0.8 else " " + " ".join(draw(rng, 2))
        return f"{before} {{key}}{link} {{value}}{ENDS[rng.integers(len(ENDS))]}".lstrip(), key

    return wording


@cache
def _words(split: str) -> list[str]:
    """Lower-case words of two to ten letters in a split's prose, without those of the needle task, sorted."""
    found: set[str] = set()
    for document in open_corpus("kjv").documents(split):
        found.update(re.findall(r"\b[a-z]{2,10}\b", document.text.decode(errors="replace")))
    return sorted(found.difference(SENTENCE, ADJECTIVES, NOUNS))


def _string(rng: np.random.Generator, alphabet: str, length: int) -> str:
    return "".join(alphabet[i] for i in rng.integers(len(alphabet), size=length))


def _value(rng: np.random.Generator) -> str:
    kind = rng.random()
    if kind < 0.6:
        return _string(rng, _DIGITS, int(rng.choice([3, 4, 5, 6, 8, 9])))
    if kind < 0.8:
        return _string(rng, _LETTERS + _DIGITS, int(rng.integers(4, 10)))
    return _word(rng)


def draw_pair(rng: np.random.Generator) -> tuple[str, str]:
    """A key of syllables and a value, as recall rows state them."""
    return _key(rng), _value(rng)


def _sentence(wording: str, key: str, value: str, *, known: float) -> list[Span]:
    """One sentence; its value, and the byte after it, weigh `known`, its other words nothing."""
    before, after = wording.format(key=key, value="\0").split("\0")
    return [
        Span(text=before.encode(), weight=0.0),
        Span(text=value.encode() + after[:1].encode(), weight=known),
        Span(text=after[1:].encode() + b" ", weight=0.0),
    ]


def _draw_length(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


def copy_row(rng: np.random.Generator, num_tokens: int) -> list[Span]:
    """Random strings, each repeated; only the repeats weigh."""
    spans: list[Span] = []
    length = 0
    while length < num_tokens:
        alphabet = (_LETTERS, _DIGITS, _LETTERS + _DIGITS + " ")[rng.integers(3)]
        text = _string(rng, alphabet, int(rng.integers(6, 25)))
        for repeat in range(rng.integers(2, 5)):
            filler = _string(rng, _LETTERS, int(rng.integers(0, 12)))
            head, tail = text[:2].encode(), text[2:].encode()
            spans += [
                Span(text=b"\n" + filler.encode() + b"|" + head, weight=0.0),
                Span(text=tail + b"|", weight=1.0 if repeat else 0.0),
            ]
            length += len(text) + len(filler) + 3
    return spans


def recall_maker(draw_wording: Wording) -> Maker:
    """Pairs stated once, then stated again in other orders until the row is full; only repeated values weigh."""

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        wording, draw_key = draw_wording(rng)
        size = len(wording) + 14
        num_pairs = max(1, min(_draw_length(rng, 2, 12), num_tokens // (2 * size)))
        pairs = [(draw_key(rng), _value(rng)) for _ in range(num_pairs)]
        spans: list[Span] = []
        known, length = 0.0, 0
        while length < num_tokens:
            for index in rng.permutation(num_pairs):
                sentence = _sentence(wording, *pairs[index], known=known)
                spans += sentence
                length += sum(len(span.text) for span in sentence)
            known = 1.0
        return spans

    return make


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallQuery:
    """Sentences of one wording, each as its spans: pairs that are stated and asked for, and others beside them."""

    stated: list[list[Span]]
    asked: list[list[Span]]  # in an order of their own; the values weigh 1
    others: Iterator[list[Span]]  # without end; no key of theirs is asked for


def recall_query(rng: np.random.Generator, num_pairs: int) -> RecallQuery:
    """As in a recall row, distinct keys with their values and then each once more."""
    wording, draw_key = listed_wording(rng)
    values: dict[str, str] = {}
    while len(values) < num_pairs:
        values.setdefault(draw_key(rng), _value(rng))
    keys = list(values)

    def others() -> Iterator[list[Span]]:
        taken = set(keys)
        while True:
            key = draw_key(rng)
            if key not in taken:
                taken.add(key)
                yield _sentence(wording, key, _value(rng), known=0.0)

    return RecallQuery(
        stated=[_sentence(wording, key, values[key], known=0.0) for key in keys],
        asked=[_sentence(wording, keys[i], values[keys[i]], known=1.0) for i in rng.permutation(num_pairs)],
        others=others(),
    )


def needle_maker(texts: Sequence[Maker], draw_wording: Wording, *, answer_weight: float, closing: float = 0.0) -> Maker:
    """Sentences hidden in text and asked for at the end, in an order of their own; a row is 96 tokens or longer."""

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        wording, draw_key = draw_wording(rng)
        num_pairs = max(1, min(_draw_length(rng, 1, 6), num_tokens // 160))
        pairs = [(draw_key(rng), _value(rng)) for _ in range(num_pairs)]
        stated = [_sentence(wording, *pair, known=0.0) for pair in pairs]
        asked = [_sentence(wording, *pairs[i], known=answer_weight) for i in rng.permutation(num_pairs)]
        # a space before each sentence that is hidden, and a new line before those that ask
        used = num_pairs + 1 + sum(len(span.text) for sentence in stated + asked for span in sentence)
        hay = texts[int(rng.integers(len(texts)))](rng, max(1, num_tokens - used))[0].text
        cuts = np.sort(rng.integers(len(hay) + 1, size=num_pairs))
        if rng.random() < FIRST:
            cuts[0] = 0
        if closing and rng.random() < closing:
            cuts[-1] = len(hay)
        spans: list[Span] = []
        start = 0
        for cut, sentence in zip(cuts, stated, strict=True):
            spans += [Span(text=hay[start:cut], weight=1.0), Span(text=b" ", weight=0.0), *sentence]
            start = cut
        return [*spans, Span(text=hay[start:] + b"\n", weight=1.0), *(span for sentence in asked for span in sentence)]

    return make


def series_maker(needle: Maker) -> Maker:
    """Needle rows of many lengths, one after the other.

    Where questions come only at the end of a row, a model that is trained on long rows learns that none comes early:
    asked after a short text, it goes on with the text.
    """

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        spans: list[Span] = []
        left = num_tokens
        while left >= 2 * SHORTEST:
            length = round(SHORTEST * math.exp(rng.random() * math.log(left / SHORTEST)))
            made = needle(rng, length if left - length >= SHORTEST else left)
            spans += made
            left -= sum(len(span.text) for span in made)
        return [*spans, *needle(rng, left)] if left >= SHORTEST else spans

    return make
