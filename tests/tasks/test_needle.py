from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task, scattered, uniform

from ttbench.errors import TooLongError, TooShortError, UnsupportedError, UsageError
from ttbench.harness.data import open_corpus
from ttbench.harness.eager import EagerEngine
from ttbench.harness.mixture import WORDINGS
from ttbench.harness.tokenizer import ByteTokenizer
from ttbench.registry import ARCHITECTURES
from ttbench.tasks.haystack import (
    ADJECTIVES,
    NEEDLE,
    NOUNS,
    QUESTIONS,
    Recipe,
    draw_candidates,
    draw_riddle,
    gather,
    lay_prompt,
    rebuild,
    write_recipes,
)
from ttbench.tasks.needle import Needle, NeedleParams, read_depths, score_choice

BYTES = ByteTokenizer()
WORDS = "the river ran past stone walls while nobody in town could say where it came from".split()
STATED = re.compile(rb"One of the special magic numbers for (\S+) is: (\d{7})\.")
ASKED = re.compile(
    rb"\n(?:.*The special magic number for (\S+) mentioned in the provided text is"
    rb"|One of the special magic numbers for (\S+) is:)(.*)$"
)


def prose(num_sentences: int, *, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORDS, size=rng.integers(5, 20))).capitalize() + "." for _ in range(num_sentences)]
    return " ".join(sentences).encode()


CORPUS = corpus_of({f"book{i}": prose(60, seed=i) for i in range(4)})


def oracle(history: tuple[int, ...]) -> np.ndarray:
    """Knows the value once it was stated, and says it as soon as it is asked."""
    text = bytes(token for token in history if token < 256)
    log_probs = np.full(257, -math.log(257))
    asked, stated = ASKED.search(text), dict(STATED.findall(text))
    if asked:
        value = stated.get(asked[1] or asked[2])
        answer = b" " + value if value else b""
        if len(asked[3]) < len(answer) and answer.startswith(asked[3]):
            log_probs[:] = math.log(0.01 / 256)
            log_probs[answer[len(asked[3])]] = math.log(0.99)
    return log_probs


def noisy(history: tuple[int, ...]) -> np.ndarray:
    """Blind, yet different at every length of prompt: what rounding and position do, made large."""
    return scattered(257)((len(history), *history[-9:]))


def nearsighted(history: tuple[int, ...]) -> np.ndarray:
    """Blind: the last 40 tokens decide."""
    return scattered(257)(history[-40:])


def measure(engine: StubEngine | EagerEngine | None = None, *, corpus=CORPUS, context_len: int = 1024, **options):
    return run_task(Needle(), engine=engine or StubEngine(oracle), corpus=corpus, context_len=context_len, **options)


def total(samples, column: str) -> float:
    return sum(sample.values[column] or 0 for sample in samples)


def hits(samples, scorer: str) -> float:
    return total(samples, f"hits_{scorer}") / len(samples)


@pytest.mark.parametrize("question", ["ruler", "cloze"])
def test_an_oracle_scores_one(question: str) -> None:
    samples = measure(question=question, limit=3)
    assert len(samples) == 15
    assert hits(samples, "generate") == hits(samples, "choice") == 1


def test_a_blind_model_scores_chance() -> None:
    samples = measure(StubEngine(nearsighted), limit=4, answer_tokens=8)
    assert hits(samples, "generate") == 0
    # The needle changes nothing, so that all ten candidates tie, and a tie of ten is a tenth.
    assert {sample.values["hits_choice"] for sample in samples} == {0.1}


def test_a_blind_model_with_noise_recognises_one_in_ten() -> None:
    samples = measure(StubEngine(noisy), limit=120, depths="0.5", scorer="choice")
    assert abs(hits(samples, "choice") - 0.1) < 3 * math.sqrt(0.1 * 0.9 / 120)


def test_a_tie_of_k_scores_one_in_k() -> None:
    control = np.zeros(4)
    assert score_choice(np.array([-1.0, -1.0, 0.0, 0.0]), control) == 0.5
    assert score_choice(np.array([-1.0, -1.0 + 1e-6, 0.0, 0.0]), control) == 0.5
    assert score_choice(np.array([-1.0, -1.5, 0.0, 0.0]), control) == 0
    assert score_choice(np.array([-1.0, -0.5, 0.0, 0.0]), control) == 1
    assert score_choice(np.array([9.0, 4.0]), np.array([10.0, 4.5])) == 1


