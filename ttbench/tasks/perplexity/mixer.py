"""A context mixer: what a text's context is worth to counting alone, without a neural net. numpy only.

    p(x)  =  softmax over bytes x of  sum_i w_i log p_i(x)

Each p_i is a distribution over the 256 bytes: of tables that were counted in the train split and stay as they are, of
tables that count only what was read before in this window, and of the longest match in it. Tables have contexts of 0,
1, 2, 3, 4 and 6 bytes and of the word so far; each falls back on the next shorter one (Witten and Bell): with n(x)
of N visits to a context, and D different bytes among them,

    p_k(x)  =  (n(x) + D p_{k-1}(x)) / (N + D),          p_{-1}(x) = 1/256

The weights learn from each byte after it was coded, by the gradient of its code length; they begin where reading
documents of the valid split has left them. There is one set for each number of contexts that were met before. The
probabilities sum to 1, so that -log p, summed, is the length of a code that could be decoded.

Sources: Mahoney, "Adaptive weighing of context models for lossless data compression" (2005), which mixes bits and not
bytes; Witten and Bell (1991), method C. Letters: N bytes of a text, M models, S sets of weights, E entries of a table.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int, UInt

from ttbench.corpora.corpus import Corpus

WORD = "word"
ORDERS: tuple[int | str, ...] = (0, 1, 2, 3, 4, 6, WORD)
# Places in ORDERS: what each falls back on, and those whose visits choose the set of weights.
_LOWER = (None, 0, 1, 2, 3, 4, 2)
_CHOOSING = (1, 2, 3, 4, 5)
_WORD_BYTES = 7  # of the word so far, its last ones
_MATCH_ORDER = 5  # place in ORDERS of the context by which a match is found
_LONGEST = 31  # a match's length counts up to here
NUM_MODELS = 2 * len(ORDERS) + 1
NUM_SETS = len(_CHOOSING) + 1
RATE = 0.002  # of the weights' steps; chosen on valid documents of `languages`
# Texts of the valid split that the weights are learned from: so many, of so many bytes.
NUM_LESSONS, LESSON = 48, 2_048

_LETTER = np.zeros(256, dtype=bool)
_LETTER[[*range(48, 58), *range(65, 91), *range(97, 123), *range(128, 256)]] = True


def context_keys(text: UInt[np.ndarray, "N"]) -> list[UInt[np.ndarray, "N"]]:
    """For each of ORDERS, what stands before each byte as one number; what precedes the text counts as zeros."""
    size = len(text)
    wide = text.astype(np.uint64)
    keys = []
    for order in ORDERS:
        key = np.zeros(size, dtype=np.uint64)
        within = np.ones(size, dtype=bool)
        longest = _WORD_BYTES if order == WORD else int(order)
        for back in range(1, min(longest, size - 1) + 1):
            if order == WORD:
                within[back:] &= _LETTER[text[: size - back]]
            within[:back] = False
            shifted = wide[: size - back] << np.uint64(8 * (back - 1))
            key[back:] |= np.where(within[back:], shifted, np.uint64(0))
        keys.append(key)
    return keys


class CountTables:
    """Counts of every context of ORDERS in some documents; final."""

    def __init__(self, documents: Iterable[bytes]) -> None:
        parts: list[list[np.ndarray]] = [[] for _ in ORDERS]
        for document in documents:
            text = np.frombuffer(document, dtype=np.uint8)
            for part, key in zip(parts, context_keys(text), strict=True):
                part.append(key << np.uint64(8) | text)
        self._keys, self._counts, self._totals = [], [], []
        for part in parts:
            keys, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *part]), return_counts=True)
            self._keys.append(keys)
            self._counts.append(counts.astype(np.float64))
            self._totals.append(np.concatenate([[0.0], np.cumsum(counts)]))
        self._symbols = [(keys & np.uint64(255)).astype(np.intp) for keys in self._keys]

    def look_up(self, keys: Sequence[UInt[np.ndarray, "N"]]) -> list[_Found]:
        """Where the entries of each place's context are, for each of ORDERS."""
        found = []
        for index, key in enumerate(keys):
            low = np.searchsorted(self._keys[index], key << np.uint64(8), side="left")
            high = np.searchsorted(self._keys[index], key << np.uint64(8) | np.uint64(255), side="right")
            visits = self._totals[index][high] - self._totals[index][low]
            found.append(_Found(self._symbols[index], self._counts[index], low, high, visits))
        return found


class _Found:
    """Entries of one order's table for each place of a text."""

    def __init__(
        self,
        symbols: Int[np.ndarray, "E"],
        counts: Float[np.ndarray, "E"],
        low: Int[np.ndarray, "N"],
        high: Int[np.ndarray, "N"],
        visits: Float[np.ndarray, "N"],
    ) -> None:
        self._symbols, self._counts = symbols, counts
        self._low, self._high, self._visits = low.tolist(), high.tolist(), visits.tolist()

    def write(self, place: int, lower: Float[np.ndarray, "256"], out: Float[np.ndarray, "256"]) -> None:
        """The distribution at a place into `out`."""
        low, high, visits = self._low[place], self._high[place], self._visits[place]
        if low == high:
            out[:] = lower
            return
        total = visits + (high - low)
        np.multiply(lower, (high - low) / total, out=out)
        out[self._symbols[low:high]] += self._counts[low:high] / total


