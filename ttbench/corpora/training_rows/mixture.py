"""What the zoo is trained on: rows of code, prose and synthetic recall, each a pure function of (seed, index).

    code, prose   BOS and a window of a training document
    dna           the same, of a genome; the corpus is opened when the first such row is made
    languages     BOS and messages of one language, in an order of the row's own
    cipher        a window of prose, its letters permuted anew in each row
    cipher-languages    messages of one language, their letters permuted likewise: a language that there is not
    scripts       messages of one language in random letters of another script, drawn anew in each row
    renamed       a window of code, its words drawn anew in each row
    copy          random strings, each written 2 to 4 times with filler between
    recall        key/value sentences in a wording drawn per row, then the same again in another order
    needle        key/value sentences strewn in a window of text, then asked for
    recall-any, needle-any    the same two in a wording put together from words of the training text
    needle-series, needle-any-series    such rows of many lengths, one after the other, so that questions come anywhere
    mqar, copying, parity, s5    sequences of symbols and what follows from all before (`puzzles.py`)

A row is T inputs, T targets and T loss weights. In synthetic rows only what can be known counts: the second and
later writings of a string, the values that are asked for. With an exception that the zoo was trained with: a recall row
that comes out too long loses its beginning, and asks for what was stated there all the same, 5 to 15 % of the values
(a row in three at 128 tokens, four in five at 1,024). Keys are made of random syllables, values are never seven
digits, and no wording is that of the needle task, so a model that passes the task has learned to look up, not the
task. Letters: T tokens.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ttbench.corpora.cipher import encipher, transcribe
from ttbench.corpora.corpus import Document, open_corpus
from ttbench.corpora.renamed import rename
from ttbench.corpora.training_rows.messages import draw_messages
from ttbench.corpora.training_rows.needle_words import ADJECTIVES, NOUNS, SENTENCE
from ttbench.corpora.training_rows.puzzles import NOT_ASKED, PUZZLES, Puzzle

BOS = 256

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


def _listed_wording(rng: np.random.Generator) -> tuple[str, Callable[[np.random.Generator], str]]:
    """One of WORDINGS, and what makes its keys."""
    return WORDINGS[rng.integers(len(WORDINGS))], _key


def _composed_wording(split: str) -> Wording:
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


def _recall_maker(draw_wording: Wording) -> Maker:
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
    wording, draw_key = _listed_wording(rng)
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


def _window(rng: np.random.Generator, documents: Sequence[Document], shares: np.ndarray, size: int) -> bytes:
    """`size` bytes from a document drawn by length; short documents are joined by a newline until it is full."""
    parts: list[bytes] = []
    have = 0
    while have < size:
        text = documents[int(np.searchsorted(shares, rng.random(), side="right"))].text
        start = int(rng.integers(max(1, len(text) - (size - have) + 1)))
        part = text[start : start + size - have]
        parts.append(part)
        have += len(part) + 1
    return b"\n".join(parts)[:size]


def _text_maker(documents: Sequence[Document]) -> Maker:
    sizes = np.array([len(document.text) for document in documents], dtype=np.float64)
    shares = np.cumsum(sizes) / sizes.sum()
    shares[-1] = 1.0

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        return [Span(text=_window(rng, documents, shares, num_tokens), weight=1.0)]

    return make


def _late_maker(corpus: str, split: str) -> Maker:
    """Text of a corpus that need not be on the machine of whoever asks for none of its rows."""

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        return _opened_maker(corpus, split)(rng, num_tokens)

    return make


@cache
def _opened_maker(corpus: str, split: str) -> Maker:
    return _text_maker(open_corpus(corpus).documents(split))


def _messages_maker(split: str) -> Maker:
    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        return [Span(text=draw_messages(rng, num_tokens, split=split), weight=1.0)]

    return make


def _changed_maker(text: Maker, change: Callable[[bytes, str], bytes], *, shrinks: int = 1) -> Maker:
    """Text of which every row is changed in a way of its own, which a seed gives; at most `shrinks` times shorter."""

    def make(rng: np.random.Generator, num_tokens: int) -> list[Span]:
        span = text(rng, num_tokens * shrinks)[0]
        return [Span(text=change(span.text, str(rng.integers(2**62))), weight=1.0)]

    return make


def _letters(change: Callable[..., str]) -> Callable[[bytes, str], bytes]:
    """`change` on a window; what its ends cut of a letter is left out."""
    return lambda text, seed: change(text.decode(errors="ignore"), seed=seed).encode()


def _needle_maker(
    texts: Sequence[Maker], draw_wording: Wording, *, answer_weight: float, closing: float = 0.0
) -> Maker:
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


def _series_maker(needle: Maker) -> Maker:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A batch of training rows."""

    inputs: np.ndarray  # int64 [B, T]
    targets: np.ndarray  # int64 [B, T]
    weights: np.ndarray  # float32 [B, T]

    def digest(self, previous: str) -> str:
        """Digest of this batch chained to that of all before: equal digests mean equal data in equal order."""
        state = hashlib.blake2b(previous.encode(), digest_size=16)
        for array in (self.inputs, self.targets, self.weights):
            state.update(np.ascontiguousarray(array).tobytes())
        return state.hexdigest()


