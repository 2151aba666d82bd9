"""What is hidden and asked for: as many as the variant says, each once, in the form that RULER gives them."""

from __future__ import annotations

import itertools
import re

import pytest

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.tasks.needle.riddle import answer_ids, draw_candidates, draw_lines, draw_riddle, draw_wording
from ttbench.tasks.needle.ruler import VARIANTS
from ttbench.tasks.needle.wordings import NAMES

FORMS = {
    "words": r"[a-z]+-[a-z]+( [a-z]+)*",
    # seven digits, of which the first is not 0
    "numbers": r"[1-9]\d{6}",
    "uuids": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_keys_and_values_are_distinct_and_of_their_form(name: str) -> None:
    variant = VARIANTS[name]
    for trial in range(100):
        riddle = draw_riddle(variant, seed=3, trial=trial)
        values = list(itertools.chain.from_iterable(riddle.values))
        assert len(set(riddle.keys)) == len(riddle.keys) == len(riddle.values) == variant.num_keys
        assert {len(each) for each in riddle.values} == {variant.num_values}
        assert len(set(values)) == len(values)
        assert all(re.fullmatch(FORMS[variant.key], key) for key in riddle.keys)
        assert all(re.fullmatch(FORMS[variant.value], value) for value in values)
        assert 0 <= riddle.share < 1
        needles = [(key, value) for key, held in zip(riddle.keys, riddle.values, strict=True) for value in held]
        asked = variant.num_queries * variant.num_values
        assert list(riddle.asked(variant)) == needles[:asked]
        assert list(riddle.others(variant)) == needles[asked:]


def test_a_trial_hides_the_same_first_needle_in_every_variant_of_words_and_numbers() -> None:
    alike = [variant for variant in VARIANTS.values() if (variant.key, variant.value) == ("words", "numbers")]
    assert len(alike) > 3
    first = {draw_riddle(variant, seed=1, trial=2).asked(variant)[0] for variant in alike}
    assert len(first) == 1
    assert len({draw_riddle(alike[0], seed=1, trial=trial).asked(alike[0])[0] for trial in range(50)}) == 50
    assert len({draw_riddle(alike[0], seed=seed, trial=2).share for seed in range(50)}) == 50


def test_each_wording_comes_once_in_as_many_trials_as_there_are() -> None:
    orders = set()
    for lap in range(4):
        found = [draw_wording(seed=5, trial=lap * len(NAMES) + place) for place in range(len(NAMES))]
        assert sorted(found) == sorted(NAMES)
        orders.add(tuple(found))
    assert len(orders) == 4


def test_lines_of_a_haystack_are_needles_without_what_is_asked_for() -> None:
    variant = VARIANTS["niah_multikey_2"]
    riddle = draw_riddle(variant, seed=0, trial=1)
    lines = list(itertools.islice(draw_lines(variant, riddle, seed=0, trial=1), 300))
    assert len(set(lines)) > 290
    ((key, value),) = riddle.asked(variant)
    assert not any(key in line or value in line for line in lines)
    assert lines[0] == variant.needle(*re.fullmatch(r".* for (\S+) is: (\d{7})\.", lines[0]).groups())  # type: ignore[union-attr]


def test_candidates_are_the_value_and_others_of_its_length() -> None:
    tokenizer = ByteTokenizer()
    values, rows = draw_candidates("1234567", tokenizer, variant=VARIANTS["niah_single_2"], count=20, seed=0, trial=0)
    assert values[0] == "1234567"
    assert len(set(values)) == 20
    assert rows.shape == (20, 8)
    assert rows[0].tolist() == answer_ids("1234567", tokenizer).tolist() == list(b" 1234567")
