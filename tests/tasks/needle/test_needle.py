from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from needle_models import ASKED, STATED, Elephant, asked_keys, nearsighted, noisy, oracle, saying, told
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task, scattered, uniform

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.engines.eager import EagerEngine
from ttbench.errors import LeakError, TooLongError, TooShortError, UnsupportedError, UsageError
from ttbench.registry import ARCHITECTURES
from ttbench.tasks.needle.judge import score_choice
from ttbench.tasks.needle.needle import Needle, NeedleParams, read_depths, settled
from ttbench.tasks.needle.prompts import rebuild
from ttbench.tasks.needle.ruler import VARIANTS

BYTES = ByteTokenizer()
ONE_VALUE = [name for name, variant in VARIANTS.items() if variant.num_answers == 1]
WORDS = "the river ran past stone walls while nobody in town could say where it came from".split()


def prose(num_sentences: int, *, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    sentences = [" ".join(rng.choice(WORDS, size=rng.integers(5, 20))).capitalize() + "." for _ in range(num_sentences)]
    return " ".join(sentences).encode()


CORPUS = corpus_of({f"book{i}": prose(60, seed=i) for i in range(4)})


def measure(engine: StubEngine | EagerEngine | None = None, *, corpus=CORPUS, context_len: int = 1024, **options):
    return run_task(Needle(), engine=engine or StubEngine(oracle), corpus=corpus, context_len=context_len, **options)


def total(samples, column: str) -> float:
    return sum(sample.values[column] or 0 for sample in samples)


def hits(samples, scorer: str) -> float:
    return total(samples, f"hits_{scorer}") / len(samples)


@pytest.mark.parametrize("question", ["ruler", "cloze"])
@pytest.mark.parametrize("protocol", ONE_VALUE)
def test_an_oracle_scores_one_at_every_depth(protocol: str, question: str) -> None:
    samples = measure(protocol=protocol, question=question, limit=2, scorer="all", depths="0,0.5,1")
    assert len(samples) == 6
    assert hits(samples, "generate") == hits(samples, "choice") == hits(samples, "loglik") == 1


@pytest.mark.parametrize("protocol", VARIANTS)
def test_an_oracle_scores_one_at_drawn_depths(protocol: str) -> None:
    samples = measure(protocol=protocol, depth_mode="ruler", limit=3, context_len=1200)
    assert [sample.keys["depth"] for sample in samples] == [None] * 3
    assert hits(samples, "generate") == 1


@pytest.mark.parametrize("protocol", VARIANTS)
def test_a_blind_model_retrieves_nothing(protocol: str) -> None:
    samples = measure(StubEngine(nearsighted), protocol=protocol, depth_mode="ruler", limit=3, context_len=1200)
    assert hits(samples, "generate") == 0


def test_who_finds_two_values_of_four_scores_a_half() -> None:
    def half(history: tuple[int, ...]) -> np.ndarray:
        text = bytes(token for token in history if token < 256)
        asked = ASKED.search(text)
        stated = dict(STATED.findall(text))
        values = [stated[key] for key in asked_keys(asked) if key in stated][::2] if asked else []
        return saying(b" " + b" / ".join(values) if values else b"", asked[3] if asked else b"-")

    samples = measure(StubEngine(half), protocol="niah_multiquery", depth_mode="ruler", limit=4, context_len=1200)
    assert {sample.values["hits_generate"] for sample in samples} == {0.5}


@pytest.mark.parametrize("scorer", ["both", "all", "generate", "loglik", "choice"])
@pytest.mark.parametrize("share", [True, False], ids=["shared", "apart"])
@pytest.mark.parametrize("cheat", [lambda: StubEngine(told), Elephant], ids=["told", "elephant"])
def test_a_cheat_is_refused(cheat, share: bool, scorer: str) -> None:
    with pytest.raises(LeakError, match=r"trial 0: the value \d{7} (is written|costs 0\.\d\d nats) after the prompt"):
        measure(cheat(), limit=1, depths="0.2,0.8", scorer=scorer, share_prefixes=share)


def test_a_cheat_is_refused_at_drawn_depths() -> None:
    with pytest.raises(LeakError):
        measure(Elephant(), protocol="niah_multivalue", depth_mode="ruler", limit=1, context_len=1200)


def test_log_likelihoods_are_those_of_the_value_and_greedy_is_told_apart() -> None:
    samples = measure(limit=2, scorer="loglik", depths="0.5")
    for sample in samples:
        assert sample.values["loglik_tokens"] == 8
        assert sample.values["loglik_nats"] == pytest.approx(-8 * math.log(0.99))
        assert (sample.values["hits_loglik"], sample.values["hits_generate"]) == (1.0, None)
        assert sample.values["value_control_nats"] == pytest.approx(8 * math.log(257))
    blind = measure(StubEngine(uniform(257)), limit=2, scorer="loglik", depths="0.5")
    assert {sample.values["hits_loglik"] for sample in blind} == {0.0}


@pytest.mark.parametrize(
    ("options", "reasons"),
    [
        ({}, ["haystack", "data", "depth", "question", "answer", "length", "tokenizer"]),
        ({"protocol": "niah_multikey_3", "depth_mode": "ruler"}, ["length", "tokenizer"]),
        (
            {"protocol": "niah_single_1", "depth_mode": "ruler", "scorer": "loglik"},
            ["data", "length", "scorer", "tokenizer"],
        ),
    ],
)
def test_a_row_says_why_it_does_not_compare_with_published_ones(options, reasons) -> None:
    sample = measure(StubEngine(uniform(257)), limit=1, **options)[0]
    assert sample.keys["comparable_to_published"] is False
    assert [part.split(":")[0] for part in str(sample.keys["not_comparable_because"]).split("; ")] == reasons


def test_rulers_own_task_in_other_tokens_than_bytes_compares_unless_the_parts_are_tokenised_otherwise() -> None:
    class Lines(PairTokenizer):
        """A token for each line, and for each byte of another: parts and whole give the same."""

        name, digest, vocab_size = "lines", "lines", 300_000

        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def encode(self, text: bytes) -> np.ndarray:
            parts = re.findall(rb"\n|[^\n ]*[ ]|[^\n ]+", text)
            self.pieces += [part for part in dict.fromkeys(parts) if part not in self.pieces]
            return np.array([self.pieces.index(part) for part in parts], dtype=np.int64)

        def decode(self, ids: np.ndarray) -> bytes:
            return b"".join(self.pieces[index] if index < len(self.pieces) else b"?" for index in ids)

        def byte_lengths(self, ids: np.ndarray) -> np.ndarray:
            return np.array([len(self.pieces[index]) for index in ids])

    class Blind(StubEngine):
        def generate(self, ids, num_tokens):
            return np.zeros((1, num_tokens), np.int64)

    for tokenizer, because in ((Lines(), None), (PairTokenizer(), "tokenizer: the text in one piece gives other")):
        sample = measure(
            Blind(lambda history: np.zeros(1)),
            tokenizer=tokenizer,
            protocol="niah_multikey_3",
            depth_mode="ruler",
            limit=1,
            context_len=4096,
        )[0]
        assert sample.keys["comparable_to_published"] is (because is None)
        assert str(sample.keys["not_comparable_because"]).startswith(str(because))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"protocol": "niah_single_4"}, "did you mean"),
        ({"protocol": "niah_multivalue"}, "goes with depth_mode ruler only; got depth_mode grid"),
        ({"protocol": "niah_multiquery", "depth_mode": "ruler", "scorer": "both"}, "scorer generate only"),
        ({"protocol": "niah_multiquery", "depth_mode": "ruler", "question": "cloze"}, "question ruler only"),
        ({"depth_mode": "ruler", "depths": "0,1"}, "draws its own"),
    ],
)
def test_parameters_that_mean_nothing_together_are_refused(options, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Needle().check(NeedleParams(**options))


def test_the_plan_fills_in_what_suits_the_depth_mode() -> None:
    grid, ruler = (settled(NeedleParams(depth_mode=mode)) for mode in ("grid", "ruler"))
    assert (grid.question, grid.scorer, grid.answer_tokens, grid.depths) == ("cloze", "both", 32, "0,0.25,0.5,0.75,1")
    assert (ruler.question, ruler.scorer, ruler.answer_tokens, ruler.depths) == ("ruler", "generate", 128, None)
    assert settled(NeedleParams(protocol="niah_single_3")).answer_tokens == 64
    assert Needle().settle(ruler, (512,)) == ruler
    assert settled(NeedleParams(answer_tokens=9, scorer="choice")).answer_tokens == 9


def test_an_answer_without_room_for_its_values_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match=r"37 tokens long .* ask for at least 37"):
        measure(protocol="niah_single_3", answer_tokens=36)
    assert measure(protocol="niah_single_3", answer_tokens=36, scorer="choice", limit=1, depths="0")


