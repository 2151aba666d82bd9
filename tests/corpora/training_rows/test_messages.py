"""Training text of languages: whole messages of one language of the split, none twice, in a new order each time."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from ttbench.corpora.corpus import open_corpus
from ttbench.corpora.training_rows.messages import draw_messages


@cache
def messages_of(split: str) -> dict[str, set[bytes]]:
    return {document.name: set(document.text.split(b"\n")) for document in open_corpus("languages").documents(split)}


def language_of(lines: list[bytes], split: str) -> str:
    """The one language that has all these messages."""
    found = [name for name, messages in messages_of(split).items() if set(lines) <= messages]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_row_is_messages_of_one_language_of_its_split_none_twice(split: str) -> None:
    for seed in range(5):
        text = draw_messages(np.random.default_rng(seed), 2048, split=split)
        assert len(text) == 2048
        *whole, _ = text.split(b"\n")
        assert len(set(whole)) == len(whole) > 5
        language_of(whole, split)


def test_the_same_draw_gives_the_same_text_and_another_another_order() -> None:
    first, again, other = (draw_messages(np.random.default_rng(seed), 512, split="train") for seed in (3, 3, 4))
    assert first == again != other


def test_languages_are_drawn_by_the_root_of_their_length() -> None:
    documents = {d.name: len(d.text) for d in open_corpus("languages").documents("train")}
    messages = {m: d.name for d in open_corpus("languages").documents("train") for m in d.text.split(b"\n") if m}
    counts = Counter(
        messages.get(draw_messages(np.random.default_rng((5, seed)), 600, split="train").split(b"\n")[0])
        for seed in range(1500)
    )
    small = {name for name, size in documents.items() if size < 20_000}
    roots = {name: size**0.5 for name, size in documents.items()}
    expected = sum(roots[name] for name in small) / sum(roots.values())
    # 5 of 44 languages; by the byte they would be 0.9 % of the rows
    assert sum(counts[name] for name in small) / 1500 == pytest.approx(expected, abs=0.02)
    assert 0.03 < expected < 0.06


def test_languages_that_have_too_little_are_not_drawn() -> None:
    documents = {d.name: len(d.text) for d in open_corpus("languages").documents("train")}
    drawn = set()
    for seed in range(12):
        text = draw_messages(np.random.default_rng(seed), 100_000, split="train")
        assert len(text) == 100_000
        drawn.add(language_of(text.split(b"\n")[:50], "train"))
    assert min(documents[name] for name in drawn) >= 100_000
    with pytest.raises(ValueError, match="has 1000000 bytes"):
        draw_messages(np.random.default_rng(0), 1_000_000, split="train")