class _Adaptive:
    """Counts of one order's contexts in what was read."""

    def __init__(self) -> None:
        self._counts: dict[int, dict[int, int]] = {}

    def write(self, key: int, lower: Float[np.ndarray, "256"], out: Float[np.ndarray, "256"]) -> bool:
        """The distribution behind a context into `out`, and whether the context was met before."""
        counts = self._counts.get(key)
        if counts is None:
            out[:] = lower
            return False
        visits, distinct = sum(counts.values()), len(counts)
        total = visits + distinct
        np.multiply(lower, distinct / total, out=out)
        if distinct == 1:
            for symbol, count in counts.items():
                out[symbol] += count / total
        else:
            out[list(counts)] += np.array(list(counts.values())) / total
        return True

    def add(self, key: int, symbol: int) -> None:
        counts = self._counts.setdefault(key, {})
        counts[symbol] = counts.get(symbol, 0) + 1


class _Match:
    """The longest repetition that reaches up to here, and how often ones of its length went on."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # context -> place behind it
        self._place, self._length = 0, 0
        self._held = np.ones(_LONGEST + 1)
        self._tried = np.full(_LONGEST + 1, 2.0)

    def write(self, text: bytes, out: Float[np.ndarray, "256"]) -> None:
        if not self._length:
            out[:] = 1 / 256
            return
        share = self._held[self._length] / self._tried[self._length]
        out[:] = (1 - share) / 255
        out[text[self._place]] = share

    def add(self, text: bytes, place: int, key: int) -> None:
        """After the byte at `place` was read; `key` is the context behind it."""
        if self._length:
            held = text[self._place] == text[place]
            self._held[self._length] += held
            self._tried[self._length] += 1
            self._place += 1
            self._length = min(self._length + 1, _LONGEST) if held else 0
        if not self._length and place >= int(ORDERS[_MATCH_ORDER]):
            self._place = self._last.get(key, 0)
            self._length = int(ORDERS[_MATCH_ORDER]) if self._place else 0
        self._last[key] = place + 1


class ContextMixer:
    """Static tables and the weights that every window begins with; a window changes neither."""

    def __init__(self, train: Iterable[bytes], valid: Iterable[bytes] = ()) -> None:
        """Count `train`; then read each text of `valid`, handing the weights on from one to the next."""
        self.tables = CountTables(train)
        self.weights = np.full((NUM_SETS, NUM_MODELS), 1 / NUM_MODELS)
        for text in valid:
            self._read(text, self.weights, since=len(text))

    def nats(self, text: bytes, *, num_targets: int) -> Float[np.ndarray, "targets"]:
        """Nats of the last bytes of a text, each after all of the text before it and nothing else of the document."""
        return self._read(text, self.weights.copy(), since=len(text) - num_targets)

    def _read(self, text: bytes, weights: Float[np.ndarray, "S M"], *, since: int) -> Float[np.ndarray, "targets"]:
        """Nats of the bytes from `since` on. Changes `weights`."""
        return np.array(
            [-np.log(shares[text[place]]) for place, shares in self.shares(text, weights) if place >= since]
        )

    def shares(self, text: bytes, weights: Float[np.ndarray, "S M"]) -> Iterable[tuple[int, Float[np.ndarray, "256"]]]:
        """The distribution of each byte before it is read, in order. Changes `weights`; what is yielded may be kept."""
        # one place more: the context behind the last byte
        keys = context_keys(np.frombuffer(text + b"\0", dtype=np.uint8))
        static = self.tables.look_up(keys)
        behind = [key.tolist() for key in keys]
        adaptive, match = [_Adaptive() for _ in ORDERS], _Match()
        uniform = np.full(256, 1 / 256)
        models = np.empty((NUM_MODELS, 256))
        for place, symbol in enumerate(text):
            seen = [False] * len(ORDERS)
            for index, lower in enumerate(_LOWER):
                static[index].write(place, uniform if lower is None else models[lower], models[index])
            for index, lower in enumerate(_LOWER):
                row = len(ORDERS) + index
                below = uniform if lower is None else models[len(ORDERS) + lower]
                seen[index] = adaptive[index].write(behind[index][place], below, models[row])
            match.write(text, models[-1])
            logs = np.log(models)
            chosen = weights[sum(seen[index] for index in _CHOOSING)]
            shares = softmax(chosen @ logs)
            yield place, shares
            chosen += RATE * (logs[:, symbol] - logs @ shares)
            for index, table in enumerate(adaptive):
                table.add(behind[index][place], symbol)
            match.add(text, place, behind[_MATCH_ORDER][place + 1])


def softmax(logits: Float[np.ndarray, "256"]) -> Float[np.ndarray, "256"]:
    """Positive numbers in these proportions that sum to 1."""
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def make_mixer(corpus: Corpus) -> ContextMixer:
    """A mixer that has read the corpus's train split, and some of its valid split for the weights."""
    valid = [document.text for document in corpus.documents("valid")]
    stretches = (text[start : start + LESSON] for start in range(0, max(map(len, valid)), LESSON) for text in valid)
    lessons = itertools.islice((text for text in stretches if len(text) == LESSON), NUM_LESSONS)
    return ContextMixer([document.text for document in corpus.documents("train")], lessons)