def test_needles_at_three_depths_of_a_long_text_cost_a_constant_state_and_two_prefills() -> None:
    torch.manual_seed(0)
    engine = EagerEngine(ARCHITECTURES.load("mamba").tiny(vocab_size=257), device="cpu", dtype="float32")
    sizes = []
    for context_len in (1024, 16_384):
        samples = measure(
            engine,
            corpus=open_corpus("kjv"),
            context_len=context_len,
            limit=1,
            depths="0.1,0.5,0.9",
            scorer="loglik",
        )
        assert len(samples) == 3
        assert total(samples, "prefilled_tokens") < (0.9 + 0.5 + 0.1 + 1 + 0.1) * context_len
        sizes.append(engine.state_bytes)
    assert sizes[0] == sizes[1]


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
        # each prompt and the two controls: generate reads the prompt's last token only, as the stub does not count
        # what it writes; candidates read as many tokens as they have
        steps = (len(samples) + 2) * (1 + 10 * 8)
        counted = total(samples, "prefilled_tokens")
        assert counted == engine.num_read - steps
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


@pytest.mark.parametrize("question", ["ruler", "cloze"])
@pytest.mark.parametrize("context_len", [512, 1000, 4096])
def test_prompt_and_answer_fill_the_context_to_the_token(context_len: int, question: str) -> None:
    samples = measure(StubEngine(uniform(257)), limit=2, context_len=context_len, question=question, answer_tokens=20)
    assert {sample.values["prompt_tokens"] for sample in samples} == {context_len - 20}


