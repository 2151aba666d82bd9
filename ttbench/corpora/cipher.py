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


def _letters(*spans: tuple[int, int]) -> str:
    """The small letters, and letters without case, in stretches of Unicode."""
    signs = (chr(code) for first, last in spans for code in range(first, last + 1))
    return "".join(sign for sign in signs if sign.isalpha() and sign == sign.lower())


# Each with the letters that only some languages of the script have: one who met but the common ones is the surer that
# no other comes the longer he reads.
ALPHABETS = tuple(
    _letters(*spans)
    for spans in (
        [(0x61, 0x7A)],  # Latin
        [(0x61, 0x7A), (0xDF, 0x17F), (0x1E00, 0x1EFF)],  # Latin, with marks
        [(0x61, 0x7A), (0x180, 0x2AF), (0x2BB, 0x2BC)],  # Latin, with the letters of Africa and the Caucasus
        [(0x370, 0x3CE)],  # Greek
        [(0x430, 0x45F)],  # Cyrillic
        [(0x430, 0x52F)],  # Cyrillic, with the letters of languages that are not Slavic
        [(0x561, 0x587)],  # Armenian
        [(0x5D0, 0x5EA)],  # Hebrew
        [(0x620, 0x64A)],  # Arabic
        [(0x620, 0x64A), (0x671, 0x6D5)],  # Arabic, with the letters of other languages than Arabic
        [(0x710, 0x72F)],  # Syriac
        [(0x780, 0x7A5)],  # Thaana
        [(0x7CA, 0x7EA)],  # N'Ko
        [(0x904, 0x939), (0x958, 0x961)],  # Devanagari
        [(0x985, 0x9B9), (0x9CE, 0x9CE), (0x9DC, 0x9E1), (0x9F0, 0x9F1)],  # Bengali
        [(0xA05, 0xA39), (0xA59, 0xA5E)],  # Gurmukhi
        [(0xA85, 0xAB9)],  # Gujarati
        [(0xB05, 0xB39), (0xB5C, 0xB61)],  # Odia
        [(0xC05, 0xC39)],  # Telugu
        [(0xC85, 0xCB9)],  # Kannada
        [(0xD05, 0xD39)],  # Malayalam
        [(0xD85, 0xDC6)],  # Sinhala
        [(0xE01, 0xE30)],  # Thai
        [(0xE81, 0xEB0)],  # Lao
        [(0xF40, 0xF6C)],  # Tibetan
        [(0x1000, 0x102A)],  # Myanmar
        [(0x10D0, 0x10F0)],  # Georgian
        [(0x1200, 0x135A)],  # Ethiopic
        [(0x1780, 0x17B3)],  # Khmer
        [(0x1820, 0x1878)],  # Mongolian
        [(0x3041, 0x3096)],  # Hiragana
        [(0x30A1, 0x30FA)],  # Katakana
        [(0xAC00, 0xAE4F)],  # Hangul, its first syllables
    )
)


def transcribe(text: str, *, seed: str) -> str:
    """A text in letters of another script: `seed` draws one of ALPHABETS, and which letter of it stands for which.

    The commonest letters are exchanged first; where the alphabet is too small the rest stays, and so do blanks, digits
    and punctuation. Unlike `encipher` the text does not keep its length in bytes.
    """
    order = _order(f"script-2\n{seed}")
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