@pytest.mark.parametrize("question", ["ruler", "cloze"])
@pytest.mark.parametrize("depths", ["0,0.25,0.5,0.75,1", "0.1,0.9", "0.5"])
def test_sharing_prefixes_changes_no_answer_and_counts_what_was_read(question: str, depths: str) -> None:
    readings = {}
    for share in (True, False):
        engine = StubEngine(scattered(257))
        samples = measure(engine, question=question, depths=depths, limit=2, answer_tokens=9, share_prefixes=share)
        steps = len(samples) * 9 + (len(samples) + 2) * 10 * 8
        counted = total(samples, "prefilled_tokens")
        # generate reads one token per token written but the last; candidates read as many tokens as they have
        assert counted == engine.num_read - steps + len(samples) * 8
        readings[share] = counted, [(sample.keys, sample.evidence) for sample in samples]
    assert readings[True][1] == readings[False][1]
    assert readings[True][0] < readings[False][0]


@pytest.mark.parametrize(("depths", "prefills"), [("0.2,0.4,0.6,0.8,1", 3.0), ("0,0.25,0.5,0.75,1", 3.5)])
def test_evenly_spread_depths_cost_about_half_as_many_prefills(depths: str, prefills: float) -> None:
    samples = measure(
        StubEngine(uniform(257)), depths=depths, limit=3, context_len=8192, answer_tokens=1, scorer="choice"
    )
    counted = total(samples, "prefilled_tokens") / 3 / 8192
    assert counted == pytest.approx(prefills, rel=0.1)
    assert total(samples, "prefilled_tokens") <= Needle().tokens(NeedleParams(depths=depths, limit=3), 8192)


@pytest.mark.parametrize("scorer", ["generate", "choice"])
def test_a_scorer_alone_agrees_with_both(scorer: str) -> None:
    both = measure(StubEngine(scattered(257)), limit=1, depths="0,0.6")
    alone = measure(StubEngine(scattered(257)), limit=1, depths="0,0.6", scorer=scorer)
    other = "choice" if scorer == "generate" else "generate"
    for a, b in zip(alone, both, strict=True):
        assert a.values[f"hits_{scorer}"] == b.values[f"hits_{scorer}"]
        assert a.values[f"hits_{other}"] is None
        assert a.values["value_nats"] == (b.values["value_nats"] if scorer == "choice" else None)


@pytest.mark.parametrize("tokenizer", [BYTES, PairTokenizer()], ids=lambda tokenizer: tokenizer.name)
def test_a_recipe_rebuilds_the_prompt_that_was_scored(tokenizer) -> None:
    engine = StubEngine(lambda history: np.full(tokenizer.vocab_size, -1.0), vocab_size=tokenizer.vocab_size)
    samples = measure(engine, tokenizer=tokenizer, context_len=600, limit=3, scorer="choice")
    assert len({sample.keys["recipe"] for sample in samples}) == 15
    for sample in samples:
        ids = rebuild(str(sample.keys["recipe"]), CORPUS, tokenizer)
        assert tuple(ids) in engine.prompts_scored
        assert len(ids) == sample.values["prompt_tokens"]
        assert tokenizer.byte_lengths(ids).sum() == sample.values["prompt_bytes"]
        assert sample.evidence is not None
        assert tokenizer.decode(ids).endswith(sample.evidence["prompt_end"].encode())
        fields = json.loads(str(sample.keys["recipe"]))
        assert np.array_equal(rebuild(fields, CORPUS, tokenizer), ids)
        assert np.array_equal(rebuild(Recipe(**fields), CORPUS, tokenizer), ids)


def test_a_recipe_is_refused_with_another_corpus_or_tokenizer() -> None:
    recipe = str(measure(StubEngine(uniform(257)), limit=1, depths="0.5", scorer="choice")[0].keys["recipe"])
    with pytest.raises(UsageError, match="corpus of digest"):
        rebuild(recipe, corpus_of({"other": prose(200, seed=7)}), BYTES)
    with pytest.raises(UsageError, match="tokenizer of digest"):
        rebuild(recipe, CORPUS, PairTokenizer())


@pytest.mark.parametrize("question", ["ruler", "cloze"])
@pytest.mark.parametrize("context_len", [512, 1000, 4096])
def test_prompt_and_answer_fill_the_context_to_the_token(context_len: int, question: str) -> None:
    samples = measure(StubEngine(uniform(257)), limit=2, context_len=context_len, question=question, answer_tokens=20)
    assert {sample.values["prompt_tokens"] for sample in samples} == {context_len - 20}


