"""Prose with its letters permuted: what changes, what stays, and that each document is another cipher."""

from __future__ import annotations

from collections import Counter

from ttbench.corpora.cipher import ALPHABETS, STRETCH, encipher, transcribe
from ttbench.corpora.corpus import SPLITS, open_corpus


def pairs(plain: str, cipher: str) -> dict[str, set[str]]:
    """The letters that each letter became, capitals as small ones."""
    found: dict[str, set[str]] = {}
    for old, new in zip(plain, cipher, strict=True):
        if old.isalpha():
            found.setdefault(old.lower(), set()).add(new.lower())
        else:
            assert old == new
    return found


def test_letters_become_letters_one_for_one_and_all_else_stays() -> None:
    text = "And God said: Let there be light, 1 day. AND THERE WAS light; a second day (2)."
    cipher = encipher(text, seed="x")
    found = pairs(text, cipher)
    assert all(len(each) == 1 for each in found.values())
    assert sorted(letter for each in found.values() for letter in each) == sorted(found)
    assert [old.isupper() for old in text] == [new.isupper() for new in cipher]
    assert encipher(text, seed="x") == cipher != encipher(text, seed="y")


def test_another_alphabet_is_permuted_too_and_a_letter_without_one_capital_is_no_exception() -> None:
    for text in ("Вся Эта дальняя даль", "Straße im Gruß, weiß", "हिन्दी भाषा", "D\u0131yar \u0130li", "déjà vu, Été"):
        cipher = encipher(text, seed="1")
        assert len(cipher) == len(text)
        assert len(cipher.encode()) == len(text.encode())
        assert [old.isupper() for old in text] == [new.isupper() for new in cipher]
        assert cipher != text
        assert Counter(Counter(text.lower()).values()) == Counter(Counter(cipher.lower()).values())


def test_every_document_of_the_corpus_is_a_book_of_the_same_split_in_a_cipher_of_its_own() -> None:
    cipher, prose = open_corpus("cipher"), open_corpus("kjv")
    assert cipher.digest == "6e9e2fcfbc12ed264d59c3343a0dfbd0"
    assert "synthetic" in cipher.caveat
    keys = []
    for split in SPLITS:
        books = {book.name: book.text.decode() for book in prose.documents(split)}
        for document in cipher.documents(split):
            book, _, number = document.name.rpartition("/")
            start = (int(number) - 1) * STRETCH
            text = document.text.decode()
            found = pairs(books[book][start : start + STRETCH], text)
            assert all(len(each) == 1 for each in found.values()), document.name
            keys.append("".join(sorted(f"{old}{min(new)}" for old, new in found.items())))
    assert len(set(keys)) == len(keys)


def test_enough_documents_carry_a_context_of_32k() -> None:
    test = open_corpus("cipher").documents("test")
    assert sum(len(document.text) >= 32 * 1024 + 256 for document in test) >= 25


def test_a_transcribed_text_is_in_one_other_script_letter_for_letter():
    text = "Bonjour le monde, bonjour! 12\n"
    seen = set()
    for seed in range(40):
        other = transcribe(text, seed=str(seed))
        found = pairs(text.lower(), other.lower())
        assert all(len(new) == 1 for new in found.values()), "a letter is always the same letter"
        letters = {sign for sign in other.lower() if sign.isalpha()}
        alphabet = min((alphabet for alphabet in ALPHABETS if letters <= set(alphabet)), key=len)
        assert [sign for sign in text if not sign.isalpha()] == [sign for sign in other if not sign.isalpha()]
        assert other == transcribe(text, seed=str(seed))
        seen.add((alphabet, other))
    assert len({alphabet for alphabet, _ in seen}) > 10
    assert len(seen) == 40, "the same script twice is another exchange of letters"


def test_where_a_script_has_too_few_letters_the_rarest_stay():
    text = "".join(chr(0x4E00 + i) * (700 - i) for i in range(700))
    other = transcribe(text, seed="1")
    kept = [sign for sign in dict.fromkeys(other) if ord(sign) in range(0x4E00, 0x4E00 + 700)]
    exchanged = 700 - len(kept)
    assert exchanged in {len(alphabet) for alphabet in ALPHABETS}
    assert kept == [chr(0x4E00 + i) for i in range(exchanged, 700)]


def test_an_alphabet_holds_small_letters_each_once():
    assert all(sign.isalpha() and sign == sign.lower() for alphabet in ALPHABETS for sign in alphabet)
    assert all(len(alphabet) == len(set(alphabet)) > 25 for alphabet in ALPHABETS)


def test_the_letters_of_every_test_language_are_in_an_alphabet():
    """Where they were not, as those of Kurdish, Urdu and Uighur, a model was the worse the more it had read."""
    for document in open_corpus("languages").documents("test"):
        letters = Counter(sign for sign in document.text.decode().lower() if sign.isalpha())
        unknown = {sign: count for sign, count in letters.items() if not any(sign in each for each in ALPHABETS)}
        assert sum(unknown.values()) < 0.001 * letters.total(), (document.name, unknown)
