"""`cipher`: prose whose letters are exchanged for each other, in every document in another way. Torch-free.

    In the beginning God created  ->  Bf ymk wkabffbfa Ahi pvkqyki

A synthetic neighbour of a language never read: what the letters mean must be found out from the document itself, and
the more of it was read the surer it is; blanks, digits, punctuation and capitals stay where they were. Documents are
stretches of the books of corpus `kjv`, split as they are, so that the prose behind the letters is English that a
reader of `kjv` knows. It says what a model gathers from its context, and nothing about any text that people write.
"""

from __future__ import annotations

import hashlib
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
        drawn = sorted(alphabet, key=lambda letter: hashlib.sha256(f"cipher-1\n{seed}\n{letter}".encode()).digest())
        for old, new in zip(alphabet, drawn, strict=True):
            exchanged |= {_capital(old): _capital(new), old: new}
    return text.translate(str.maketrans(exchanged))


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