def test_a_prompt_reads_as_drawn_in_the_documentation() -> None:
    sample = measure(StubEngine(uniform(257)), limit=1, depths="0.5", question="ruler")[0]
    recipe = json.loads(str(sample.keys["recipe"]))
    text = BYTES.decode(rebuild(recipe, CORPUS, BYTES)).decode()
    key, value = recipe["key"], recipe["value"]
    assert text.startswith(
        "A special magic number is hidden within the following text. Make sure to memorize it. I will"
    )
    assert f". One of the special magic numbers for {key} is: {value}. " in text
    assert text.count(value) == 1
    assert text.endswith(
        f"\nWhat is the special magic number for {key} mentioned in the provided text? "
        f"The special magic number for {key} mentioned in the provided text is"
    )


@pytest.mark.parametrize("name", ["kjv", "code"])
@pytest.mark.parametrize("context_len", [1024, 32_768])
def test_a_needle_lies_within_a_sentence_of_its_depth(name: str, context_len: int) -> None:
    corpus = open_corpus(name)
    hay = gather(corpus, BYTES)
    depths = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    for trial in range(5):
        riddle = draw_riddle(seed=0, trial=trial)
        recipes = write_recipes(
            hay,
            BYTES,
            riddle,
            depths=depths,
            context_len=context_len,
            answer_len=32,
            question="ruler",
            seed=0,
            trial=trial,
        )
        for recipe in recipes:
            prompt = lay_prompt(recipe, hay, BYTES)
            text = BYTES.decode(prompt.ids)
            needle = NEEDLE.format(key=riddle.key, value=riddle.value).encode()
            assert abs(text.index(needle) - (prompt.needle_index - 1)) <= 1
            ends = (
                hay.ends[(hay.ends > recipe.offset) & (hay.ends < recipe.offset + recipe.haystack_len)] - recipe.offset
            )
            target = round(recipe.depth * recipe.haystack_len)
            between = np.sort([0, *ends, recipe.haystack_len])
            place = np.searchsorted(between, target, side="right")
            low, high = between[place - 1], between[min(place, len(between) - 1)]
            assert low <= recipe.insert_at <= high
            if recipe.depth in (0, 1):
                assert recipe.insert_at == target


def test_haystacks_begin_with_a_sentence_and_stand_in_the_document_named() -> None:
    for name in ("kjv", "code"):
        corpus = open_corpus(name)
        hay = gather(corpus, BYTES)
        texts = {document.name: document.text for document in corpus.documents("test")}
        for trial in range(20):
            recipe = write_recipes(
                hay,
                BYTES,
                draw_riddle(seed=1, trial=trial),
                depths=(0.5,),
                context_len=2048,
                answer_len=8,
                question="cloze",
                seed=1,
                trial=trial,
            )[0]
            before, after = hay.ids[recipe.offset - 1], hay.ids[recipe.offset : recipe.offset + 30]
            assert not bytes([after[0]]).isspace()
            assert recipe.offset == 0 or bytes([before]).isspace()
            assert BYTES.decode(after) in texts[recipe.document] + b"\n" * 30


def test_key_value_and_place_are_the_same_at_every_length_and_differ_between_trials_and_seeds() -> None:
    def drawn(**options):
        samples = measure(StubEngine(uniform(257)), depths="0.5", scorer="choice", **options)
        recipes = [json.loads(str(sample.keys["recipe"])) for sample in samples]
        return [(recipe["key"], recipe["value"]) for recipe in recipes]

    assert drawn(limit=3, context_len=600) == drawn(limit=3, context_len=2000)
    assert drawn(limit=3) == drawn(limit=5)[:3]
    assert len(set(drawn(limit=10))) == 10
    assert drawn(limit=3, seed=1) != drawn(limit=3)
    assert draw_riddle(seed=0, trial=4) == draw_riddle(seed=0, trial=4)


def test_trials_with_one_haystack_are_one_cluster() -> None:
    samples = measure(StubEngine(uniform(257)), limit=3, scorer="choice")
    assert len({sample.keys["haystack"] for sample in samples}) == 3
    assert [sample.keys["depth"] for sample in samples] == [0.0, 0.25, 0.5, 0.75, 1.0] * 3


def test_candidates_are_distinct_and_of_equal_length_in_bytes_and_tokens() -> None:
    values, ids = draw_candidates("1234567", PairTokenizer(), count=10, seed=0, trial=0)
    assert values[0] == "1234567"
    assert len(set(values)) == 10
    assert all(re.fullmatch(r"[1-9]\d{6}", value) for value in values)
    assert ids.shape == (10, 4)


