"""The recall task on models whose scores are known: one that solves it, one that guesses, one that is blind."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task, scattered

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.training_rows.puzzles import FIRST_PERMUTATION
from ttbench.errors import TooLongError, UnsupportedError, UsageError
from ttbench.report.statistics import stats
from ttbench.tasks.recall import sequences
from ttbench.tasks.recall.recall import Recall, RecallParams, chance_of, read_pairs, settled, trained_format
from ttbench.tasks.recall.sequences import ROW_KINDS, SequenceRecipe, make, rebuild
from ttbench.types import Checkpoint, Sample

CORPUS = corpus_of({"none": b"nothing"})
KINDS = ("mqar", "copy", "parity", "s5")
ELEMENTS = list(permutations(range(5)))
Solver = Callable[[list[int]], int]


class Engine(StubEngine):
    """A stub that has a state: its history, a byte a token."""

    @property
    def state_bytes(self) -> int:
        return sum(len(history) for history in self.histories)


def run(rule: Any, *, kind: str, context_len: int = 64, **params: Any) -> list[Sample]:
    given = {"form": "symbols", "limit": 8, **params}
    engine = Engine(rule, vocab_size=given.pop("vocab_size", 257))
    return run_task(Recall(), engine=engine, corpus=CORPUS, context_len=context_len, kind=kind, **given)


def share(samples: list[Sample]) -> float:
    return total(samples, "hits") / total(samples, "num_questions")


def total(samples: list[Sample], name: str) -> float:
    return sum(float(sample.values[name] or 0) for sample in samples)


def solve_mqar(read: list[int]) -> int:
    return read[read.index(read[-1]) + 1] if read[-1] in read[:-1] else 0


def solve_copy(read: list[int]) -> int:
    text = bytes(read[1:])
    string, _, copied = text.lstrip(b"|").partition(b"|")
    return (string + b"|")[len(copied)] if b"|" in text.lstrip(b"|") else 0


def solve_parity(read: list[int]) -> int:
    return ord("0") + read.count(ord("1")) % 2


def solve_s5(read: list[int]) -> int:
    places = list(range(5))
    for symbol in read[1:]:
        places = [ELEMENTS[symbol - FIRST_PERMUTATION][place] for place in places]
    return FIRST_PERMUTATION + ELEMENTS.index(tuple(places))


SOLVERS: dict[str, Solver] = {"mqar": solve_mqar, "copy": solve_copy, "parity": solve_parity, "s5": solve_s5}
ANSWERS = {
    "mqar": range(128),
    "copy": range(ord("a"), ord("z") + 1),
    "parity": range(ord("0"), ord("1") + 1),
    "s5": range(FIRST_PERMUTATION, FIRST_PERMUTATION + 120),
}


def sure_of(token: int) -> np.ndarray:
    log_probs = np.full(257, math.log(1e-6))
    log_probs[token] = math.log1p(-256e-6)
    return log_probs


def oracle(kind: str) -> Any:
    return lambda history: sure_of(SOLVERS[kind](list(history)))


def guessing(kind: str) -> Any:
    """Picks an answer of the right sort, whatever was read."""
    numbers = np.random.default_rng(7)
    drawn: dict[tuple[int, ...], int] = {}
    return lambda history: sure_of(drawn.setdefault(history, int(numbers.choice(ANSWERS[kind]))))


@pytest.mark.parametrize("context_len", [16, 63, 100, 129])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_solves_the_puzzle_answers_every_question(kind: str, context_len: int) -> None:
    samples = run(oracle(kind), kind=kind, context_len=context_len, limit=3)
    assert share(samples) == 1
    assert all(sum(s.evidence["answered"]) == s.values["num_questions"] for s in samples if s.evidence)
    assert total(samples, "nats") < 1e-2 * total(samples, "num_questions")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_guesses_scores_the_chance_in_its_rows(kind: str) -> None:
    samples = run(guessing(kind), kind=kind, limit=40)
    (chance,) = {float(sample.values["chance"] or 0) for sample in samples}
    assert chance == pytest.approx(1 / len(ANSWERS[kind]), rel=0.04)
    hits, questions = ([float(s.values[name] or 0) for s in samples] for name in ("hits", "num_questions"))
    made = stats.estimate_proportion(hits, questions)
    assert made.low is not None
    assert made.high is not None
    assert made.low <= chance <= made.high
    assert total(samples, "chance_hits") == pytest.approx(total(samples, "num_questions") * chance)


@pytest.mark.parametrize("kind", ["mqar", "parity", "s5"])
def test_a_model_that_sees_the_last_symbol_alone_scores_about_chance(kind: str) -> None:
    allowed = np.isin(np.arange(257), list(ANSWERS[kind]))
    blind = scattered(257)
    samples = run(lambda h: np.where(allowed, blind(h[-1:]), -50.0), kind=kind, limit=40)
    chance, questions = 1 / len(ANSWERS[kind]), total(samples, "num_questions")
    assert abs(share(samples) - chance) < 5 * math.sqrt(chance * (1 - chance) / questions) + 0.01


@pytest.mark.parametrize("context_len", [16, 31, 32, 53, 64, 129])
@pytest.mark.parametrize("kind", KINDS)
def test_no_single_answer_is_expected_to_beat_chance(
    kind: str, context_len: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = ByteTokenizer()
    # found once: each text would look all 256 bytes up again
    byte_ids = sequences._byte_ids(tokenizer)
    monkeypatch.setattr(sequences, "_byte_ids", lambda tokenizer: byte_ids)
    recipe = SequenceRecipe(
        kind=kind,  # pyright: ignore[reportArgumentType]
        form="symbols",
        context_len=context_len,
        pairs=4 if kind == "mqar" else None,
        seed=0,
        trial=0,
        tokenizer="b",
    )
    made = [make(dataclasses.replace(recipe, trial=trial), tokenizer) for trial in range(200)]
    asked = np.concatenate([each.targets[each.questions >= 0] for each in made])
    best = np.bincount(asked).max() / len(asked)
    chance = chance_of(recipe, num_questions=made[0].num_questions)
    error = math.sqrt(chance * (1 - chance) / len(asked))
    # the most frequent of many equally likely answers is a little above each
    assert chance - 3 * error <= best <= chance + 4 * error


def test_a_model_that_always_says_bar_scores_the_chance_of_a_short_string() -> None:
    samples = run(lambda history: sure_of(ord("|")), kind="copy", context_len=32)
    assert share(samples) == total(samples, "chance_hits") / total(samples, "num_questions") == 1 / 16


def test_a_model_that_names_a_stated_value_scores_one_over_the_pairs() -> None:
    numbers = np.random.default_rng(5)
    rule = lambda history: sure_of(int(numbers.choice(history[2:17:2])))  # noqa: E731
    samples = run(rule, kind="mqar", pairs="8", limit=150)
    assert {sample.values["chance_stated"] for sample in samples} == {1 / 8}
    # the stub's rule is asked once for nats and once for the likeliest token; only the latter counts
    assert share(samples) == pytest.approx(1 / 8, abs=0.035)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_asks_the_same_and_another_seed_something_else(kind: str) -> None:
    one, two, other = (
        [s.evidence["ids"] for s in run(oracle(kind), kind=kind, limit=2, seed=seed) if s.evidence]
        for seed in (0, 0, 1)
    )
    assert one == two
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_batches_do_not_change_what_is_answered() -> None:
    rule = scattered(257)
    made = [[s.values for s in run(rule, kind="mqar", batch_size=size, limit=3)] for size in (1, 5)]
    assert [v["hits"] for v in made[0]] == [v["hits"] for v in made[1]]
    assert [v["nats"] for v in made[0]] == pytest.approx([v["nats"] for v in made[1]])
    assert [v["state_bytes"] for v in made[0]] == [v["state_bytes"] for v in made[1]] == [64] * len(made[0])


def test_without_names_every_power_of_two_that_fits_is_asked() -> None:
    samples = run(oracle("mqar"), kind="mqar", context_len=150, limit=2)
    assert [sample.keys["pairs"] for sample in samples] == [4, 4, 8, 8, 16, 16, 32, 32]
    assert [sample.values["num_questions"] for sample in samples] == [4, 4, 8, 8, 16, 16, 32, 32]
    assert len({sample.keys["sequence"] for sample in samples}) == len(samples)


@pytest.mark.parametrize("kind", ["parity", "s5"])
def test_state_is_asked_for_in_the_second_half_so_that_doubling_contexts_share_no_place(kind: str) -> None:
    for context_len in (16, 63, 64):
        asked = [s.evidence["asked_after"] for s in run(oracle(kind), kind=kind, context_len=context_len) if s.evidence]
        assert all(places == list(range(context_len // 2, context_len)) for places in asked)


@pytest.mark.parametrize("kind", KINDS)
def test_the_evidence_holds_only_places_that_are_read_and_answers_that_are_not(kind: str) -> None:
    for sample in run(oracle(kind), kind=kind, limit=3):
        assert sample.evidence is not None
        ids, places = sample.evidence["ids"], sample.evidence["asked_after"]
        # the right answer follows from what stands before: nothing after a place is needed
        answers = [SOLVERS[kind](ids[: place + 1]) for place in places]
        assert answers == sample.evidence["target_ids"]


def test_a_recipe_rebuilds_its_sequence_and_refuses_another_tokenizer() -> None:
    tokenizer = ByteTokenizer()
    for kind, form in (("mqar", "symbols"), ("s5", "symbols"), ("mqar", "text"), ("copy", "text")):
        samples = run(oracle("parity"), kind=kind, form=form, context_len=256, limit=2)
        for sample in samples:
            assert sample.evidence is not None
            found = rebuild(str(sample.keys["recipe"]), tokenizer)
            assert found.ids.tolist() == sample.evidence["ids"]
    with pytest.raises(UsageError, match="made with the tokenizer of digest"):
        rebuild(str(samples[0].keys["recipe"]), PairTokenizer())


@pytest.mark.parametrize("context_len", [256, 400, 1024])
def test_sentences_ask_for_values_that_they_stated_and_fit_the_context(context_len: int) -> None:
    tokenizer = ByteTokenizer()
    for kind, pairs in (("mqar", context_len // 128), ("copy", None)):
        for trial in range(10):
            recipe = SequenceRecipe(
                kind=kind,  # pyright: ignore[reportArgumentType]
                form="text",
                context_len=context_len,
                pairs=pairs,
                seed=0,
                trial=trial,
                tokenizer=tokenizer.digest,
            )
            made = make(recipe, tokenizer)
            text = tokenizer.decode(made.ids)
            assert len(made.ids) < context_len
            assert pairs in (None, made.num_questions)
            for question in range(made.num_questions):
                mine = np.flatnonzero(made.questions == question)
                answer = bytes(made.targets[mine].tolist())
                # stated before, and after it the model reads what it was asked for
                assert answer in text[: mine[0]]
                assert mine.tolist() == list(range(mine[0], mine[-1] + 1))


def test_a_model_that_repeats_what_followed_before_answers_sentences() -> None:
    def repeat(history: tuple[int, ...]) -> np.ndarray:
        text = bytes(token for token in history if token < 256)
        for length in range(24, 0, -1):
            place = text.find(text[-length:], 0, len(text) - 1)
            if len(text) > length and place >= 0:
                return sure_of(text[place + length])
        return sure_of(0)

    assert share(run(repeat, kind="mqar", form="text", context_len=256, limit=4)) > 0.9
    assert share(run(scattered(257), kind="mqar", form="text", context_len=256, limit=4)) < 0.1


def test_symbols_are_tokens_of_one_byte_in_a_tokenizer_of_many() -> None:
    tokenizer = PairTokenizer()
    made = make(
        SequenceRecipe(kind="mqar", form="symbols", context_len=64, pairs=4, seed=0, trial=0, tokenizer="pairs"),
        tokenizer,
    )
    assert (tokenizer.byte_lengths(made.ids) == 1).all()
    # no BOS: nothing is read before the first symbol
    assert len(made.ids) == 63
    byte = make(
        SequenceRecipe(kind="mqar", form="symbols", context_len=64, pairs=4, seed=0, trial=0, tokenizer="b"),
        ByteTokenizer(),
    )
    assert tokenizer.decode(made.ids) == ByteTokenizer().decode(byte.ids)
    assert [t for t in made.targets if t >= 0] == [t for t in byte.targets if t >= 0]


def test_a_tokenizer_without_single_bytes_is_refused_by_symbols() -> None:
    class Coarse(PairTokenizer):
        def byte_lengths(self, ids: np.ndarray) -> np.ndarray:
            return np.full(len(ids), 2)

    with pytest.raises(UnsupportedError, match="no token for some single bytes"):
        make(
            SequenceRecipe(kind="s5", form="symbols", context_len=64, pairs=None, seed=0, trial=0, tokenizer="x"),
            Coarse(),
        )


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"pairs": "4,x"}, "pairs are '4,x'"),
        ({"pairs": "4,4"}, "give different whole numbers"),
        ({"kind": "parity", "pairs": "4"}, "parity has no pairs"),
        ({"kind": "s5", "form": "text"}, "s5 has no form text"),
    ],
)
def test_parameters_without_meaning_are_refused_in_words(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Recall().check(RecallParams(**params))


def test_contexts_that_cannot_be_are_answers() -> None:
    with pytest.raises(UnsupportedError, match="room for 16 pairs in form symbols; there are 128 keys; got 32"):
        run(oracle("mqar"), kind="mqar", pairs="8,32")
    with pytest.raises(UnsupportedError, match="room for 1 pairs in form text; each takes 128 tokens; got 2"):
        run(oracle("mqar"), kind="mqar", form="text", pairs="2", context_len=200)
    with pytest.raises(UnsupportedError, match="16 tokens or more; got 8"):
        run(oracle("parity"), kind="parity", context_len=8)
    with pytest.raises(UnsupportedError, match=r"room for 0 pairs in form text; .* got 1: ask for a longer context"):
        run(oracle("mqar"), kind="mqar", form="text", context_len=64)
    engine = Engine(oracle("parity"), max_context=32)
    with pytest.raises(TooLongError, match="at most 32"):
        run_task(Recall(), engine=engine, corpus=CORPUS, context_len=64, kind="parity", form="symbols")


@pytest.mark.parametrize(
    ("params", "context_len"),
    [({"kind": "mqar"}, 64), ({"kind": "mqar", "form": "symbols"}, 8), ({"kind": "mqar", "pairs": "64"}, 256)],
)
def test_a_context_that_is_too_short_stops_no_plan(params: dict[str, Any], context_len: int) -> None:
    # the cell ends with a status of its own, and the rest of the sweep is measured
    assert Recall().tokens(RecallParams(**params), context_len) > 0


def test_the_plan_fills_in_the_form() -> None:
    assert [settled(RecallParams(kind=kind)).form for kind in ("mqar", "copy", "parity", "s5")] == [
        *("text", "text", "symbols", "symbols")
    ]
    assert read_pairs("16, 4") == (4, 16)
    assert Recall().tokens(RecallParams(form="symbols", limit=2), 64) == 2 * 64 * 3


def test_rows_say_whether_the_checkpoint_was_trained_on_the_format() -> None:
    recipe = SequenceRecipe(kind="copy", form="symbols", context_len=64, pairs=None, seed=0, trial=0, tokenizer="b")
    fields = {field.name: None for field in dataclasses.fields(Checkpoint)}
    made = lambda **values: Checkpoint(**{**fields, **values})  # noqa: E731
    assert trained_format(recipe, made(provenance="local", train_kinds=("copying",))) is True
    assert trained_format(recipe, made(provenance="local", train_kinds=("copy",))) is False
    assert trained_format(recipe, made(provenance="zoo")) is False
    assert trained_format(dataclasses.replace(recipe, form="text"), made(provenance="zoo")) is True
    assert trained_format(recipe, made(provenance="hub")) is None
    assert json.loads(recipe.to_text())["kind"] == "copy"
    assert set(ROW_KINDS["symbols"]) == set(KINDS)


class WideTokenizer(ByteTokenizer):
    """A token for every four bytes: a context holds several times as many bytes as tokens."""

    name = "wide"

    def encode(self, text: bytes) -> np.ndarray:
        return np.frombuffer(text, dtype=np.uint8)[::4].astype(np.int64)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), PairTokenizer(), WideTokenizer()], ids=["byte", "pair", "wide"])
@pytest.mark.parametrize("context_len", [256, 700, 2048])
def test_sentences_fill_the_context_in_the_checkpoint_s_own_tokens(tokenizer: Any, context_len: int) -> None:
    for kind, pairs in (("mqar", 2), ("copy", None)):
        for trial in range(4):
            recipe = SequenceRecipe(
                kind=kind,  # pyright: ignore[reportArgumentType]
                form="text",
                context_len=context_len,
                pairs=pairs,
                seed=0,
                trial=trial,
                tokenizer=tokenizer.digest,
            )
            made = make(recipe, tokenizer)
            # a sentence and a string with its filler are less than 75 bytes
            assert context_len - 75 <= len(made.ids) < context_len
            assert pairs in (None, made.num_questions)
            assert made.num_stated is None or made.num_stated >= 2


def test_the_pairs_asked_for_do_not_depend_on_the_tokenizer() -> None:
    recipe = SequenceRecipe(kind="mqar", form="text", context_len=1024, pairs=4, seed=0, trial=0, tokenizer="any")
    asked = []
    for tokenizer in (ByteTokenizer(), PairTokenizer()):
        made = make(recipe, tokenizer)
        asked.append([tokenizer.decode(made.targets[made.questions == number]) for number in range(4)])
    assert asked[0] == asked[1]


def test_a_row_says_what_was_read_and_what_naming_a_stated_value_is_worth() -> None:
    for sample in run(scattered(257), kind="mqar", form="text", context_len=600, pairs="2", limit=3):
        assert sample.evidence is not None
        assert sample.values["sequence_tokens"] == len(sample.evidence["ids"]) > 500
        assert 0 < float(sample.values["chance_stated"] or 0) < 1 / 4
