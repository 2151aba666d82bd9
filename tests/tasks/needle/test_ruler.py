"""RULER's definitions, letter by letter; goldens are typed from hsiehjackson/RULER @ 56f7e8e and lm-eval 0.4.13."""

from __future__ import annotations

import re

import pytest

from ttbench.corpora.training_rows.keyed_rows import WORDINGS
from ttbench.corpora.training_rows.needle_words import ADJECTIVES, NOUNS
from ttbench.tasks.needle.ruler import DEPTHS, LENGTHS, NEEDLE, NOISE, VARIANTS, departures, match

ONE = (
    "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the "
    "number afterwards.\n",
    "\nWhat is the special magic number for calm-otter mentioned in the provided text? The special magic number for "
    "calm-otter mentioned in the provided text is",
)
ONE_UUID = tuple(text.replace("number", "uuid") for text in ONE)
MANY = (
    "Some special magic numbers are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the numbers afterwards.\n",
    "\nWhat are all the special magic numbers for {query} mentioned in the provided text? The special magic numbers "
    "for {query} mentioned in the provided text are",
)


@pytest.mark.parametrize(
    ("name", "keys", "before", "after"),
    [
        ("niah_single_1", ["calm-otter"], *ONE),
        ("niah_single_2", ["calm-otter"], *ONE),
        ("niah_single_3", ["calm-otter"], *ONE_UUID),
        ("niah_multikey_1", ["calm-otter"], *ONE),
        ("niah_multikey_3", ["calm-otter"], *ONE_UUID),
        ("niah_multivalue", ["calm-otter"], MANY[0], MANY[1].format(query="calm-otter")),
        ("niah_multiquery", ["a-b", "c-d", "e-f", "g-h"], MANY[0], MANY[1].format(query="a-b, c-d, e-f, and g-h")),
    ],
)
def test_the_words_around_a_haystack_are_rulers(name: str, keys: list[str], before: str, after: str) -> None:
    assert VARIANTS[name].around("ruler", keys) == (before, after)


def test_the_haystacks_and_counts_are_rulers() -> None:
    told = {
        variant.name: (
            variant.haystack,
            variant.key,
            variant.value,
            variant.num_keys,
            variant.num_values,
            variant.num_queries,
        )
        for variant in VARIANTS.values()
    }
    # synthetic.yaml; the number of keys is raised to that of the queries, as niah.py does
    assert told == {
        "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
        "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
        "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
        "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
        "niah_multikey_2": ("needle", "words", "numbers", 1, 1, 1),
        "niah_multikey_3": ("needle", "uuids", "uuids", 1, 1, 1),
        "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
        "niah_multiquery": ("essay", "words", "numbers", 4, 1, 4),
    }
    assert NOISE == "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    assert VARIANTS["niah_single_3"].needle("k", "v") == "One of the special magic uuids for k is: v."
    # numpy.round(numpy.linspace(0, 100, 40)) as whole numbers
    assert DEPTHS[:6] == (0, 3, 5, 8, 10, 13)
    assert (len(DEPTHS), DEPTHS[19], DEPTHS[20], DEPTHS[-1]) == (40, 49, 51, 100)


@pytest.mark.parametrize("name", VARIANTS)
def test_cloze_begins_the_needles_sentence_again(name: str) -> None:
    variant = VARIANTS[name]
    before, after = variant.around("cloze", ["calm-otter"])
    assert before == ""
    assert variant.needle("calm-otter", "5").startswith(after.removeprefix("\n") + " 5")


@pytest.mark.parametrize(
    ("answer", "share"),
    [("1111111, and 2222222", 0.25), ("ABC-d 1111111 3333333 9", 1.0), ("", 0.0), ("x1111111y 9", 0.5), ("111111", 0)],
)
def test_match_is_the_share_of_values_contained_whatever_the_case(answer: str, share: float) -> None:
    assert match(answer.encode(), ["1111111", "3333333", "abc-D", "9"]) == share


def told(name: str, **changed) -> list[str]:
    asked = {"depth_mode": "ruler", "question": "ruler", "answer_tokens": 128, "context_len": 4096, "corpus": "kjv"}
    return departures(VARIANTS[name], **{**asked, **changed})


def test_rulers_own_settings_depart_only_by_text_and_words() -> None:
    assert told("niah_multikey_3") == []
    assert [reason.split(":")[0] for reason in told("niah_multikey_2")] == ["data"]
    assert [reason.split(":")[0] for reason in told("niah_single_2")] == ["haystack", "data"]
    assert all(told("niah_multikey_3", context_len=length) == [] for length in LENGTHS)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"depth_mode": "grid"}, "depth"),
        ({"question": "cloze"}, "question"),
        ({"answer_tokens": 32}, "answer"),
        ({"context_len": 1024}, "length"),
    ],
)
def test_each_departure_has_a_reason(changed: dict[str, object], word: str) -> None:
    assert [reason.split(":")[0] for reason in told("niah_multikey_3", **changed)] == [word]


def test_words_and_wording_are_disjoint_from_those_trained_on() -> None:
    assert len(set(ADJECTIVES)) == len(ADJECTIVES)
    assert len(set(NOUNS)) == len(NOUNS)
    trained = " ".join(WORDINGS).lower()
    asked = [text for variant in VARIANTS.values() for text in variant.around("ruler", ["|"])]
    for sentence in (NEEDLE.format(type_needle_v="numbers", key="|", value="|"), *asked):
        words = sentence.lower().split()
        assert not any(" ".join(words[i : i + 4]) in trained for i in range(len(words) - 3))
    assert "magic" not in trained
    assert not {word for word in re.findall(r"\w+", trained) if word in {*ADJECTIVES, *NOUNS}}