def test_too_few_candidates_of_a_length_are_an_answer_that_says_so() -> None:
    class Lucky(PairTokenizer):
        def encode(self, text: bytes) -> np.ndarray:
            return np.zeros(1, np.int64) if text == b" 1234567" else super().encode(text)

    with pytest.raises(UnsupportedError, match="only 1 of 10 candidates"):
        draw_candidates("1234567", Lucky(), count=10, seed=0, trial=0)


def test_words_and_wording_are_disjoint_from_those_trained_on() -> None:
    assert len(set(ADJECTIVES)) == len(ADJECTIVES)
    assert len(set(NOUNS)) == len(NOUNS)
    trained = " ".join(WORDINGS).lower()
    for sentence in (NEEDLE, *QUESTIONS.values()):
        words = sentence.lower().replace("{key}", "|").replace("{value}", "|").split()
        assert not any(" ".join(words[i : i + 4]) in trained for i in range(len(words) - 3))
    assert "magic" not in trained
    assert not {word for word in re.findall(r"\w+", trained) if word in {*ADJECTIVES, *NOUNS}}


@pytest.mark.parametrize(("question", "least"), [("ruler", 445), ("cloze", 232)])
def test_a_context_without_room_for_a_haystack_is_unsupported_and_says_what_to_ask_for(
    question: str, least: int
) -> None:
    with pytest.raises(UnsupportedError, match=r"ask for at least \d+") as caught:
        measure(context_len=128, question=question, limit=1)
    needed = int(str(caught.value).rsplit(" ", 1)[1])
    assert abs(needed - least) < 40
    assert len(measure(StubEngine(uniform(257)), context_len=needed, question=question, limit=1)) == 5


def test_a_corpus_shorter_than_the_haystack_is_too_short() -> None:
    with pytest.raises(TooShortError, match="ask for at most"):
        measure(context_len=1_000_000)


def test_a_checkpoint_with_less_room_than_the_context_is_too_long_and_nothing_is_cut() -> None:
    with pytest.raises(TooLongError, match="takes at most 1,023"):
        measure(StubEngine(oracle, max_context=1023))
    assert len(measure(StubEngine(uniform(257), max_context=1024), limit=1)) == 5


@pytest.mark.parametrize("text", ["", "0,2", "-0.1", "a", "0.5,0.5", "nan"])
def test_depths_must_be_different_shares(text: str) -> None:
    with pytest.raises(UsageError, match="needle depths"):
        read_depths(text)


def test_depths_are_sorted() -> None:
    assert read_depths("1, 0,0.5") == (0.0, 0.5, 1.0)


@pytest.mark.parametrize(("name", "value"), [("limit", 0), ("candidates", 1), ("answer_tokens", 0)])
def test_counts_that_mean_nothing_are_refused(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        Needle().check(dataclasses.replace(NeedleParams(), **{name: value}))


def test_generate_matches_by_containment() -> None:
    def chatty(history: tuple[int, ...]) -> np.ndarray:
        text = bytes(token for token in history if token < 256)
        stated = STATED.search(text)
        answer = b" the number " + (stated[2] if stated else b"0000000") + b", I think."
        written = text.rsplit(b"provided text is", 1)[1] if b"?" in text else b""
        log_probs = np.full(257, -20.0)
        log_probs[answer[len(written)] if len(written) < len(answer) else 10] = 0.0
        return log_probs

    assert hits(measure(StubEngine(chatty), limit=1, scorer="generate", question="ruler"), "generate") == 1
    assert hits(measure(StubEngine(chatty), limit=1, scorer="generate", answer_tokens=8), "generate") == 0


def test_metrics_name_columns_that_samples_have() -> None:
    sample = measure(StubEngine(uniform(257)), limit=1)[0]
    for metric in Needle.metrics:
        assert {metric.numerator, metric.denominator, metric.cluster, *metric.axes} - {"context_len"} <= {
            *sample.keys,
            *sample.values,
        }


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_model_answers_the_same_with_and_without_shared_prefixes(architecture: str) -> None:
    torch.manual_seed(0)
    engine = EagerEngine(ARCHITECTURES.load(architecture).tiny(vocab_size=257), device="cpu", dtype="float64")
    shared, apart = (
        measure(engine, context_len=300, question="cloze", limit=1, answer_tokens=9, share_prefixes=share)
        for share in (True, False)
    )
    for a, b in zip(shared, apart, strict=True):
        assert a.evidence is not None
        assert b.evidence is not None
        assert a.keys == b.keys
        assert a.evidence["answer"] == b.evidence["answer"]
        assert a.evidence["nats"] == pytest.approx(b.evidence["nats"], abs=2e-5)
        assert a.values["hits_choice"] == b.values["hits_choice"]
