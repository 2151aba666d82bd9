"""`renamed`: code in which every word is another, in every document in another way. Torch-free.

    for item in items:  ->  rpq wzva mu okdhe:

A synthetic neighbour of code that nobody has read: signs, numbers, layout and the lengths of words stay, and what the
words are must be read before it can be known. A word is a run of letters within one case, so the parts of `MatrixBase`
and of `matrix_base` are the same two; single letters stay, keywords do not. Documents are those of corpus `code`,
split as they are. It says how well a model takes up words from its context, and nothing about programs.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache

from ttbench.corpora.corpus import SPLITS, Corpus, Document, make_corpus, open_corpus

_WORD = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def rename(text: bytes, *, seed: str) -> bytes:
    """A text whose words of two ASCII letters and more are replaced, each by the same one throughout.

    New words are as long, have their capitals where the old ones had them, and no two words become one; their letters
    are drawn alike, by a hash of `seed` and the word.
    """
    names: dict[bytes, bytes] = {}
    taken: set[bytes] = set()

    def new(found: re.Match[bytes]) -> bytes:
        word = found[0]
        if len(word) == 1:
            return word
        small = word.lower()
        if small not in names:
            names[small] = _draw(small, seed=seed, taken=taken)
            taken.add(names[small])
        name = names[small]
        if word.islower():
            return name
        return name.upper() if word.isupper() else name.capitalize()

    return _WORD.sub(new, text)


def _draw(word: bytes, *, seed: str, taken: set[bytes]) -> bytes:
    """As many letters as the word has, or one more for every hundred draws that were all taken."""
    draw = 0
    while True:
        length = len(word) + draw // 100
        letters = b""
        while len(letters) < length:
            head = f"renamed-1\n{seed}\n{draw}\n{len(letters)}\n".encode()
            letters += bytes(97 + byte % 26 for byte in hashlib.sha256(head + word).digest() if byte < 234)
        if letters[:length] not in taken:
            return letters[:length]
        draw += 1


@cache
def renamed_corpus() -> Corpus:
    """The documents of `code`, their words renamed as each document's name gives."""
    code = open_corpus("code")
    splits = {
        split: [Document(name=each.name, text=rename(each.text, seed=each.name)) for each in code.documents(split)]
        for split in SPLITS
    }
    return make_corpus(
        "renamed",
        splits,
        source="corpus code, its words replaced in each document by a hash of its name",
        licence=code.licence,
        caveat="synthetic: Python whose words are drawn at random anew in each document",
    )
