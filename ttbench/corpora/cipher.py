"""`cipher`: prose whose letters are exchanged for each other, in every document in another way. Torch-free.

    In the beginning God created  ->  Bf ymk wkabffbfa Ahi pvkqyki

A synthetic neighbour of a language never read: what the letters mean must be found out from the document itself, and
the more of it was read the surer it is; blanks, digits, punctuation and capitals stay where they were. Documents are
stretches of the books of corpus `kjv`, split as they are, so that the prose behind the letters is English that a
reader of `kjv` knows. It says what a model gathers from its context, and nothing about any text that people write.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cache

from ttbench.corpora.corpus import SPLITS, Corpus, Document, make_corpus, open_corpus

STRETCH = 36_864  # bytes of a document: a context of 32k and what is scored behind it
LEAST = 4_096  # bytes of the last stretch of a book; a shorter rest is left out


def encipher(text: str, *, seed: str) -> str:
    """A text with its letters permuted among themselves, capitals as their small letters; `seed` gives the order.

    The alphabet is that of the text. A letter becomes one that takes as many bytes in UTF-8 and has a capital if it has
    one, so that a text keeps its length.
    """
    kinds: dict[tuple[int, int], list[str]] = {}
    for letter in sorted({small for sign in set(text) if sign.isalpha() and len(small := sign.lower()) == 1}):
        kinds.setdefault((len(letter.encode()), len(_capital(letter).encode())), []).append(letter)
    exchanged: dict[str, str] = {}
    for alphabet in kinds.values():
        drawn = sorted(alphabet, key=_order(f"cipher-1\n{seed}"))
        for old, new in zip(alphabet, drawn, strict=True):
            exchanged |= {_capital(old): _capital(new), old: new}
    return text.translate(str.maketrans(exchanged))


# Alphabets as stretches of Unicode that hold small letters, or letters without case, and nothing else.
ALPHABETS = tuple(
    "".join(chr(code) for first, last in spans for code in range(first, last + 1))
    for spans in (
        [(0x61, 0x7A)],  # Latin
        [(0x3B1, 0x3C9)],  # Greek
        [(0x430, 0x44F)],  # Cyrillic
        [(0x561, 0x586)],  # Armenian
        [(0x5D0, 0x5EA)],  # Hebrew
        [(0x621, 0x63A), (0x641, 0x64A)],  # Arabic
        [(0x712, 0x72F)],  # Syriac
        [(0x780, 0x7A5)],  # Thaana
        [(0x7CA, 0x7EA)],  # N'Ko
        [(0x904, 0x939)],  # Devanagari
        [(0x993, 0x9A8), (0x9AA, 0x9B0)],  # Bengali
        [(0xA13, 0xA28), (0xA2A, 0xA30)],  # Gurmukhi
        [(0xA93, 0xAA8), (0xAAA, 0xAB0)],  # Gujarati
        [(0xB13, 0xB28), (0xB2A, 0xB30)],  # Odia
        [(0xC12, 0xC28), (0xC2A, 0xC33)],  # Telugu
        [(0xC92, 0xCA8), (0xCAA, 0xCB3)],  # Kannada
        [(0xD12, 0xD28), (0xD2A, 0xD39)],  # Malayalam
        [(0xD9A, 0xDB1), (0xDB3, 0xDBB)],  # Sinhala
        [(0xE01, 0xE2E)],  # Thai
        [(0xF49, 0xF6C)],  # Tibetan
        [(0x1000, 0x102A)],  # Myanmar
        [(0x10D0, 0x10F0)],  # Georgian
        [(0x1200, 0x1246)],  # Ethiopic
        [(0x1780, 0x17B3)],  # Khmer
        [(0x1820, 0x1842)],  # Mongolian
        [(0x3042, 0x3093)],  # Hiragana
        [(0xAC00, 0xAC4F)],  # Hangul
    )
)


def transcribe(text: str, *, seed: str) -> str:
    """A text in letters of another script: `seed` draws one of ALPHABETS, and which letter of it stands for which.

    The commonest letters are exchanged first; where the alphabet is too small the rest stays, and so do blanks, digits
    and punctuation. Unlike `encipher` the text does not keep its length in bytes.
    """
    order = _order(f"script-1\n{seed}")
    alphabet = min(ALPHABETS, key=order)
    counts = Counter(small for sign in text if sign.isalpha() and len(small := sign.lower()) == 1)
    letters = sorted(counts, key=lambda letter: (-counts[letter], letter))
    exchanged: dict[str, str] = {}
    for old, new in zip(letters, sorted(alphabet, key=order), strict=False):
        exchanged |= {_capital(old): _capital(new), old: new}
    return text.translate(str.maketrans(exchanged))


def _order(seed: str) -> Callable[[str], bytes]:
    """A key that sorts words in an order of the seed's own."""
    return lambda word: hashlib.sha256(f"{seed}\n{word}".encode()).digest()


def _capital(letter: str) -> str:
    """The one capital whose small letter it is; itself where it has none."""
    capital = letter.upper()
    return capital if len(capital) == 1 and capital.lower() == letter else letter


@cache
def cipher_corpus() -> Corpus:
    """Stretches of the books of `kjv`, each with a permutation of its letters that its name gives."""
    splits: dict[str, list[Document]] = {split: [] for split in SPLITS}
    prose = open_corpus("kjv")
    for split in SPLITS:
        for book in prose.documents(split):
            text = book.text.decode()
            for start in range(0, len(text), STRETCH):
                name = f"{book.name}/{start // STRETCH + 1}"
                stretch = encipher(text[start : start + STRETCH], seed=name).encode()
                if len(stretch) >= LEAST:
                    splits[split].append(Document(name=name, text=stretch))
    return make_corpus(
        "cipher",
        splits,
        source="corpus kjv, its letters permuted in each stretch of 36 KiB by a hash of its name",
        licence=prose.licence,
        caveat="synthetic: English prose whose letters are permuted anew in each document",
    )