def test_a_prompt_reads_as_drawn_in_the_documentation() -> None:
    sample = measure(StubEngine(uniform(257)), limit=1, depths="0.5", question="ruler")[0]
    recipe = json.loads(str(sample.keys["recipe"]))
    text = BYTES.decode(rebuild(recipe, CORPUS, BYTES)).decode()
    (key,), (value,) = recipe["keys"], recipe["values"]
    assert text.startswith(
        "A special magic number is hidden within the following text. Make sure to memorize it. I will"
    )
    assert f". One of the special magic numbers for {key} is: {value}. " in text
    assert text.count(value) == 1
    assert text.endswith(
        f"\nWhat is the special magic number for {key} mentioned in the provided text? "
        f"The special magic number for {key} mentioned in the provided text is"
    )


def test_key_value_and_place_are_the_same_at_every_length_and_differ_between_trials_and_seeds() -> None:
    def drawn(**options):
        samples = measure(StubEngine(uniform(257)), depths="0.5", scorer="choice", **options)
        recipes = [json.loads(str(sample.keys["recipe"])) for sample in samples]
        return [(*recipe["keys"], *recipe["values"]) for recipe in recipes]

    assert drawn(limit=3, context_len=600) == drawn(limit=3, context_len=2000)
    assert drawn(limit=3) == drawn(limit=5)[:3]
    assert len(set(drawn(limit=10))) == 10
    assert drawn(limit=3, seed=1) != drawn(limit=3)


def test_trials_with_one_haystack_are_one_cluster() -> None:
    samples = measure(StubEngine(uniform(257)), limit=3, scorer="choice")
    assert len({sample.keys["haystack"] for sample in samples}) == 3
    assert [sample.keys["depth"] for sample in samples] == [0.0, 0.25, 0.5, 0.75, 1.0] * 3


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
    with pytest.raises(TooShortError, match="tokens of context less"):
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


def knowing_but(ended: bytes) -> StubEngine:
    """Writes `ended`, the token that ends a text (256), and only then the value."""

    def row(history: tuple[int, ...]) -> np.ndarray:
        said = bytes(token for token in history if token < 256)
        asked = ASKED.search(said)
        if asked is None:
            return saying(b"", b"-")
        after = history[len(history) - len(asked[3]) - history[-len(asked[3]) - 1 :].count(256) :]
        stated = dict(STATED.findall(said))
        key = asked_keys(asked)[0]
        value = b" " + stated[key] if key in stated else b""
        script = [*ended, 256, *value, *(b"-" * 200)]
        log_probs = np.full(257, math.log(0.01 / 256))
        log_probs[script[len(after)]] = math.log(0.99)
        return log_probs

    return StubEngine(row)


@pytest.mark.parametrize("ended", [b"", b" none"], ids=["at-once", "after-words"])
def test_what_stands_after_the_end_of_a_text_is_no_answer(ended: bytes) -> None:
    samples = measure(knowing_but(ended), protocol="niah_single_2", depth_mode="ruler", limit=2, context_len=1200)
    assert hits(samples, "generate") == 0
    assert {(sample.evidence or {})["answer"] for sample in samples} == {ended.decode()}
