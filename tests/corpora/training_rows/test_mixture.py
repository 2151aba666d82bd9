"""Training rows: pure functions of their index, with loss only on what can be known."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ttbench.corpora.training_rows.keyed_rows import SHORTEST, WORDINGS, copy_row
from ttbench.corpora.training_rows.mixture import BOS, Mixture
from ttbench.corpora.training_rows.needle_words import ADJECTIVES, NOUNS
from ttbench.tasks.needle.ruler import ANSWER_PREFIX, NEEDLE, TEMPLATE

NEW_EACH_TIME = ("languages", "cipher", "cipher-languages", "scripts", "renamed")
KINDS = ("code", "prose", "copy", "recall", "needle", "recall-any", "needle-any", *NEW_EACH_TIME)  # rows of text


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return Mixture(seed=3, answer_weight=6.0)


def text_of(rows) -> bytes:
    return bytes(rows.targets[0].astype(np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_tokens", [97, 128, 1000])
def test_a_row_shifts_its_targets_behind_bos_and_depends_on_its_index_alone(mixture, kind, num_tokens):
    row = mixture.row({kind: 1.0}, stream=1, index=5, num_tokens=num_tokens)
    again = Mixture(seed=3, answer_weight=6.0).row({kind: 1.0}, stream=1, index=5, num_tokens=num_tokens)
    other = mixture.row({kind: 1.0}, stream=1, index=6, num_tokens=num_tokens)

    assert row.inputs.shape == row.targets.shape == row.weights.shape == (1, num_tokens)
    assert row.inputs[0, 0] == BOS
    assert (row.inputs[0, 1:] == row.targets[0, :-1]).all()
    assert (row.targets < 256).all()
    assert row.weights.sum() > 0
    assert row.digest("") == again.digest("")
    assert row.digest("") != other.digest("")
    assert row.digest("a") != row.digest("b")


def test_a_batch_is_its_rows_in_order(mixture):
    shares = {"code": 0.5, "recall": 0.5}
    batch = mixture.batch(shares, stream=2, step=3, batch_size=4, num_tokens=64)
    rows = [mixture.row(shares, stream=2, index=12 + i, num_tokens=64) for i in range(4)]
    assert (batch.targets == np.concatenate([row.targets for row in rows])).all()
    assert len({row.digest("") for row in rows}) == 4


def test_weighted_bytes_of_a_copy_row_all_stand_earlier_in_it():
    for seed in range(20):
        spans = copy_row(np.random.default_rng(seed), 300)
        seen = b""
        for span in spans:
            if span.weight:
                assert span.text in seen
            seen += span.text


@pytest.mark.parametrize("kind", ["recall", "recall-any"])
def test_weighted_values_of_a_recall_row_follow_the_words_that_they_followed_before(mixture, kind):
    for seed in range(20):
        spans = mixture.makers[kind](np.random.default_rng(seed), 600)
        stated: dict[bytes, bytes] = {}
        for before, value in zip(spans[::3], spans[1::3], strict=True):
            if value.weight:
                assert stated[before.text] == value.text
            else:
                stated.setdefault(before.text, value.text)
        assert any(span.weight for span in spans)


@pytest.mark.parametrize("kind", ["needle", "needle-any"])
def test_a_needle_row_asks_only_for_what_it_states(mixture, kind):
    for index in range(20):
        row = mixture.row({kind: 1.0}, stream=0, index=index, num_tokens=800)
        asked = row.weights[0] > 1.0
        text = text_of(row)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], asked.astype(np.int8), [0]))))
        assert len(edges) >= 2
        for start, end in edges.reshape(-1, 2):
            assert text.count(text[start - 4 : end]) >= 2


@pytest.mark.parametrize("kind", ["needle", "needle-any"])
@pytest.mark.parametrize("num_tokens", [97, 128, 512, 1000])
def test_a_needle_row_is_as_long_as_asked_and_loses_no_byte(mixture, kind, num_tokens):
    for seed in range(200):
        spans = mixture.makers[kind](np.random.default_rng(seed), num_tokens)
        size = sum(len(span.text) for span in spans)
        # only where the sentences alone leave no room for text
        hay = sum(len(span.text) for span in spans if span.weight == 1.0) - 1
        assert size == num_tokens or (size > num_tokens and hay == 1)


@pytest.mark.parametrize("kind", ["needle-series", "needle-any-series"])
def test_a_series_of_needle_rows_asks_early_and_late_and_only_for_what_it_states(mixture, kind):
    first, last = [], []
    for index in range(40):
        row = mixture.row({kind: 1.0}, stream=0, index=index, num_tokens=2048)
        asked = np.flatnonzero(row.weights[0] > 1.0)
        text = text_of(row)
        edges = np.flatnonzero(np.diff(np.concatenate(([-2], asked, [9999]))) > 1)
        starts, ends = asked[edges[:-1]], asked[edges[1:] - 1] + 1
        for start, end in zip(starts, ends, strict=True):
            assert text[:start].count(text[start - 4 : end]) >= 1, (start, end)
        first.append(asked[0])
        last.append(asked[-1])
    # of the rows, half have their first question before the geometric mean of the shortest and the whole
    assert 10 <= sum(place < (SHORTEST * 2048) ** 0.5 for place in first) <= 30
    assert min(first) < 400
    assert min(last) > 1200
    assert all(place > 2048 - SHORTEST for place in last[:5])


def test_a_row_that_is_too_short_for_a_series_is_one_needle_row(mixture):
    for index in range(5):
        one, series = (
            mixture.makers[kind](np.random.default_rng(index), SHORTEST + 10) for kind in ("needle", "needle-series")
        )
        assert one == series


def test_words_for_wordings_are_gathered_once_and_only_when_they_are_drawn(monkeypatch):
    from ttbench.corpora.training_rows import keyed_rows as module

    asked = []
    real = module._words
    monkeypatch.setattr(module, "_words", lambda split: asked.append(split) or real(split))
    rows = Mixture(seed=3, answer_weight=6.0)
    rows.row({"needle": 0.5, "recall": 0.5, "prose": 0.5}, stream=0, index=0, num_tokens=200)
    assert asked == []
    rows.row({"recall-any": 1.0}, stream=0, index=0, num_tokens=200)
    assert set(asked) == {"train"}
    assert real("train") is real("train")


def test_text_rows_come_from_the_train_split(mixture):
    from ttbench.corpora.corpus import open_corpus

    row = mixture.row({"prose": 1.0}, stream=0, index=1, num_tokens=200)
    assert any(text_of(row)[:100] in document.text for document in open_corpus("kjv").documents("train"))


def test_training_recall_shares_neither_wording_nor_words_nor_values_with_the_needle_task(mixture):
    words = set(re.findall(r"[a-z]{4,}", " ".join((NEEDLE, TEMPLATE, ANSWER_PREFIX)).lower()))
    words -= {"text", "value", "that", "type", "needle", "context", "query"}
    assert not words & set(re.findall(r"[a-z]{4,}", " ".join(WORDINGS).lower()))
    for kind in ("recall", "needle", "recall-any", "needle-any"):
        for index in range(200):
            spans = mixture.makers[kind](np.random.default_rng((7, index)), 400)
            for span in spans:
                if kind.startswith("recall") or span.weight > 1:
                    assert not re.search(rb"(?<!\d)\d{7}(?!\d)", span.text)
                    assert not {*ADJECTIVES, *NOUNS} & set(re.findall(r"[a-z]+", span.text.decode()))


def test_composed_wordings_differ_from_row_to_row_and_hold_no_word_of_the_needle_task(mixture):
    rows = [text_of(mixture.row({"recall-any": 1.0}, stream=0, index=i, num_tokens=300)).decode() for i in range(100)]
    assert len({row[:20] for row in rows}) > 90
    task = {*ADJECTIVES, *NOUNS, "special", "magic", "number", "numbers"}
    assert not any(task & set(re.findall(r"[a-z]+", row.lower())) for row in rows)


def test_the_shares_of_a_mix_are_met(mixture):
    kinds = {"copy": 0.25, "code": 0.75}
    weights = [mixture.row(kinds, stream=0, index=i, num_tokens=40).weights for i in range(400)]
    share = np.mean([(weight == 1).all() for weight in weights])
    assert share == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("num_tokens", [128, 1024])
@pytest.mark.parametrize("kind", ["recall", "recall-any"])
def test_few_values_of_a_recall_row_are_asked_for_whose_statement_was_cut_off(
    mixture: Mixture, kind: str, num_tokens: int
) -> None:
    asked = unknown = 0
    for index in range(200):
        spans = mixture.makers[kind](np.random.default_rng(index), num_tokens)
        text, place = b"".join(span.text for span in spans), 0
        cut = max(0, len(text) - num_tokens)
        for span in spans:
            if span.weight and place >= cut:
                asked += 1
                unknown += span.text not in text[cut:place]
            place += len(span.text)
    assert 0.03 < unknown / asked < 0.15


@pytest.mark.parametrize("kind", NEW_EACH_TIME)
def test_all_of_a_row_of_new_text_weighs_but_what_fills_it_up(mixture: Mixture, kind: str) -> None:
    for index in range(5):
        row = mixture.row({kind: 1.0}, stream=0, index=index, num_tokens=700)
        # a letter that the end of a window cut in two is left out, and the row filled with a new line
        assert row.weights.sum() >= 697
        assert (row.targets[0][row.weights[0] == 0] == ord("\n")).all()


def test_a_cipher_row_is_prose_of_the_split_with_its_letters_permuted_anew(mixture: Mixture) -> None:
    from ttbench.corpora.corpus import open_corpus

    def shape(text: bytes) -> bytes:
        """Where the letters stand, and nothing else of them."""
        return re.sub(rb"[A-Z]", b"A", re.sub(rb"[a-z]", b"a", text))

    shapes = [shape(document.text) for document in open_corpus("kjv").documents("train")]
    keys = set()
    for index in range(5):
        text = text_of(mixture.row({"cipher": 1.0}, stream=0, index=index, num_tokens=400))
        assert sum(shape(text) in each for each in shapes) == 1
        letters = [text.count(bytes([letter])) for letter in range(97, 123)]
        keys.add(tuple(np.argsort(letters)[-3:]))
    # the commonest letters of English are the same in any window, those of a cipher are its own
    assert len(keys) == 5


def test_a_renamed_row_keeps_the_layout_of_code_and_shares_no_word_with_another_row(mixture: Mixture) -> None:
    rows = [text_of(mixture.row({"renamed": 1.0}, stream=0, index=i, num_tokens=1000)) for i in range(4)]
    words = [{word for word in re.findall(rb"[a-z]{4,}", row)} for row in rows]
    assert all(len(each) > 5 for each in words)
    assert not set.union(*(a & b for i, a in enumerate(words) for b in words[:i]))