def _asked(puzzle: Puzzle) -> Rows:
    """A puzzle as a training row: only what is asked for weighs, and it need not be what is read next."""
    targets, asked = puzzle.targets, puzzle.targets != NOT_ASKED
    return Rows(
        inputs=np.concatenate(([BOS], puzzle.symbols))[None],
        targets=np.where(asked, targets, 0)[None],
        weights=asked.astype(np.float32)[None],
    )


class Mixture:
    """Rows drawn by kind. Every row depends on (seed, stream, index) only, so any batch can be made at any time.

    Texts come from the documents of one split: train for training, valid for choosing among trials.
    """

    def __init__(self, *, seed: int, answer_weight: float, split: str = "train") -> None:
        sources = {"code": "code", "prose": "kjv"}
        texts = {kind: _text_maker(open_corpus(corpus).documents(split)) for kind, corpus in sources.items()}
        composed = _composed_wording(split)
        hay = list(texts.values())
        needle = _needle_maker(hay, _listed_wording, answer_weight=answer_weight)
        needle_any = _needle_maker(hay, composed, answer_weight=answer_weight, closing=LAST)
        self.seed = seed
        self.makers: Mapping[str, Maker] = {
            **texts,
            "dna": _late_maker("genomes", split),
            "languages": _messages_maker(split),
            "cipher": _changed_maker(texts["prose"], _letters(encipher)),
            "cipher-languages": _changed_maker(_messages_maker(split), _letters(encipher)),
            "scripts": _changed_maker(_messages_maker(split), _letters(transcribe), shrinks=4),
            "renamed": _changed_maker(texts["code"], lambda text, seed: rename(text, seed=seed)),
            "copy": copy_row,
            "recall": _recall_maker(_listed_wording),
            "needle": needle,
            "needle-series": _series_maker(needle),
            "recall-any": _recall_maker(composed),
            "needle-any": needle_any,
            "needle-any-series": _series_maker(needle_any),
        }

    def row(self, shares: Mapping[str, float], *, stream: int, index: int, num_tokens: int) -> Rows:
        """One row, [1, T]. `shares` gives each kind's weight in the draw; `stream` tells phases apart."""
        rng = np.random.default_rng((self.seed, stream, index))
        kinds = list(shares)
        weights = np.array([shares[kind] for kind in kinds], dtype=np.float64)
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        if kind in PUZZLES:
            return _asked(PUZZLES[kind](rng, num_tokens))
        spans = self.makers[kind](rng, num_tokens)
        # a row that came out too long loses its beginning: what is asked for stands at its end
        tokens = np.frombuffer(b"".join(span.text for span in spans), dtype=np.uint8)[-num_tokens:].astype(np.int64)
        loss = np.repeat([s.weight for s in spans], [len(s.text) for s in spans])[-num_tokens:].astype(np.float32)
        short = num_tokens - len(tokens)
        tokens = np.concatenate((tokens, np.full(short, ord("\n"), dtype=np.int64)))
        loss = np.concatenate((loss, np.zeros(short, dtype=np.float32)))
        return Rows(inputs=np.concatenate(([BOS], tokens[:-1]))[None], targets=tokens[None], weights=loss[None])

    def batch(self, shares: Mapping[str, float], *, stream: int, step: int, batch_size: int, num_tokens: int) -> Rows:
        """Rows `step * batch_size` and on of a stream, [B, T]."""
        rows = [
            self.row(shares, stream=stream, index=step * batch_size + i, num_tokens=num_tokens)
            for i in range(batch_size)
        ]
        return Rows(
            inputs=np.concatenate([row.inputs for row in rows]),
            targets=np.concatenate([row.targets for row in rows]),
            weights=np.concatenate([row.weights for row in rows]),
        )
