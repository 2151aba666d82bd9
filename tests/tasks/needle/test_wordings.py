"""Wordings of the needle task: a share holds for the way it was asked for, so trials are in several."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from needle_models import oracle, saying
from stub_engine import StubEngine, corpus_of, run_task

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.training_rows.keyed_rows import WORDINGS as TRAINED
from ttbench.errors import UsageError
from ttbench.runs.suite import find_suite, load_suite
from ttbench.tasks.needle.needle import Needle, NeedleParams
from ttbench.tasks.needle.prompts import rebuild
from ttbench.tasks.needle.riddle import draw_wording
from ttbench.tasks.needle.ruler import VARIANTS
from ttbench.tasks.needle.wordings import NAMES, RULER, WORDINGS

CORPUS = corpus_of(
    {f"book{i}": b"The river ran past stone walls. Nobody in town could say why. " * 60 for i in range(4)}
)


def measure(rule=oracle, **options):
    options = {"context_len": 900, "limit": 10, "depths": "0.5", "wording": "drawn", **options}
    return run_task(Needle(), engine=StubEngine(rule), corpus=CORPUS, **options)


def knows_all(history: tuple[int, ...]) -> np.ndarray:
    """Has read every wording of the package, and answers a question about what was stated in the same one."""
    text = bytes(token for token in history if token < 256).decode(errors="replace")
    for wording in WORDINGS.values():
        stated = re.search(
            re.escape(wording.needle)
            .replace(r"\{noun\}", "number")
            .replace(r"\{key\}", r"(\S+)")
            .replace(r"\{value\}", r"(\d+)"),
            text,
        )
        if stated is None:
            continue
        for ends in (wording.needle.split(" {value}")[0], wording.question):
            asked = "\n" + ends.format(noun="number", key=stated[1])
            if asked in text:
                return saying(f" {stated[2]}".encode(), text.rpartition(asked)[2].encode())
    return oracle(history)


def test_ten_trials_are_in_ten_wordings_and_rulers_own_is_one_of_them() -> None:
    assert len(NAMES) == 10
    for seed in range(3):
        drawn = [draw_wording(seed=seed, trial=trial) for trial in range(25)]
        assert set(drawn[:10]) == set(drawn[10:20]) == {RULER, *WORDINGS}
        assert max(Counter(drawn).values()) == 3
    assert [draw_wording(seed=0, trial=t) for t in range(10)] != [draw_wording(seed=1, trial=t) for t in range(10)]


@pytest.mark.parametrize("question", ["ruler", "cloze"])
def test_who_knows_one_wording_alone_scores_a_tenth_and_who_knows_all_scores_one(question: str) -> None:
    one, every = (measure(rule, question=question, scorer="generate") for rule in (oracle, knows_all))
    hits = {str(s.keys["wording"]): s.values["hits_generate"] for s in one}
    assert hits == {name: float(name == RULER) for name in NAMES}
    assert [s.values["hits_generate"] for s in every] == [1.0] * 10


def test_the_interval_counts_wordings_when_they_are_drawn_and_haystacks_when_not() -> None:
    drawn, fixed = measure(limit=20), measure(limit=20, wording="ruler")
    assert len({s.keys["draw"] for s in drawn}) == 10
    assert len({s.keys["haystack"] for s in drawn}) > 10
    assert {s.keys["draw"] for s in fixed} == {s.keys["haystack"] for s in fixed}
    assert {s.keys["wording"] for s in fixed} == {RULER}
    assert {metric.cluster for metric in Needle.metrics} == {"draw"}


def test_keys_values_and_places_are_those_of_the_same_trial_in_rulers_words() -> None:
    drawn, fixed = measure(), measure(wording="ruler")
    for one, other in zip(drawn, fixed, strict=True):
        assert one.evidence is not None
        assert other.evidence is not None
        assert one.evidence["value"] == other.evidence["value"]


@pytest.mark.parametrize("question", ["ruler", "cloze"])
def test_a_prompt_in_any_wording_is_rebuilt_from_its_row_and_states_what_it_asks(question: str) -> None:
    tokenizer = ByteTokenizer()
    for sample in measure(question=question):
        text = tokenizer.decode(rebuild(str(sample.keys["recipe"]), CORPUS, tokenizer)).decode()
        assert sample.evidence is not None
        value, wording = sample.evidence["value"], str(sample.keys["wording"])
        key = re.search(r'"keys":\["([^"]+)"\]', str(sample.keys["recipe"]))
        assert key is not None
        needle = VARIANTS["niah_single_2"].worded(wording).needle(key[1], value)
        assert text.count(needle) == 1
        assert text.count(value) == 1
        assert key[1] in text.rpartition("\n")[2]
        assert not text.endswith(" ")
        told = str(sample.keys["not_comparable_because"])
        assert (f"wording: {wording}" in told) == (wording != RULER)


def test_no_wording_is_one_that_the_zoo_was_trained_on_nor_another_s() -> None:
    trained = " ".join(TRAINED).lower()
    for wording in WORDINGS.values():
        assert wording.needle.endswith(" {value}.")
        words = re.sub(r"\{\w+\}", "|", wording.needle).lower().split()
        assert not any(" ".join(words[i : i + 4]) in trained for i in range(len(words) - 3))
    assert len({wording.needle for wording in WORDINGS.values()}) == 9


def test_several_values_are_asked_for_in_rulers_words_only() -> None:
    params = NeedleParams(protocol="niah_multiquery", depth_mode="ruler", wording="drawn")
    with pytest.raises(UsageError, match="asks for 4 values, which is worded as RULER words it only"):
        Needle().check(params)


def test_the_suite_draws_at_least_five_wordings() -> None:
    for entry in load_suite(find_suite("needle")).tasks:
        assert entry.params["wording"] == "drawn"
        trials = range(int(entry.params["limit"] or 0))
        assert len({draw_wording(seed=0, trial=trial) for trial in trials}) >= 5
