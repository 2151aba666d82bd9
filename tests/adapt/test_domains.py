"""Items: pure functions of their place, with disjoint splits and answers that can be checked."""

from __future__ import annotations

import numpy as np
import pytest

from ttbench.adapt.domains import DOMAINS, Domain, Item, draw_items, pad, read_domains
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.errors import TooShortError, UnknownNameError

TOKENIZER = ByteTokenizer()


def draw(domain: Domain, split: str, count: int = 12, context_len: int = 256, **given: int) -> list[Item]:
    sizes = {"seed": 0, "answer_tokens": 64, **given}
    return draw_items(domain, TOKENIZER, split=split, count=count, context_len=context_len, **sizes)


def whole(item: Item) -> bytes:
    return TOKENIZER.decode(item.prompt[1:]) + TOKENIZER.decode(item.answer)


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_an_item_depends_on_its_place_alone_and_fits_the_context(domain: Domain) -> None:
    first, more = draw(domain, "test", 3), draw(domain, "test", 5)
    for one, two in zip(first, more, strict=False):
        np.testing.assert_array_equal(one.prompt, two.prompt)
        np.testing.assert_array_equal(one.answer, two.answer)
    for item in more:
        assert item.prompt[0] == TOKENIZER.bos_id
        assert len(item.prompt) > 1
        assert len(item.answer) >= 1
        assert len(item.prompt) + len(item.answer) <= 256
        assert item.answer_bytes == len(item.answer)
    assert {whole(item) for item in more} != {whole(item) for item in draw(domain, "test", 5, seed=1)}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_no_split_shows_what_another_asks(domain: Domain) -> None:
    items = {split: draw(domain, split, 24) for split in ("train", "valid", "test")}
    for one, other in (("train", "test"), ("valid", "test"), ("train", "valid")):
        assert not {item.source for item in items[one]} & {item.source for item in items[other]}
        assert not {whole(item) for item in items[one]} & {whole(item) for item in items[other]}


def test_a_text_goes_on_where_the_prompt_ends() -> None:
    for name in ("code", "prose"):
        for item in draw(DOMAINS[name], "test", 3):
            assert (len(item.prompt), len(item.answer)) == (256 - 64, 64)


@pytest.mark.parametrize("context_len", [100, 256, 512])
def test_the_value_asked_for_stands_in_the_prompt(context_len: int) -> None:
    for name, least in (("recall", 1), ("other", 2)):
        for item in draw(DOMAINS[name], "test", 24, context_len):
            answer = TOKENIZER.decode(item.answer).strip()
            assert answer in TOKENIZER.decode(item.prompt[1:])
            assert len(answer) >= least


def test_the_dna_is_one_chain_over_four_letters_that_can_be_learned() -> None:
    text = b"".join(whole(item) for item in draw(DOMAINS["dna"], "train", 40))
    assert set(text) == set(b"ACGT")
    counts = np.zeros((64, 4))
    index = {letter: place for place, letter in enumerate(b"ACGT")}
    for at in range(3, len(text)):
        state = sum(index[text[at - back]] * 4 ** (back - 1) for back in (1, 2, 3))
        counts[state, index[text[at]]] += 1
    odds = counts / counts.sum(axis=1, keepdims=True)
    bits = -(counts * np.log2(np.where(odds, odds, 1))).sum() / counts.sum()
    assert 1.0 < bits < 1.7


def test_too_much_context_is_an_answer_not_a_crash() -> None:
    with pytest.raises(TooShortError, match="no test document of corpus 'kjv' has"):
        draw(DOMAINS["prose"], "test", 1, 2**20)


def test_domains_are_named_once_each_and_unknown_ones_are_refused() -> None:
    assert [domain.name for domain in read_domains("dna, code,dna")] == ["dna", "code"]
    with pytest.raises(UnknownNameError, match=r"unknown domain 'cod'.*did you mean 'code'"):
        read_domains("cod")


def test_rows_of_several_lengths_are_padded_to_the_right() -> None:
    np.testing.assert_array_equal(pad([np.array([1, 2, 3]), np.array([4])]), [[1, 2, 3], [4, 0, 0]])
