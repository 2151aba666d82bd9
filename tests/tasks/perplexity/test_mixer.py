"""The context mixer: hand-worked tables, probabilities that make a code, and nothing but the context read."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import Document, make_corpus
from ttbench.tasks.perplexity import mixer as module
from ttbench.tasks.perplexity.gain import measure_gain
from ttbench.tasks.perplexity.mixer import NUM_MODELS, NUM_SETS, ORDERS, ContextMixer, CountTables, context_keys
from ttbench.tasks.perplexity.perplexity import PerplexityParams
from ttbench.tasks.windows import draw_windows

TRAIN = [b"the cat sat on the mat. the dog sat on the log. " * 20, b"a cat and a dog. " * 10]


@pytest.fixture(scope="module")
def mixer() -> ContextMixer:
    return ContextMixer(TRAIN, [TRAIN[0][:200]])


def key(context: bytes) -> int:
    return int.from_bytes(context, "big")


def test_a_context_is_the_bytes_before_and_a_word_what_of_them_belongs_to_it() -> None:
    keys = dict(zip(ORDERS, context_keys(np.frombuffer(b"ab1, cd", dtype=np.uint8)), strict=True))
    assert keys[0].tolist() == [0] * 7
    assert keys[1].tolist() == [0, *b"ab1, c"]
    assert keys[2].tolist() == [0, key(b"a"), key(b"ab"), key(b"b1"), key(b"1,"), key(b", "), key(b" c")]
    assert keys[6][6] == key(b"b1, c"[-6:]) + (ord("a") << 40)
    assert keys["word"].tolist() == [0, key(b"a"), key(b"ab"), key(b"ab1"), 0, 0, key(b"c")]
    long = context_keys(np.frombuffer(b"abcdefghij", dtype=np.uint8))[-1]
    assert long[9] == key(b"cdefghi")


def test_tables_fall_back_as_worked_out_by_hand() -> None:
    found = CountTables([b"abac", b"ab"]).look_up(context_keys(np.frombuffer(b"axb", dtype=np.uint8)))
    uniform, order_0, order_1 = np.full(256, 1 / 256), np.empty(256), np.empty(256)

    # a 3, b 2, c 1: six visits, three bytes
    found[0].write(0, uniform, order_0)
    assert order_0[ord("a")] == pytest.approx((3 + 3 / 256) / 9)
    assert order_0[ord("b")] == pytest.approx((2 + 3 / 256) / 9)
    assert order_0[ord("x")] == pytest.approx((3 / 256) / 9)
    # behind an a: b 2, c 1
    found[1].write(1, order_0, order_1)
    assert order_1[ord("b")] == pytest.approx((2 + 2 * (2 + 3 / 256) / 9) / 5)
    assert order_1[ord("a")] == pytest.approx((2 * (3 + 3 / 256) / 9) / 5)
    assert order_1.sum() == pytest.approx(1)
    # nothing ever stood behind an x
    found[1].write(2, order_0, order_1)
    assert (order_1 == order_0).all()


def test_what_was_read_is_counted_as_worked_out_by_hand() -> None:
    table, out = module._Adaptive(), np.empty(256)
    uniform = np.full(256, 1 / 256)
    assert not table.write(7, uniform, out)
    assert (out == uniform).all()
    for symbol in b"aab":
        table.add(7, symbol)
    assert table.write(7, uniform, out)
    assert out[ord("a")] == pytest.approx((2 + 2 / 256) / 5)
    assert out[ord("b")] == pytest.approx((1 + 2 / 256) / 5)
    assert out.sum() == pytest.approx(1)
    assert not table.write(8, uniform, out)


def test_a_match_is_the_byte_that_followed_last_time_and_is_believed_as_often_as_it_held() -> None:
    match, out = module._Match(), np.empty(256)
    text = b"abcdefX..abcdefX"
    keys = context_keys(np.frombuffer(text + b"\0", dtype=np.uint8))[ORDERS.index(6)].tolist()
    for place in range(15):
        match.write(text, out)
        assert (out == 1 / 256).all()
        match.add(text, place, keys[place + 1])
    # six bytes came again; no match of that length was ever tried: one half
    match.write(text, out)
    assert out[ord("X")] == pytest.approx(0.5)
    assert out[ord("a")] == pytest.approx(0.5 / 255)
    match.add(text, 15, keys[16])
    assert (match._held[6], match._tried[6]) == (2, 3)


def test_the_probabilities_of_every_byte_sum_to_one_wherever_it_stands(mixer: ContextMixer) -> None:
    text = "the cat sat. Ωμέγα, the dog sat on Ωμέγα \x00\xff".encode()
    for _, shares in mixer.shares(text, mixer.weights.copy()):
        assert shares.sum() == pytest.approx(1, abs=1e-12)
        assert shares.min() > 0


@pytest.mark.parametrize("text", [b"", b"the ca", "the cat. Ω".encode()])
def test_all_continuations_of_a_text_have_one_probability_together(mixer: ContextMixer, text: bytes) -> None:
    nats = [mixer.nats(text + bytes([symbol]), num_targets=1)[0] for symbol in range(256)]
    assert sum(math.exp(-each) for each in nats) == pytest.approx(1, abs=1e-9)


def test_a_mixer_of_one_model_is_that_model(mixer: ContextMixer) -> None:
    weights = np.zeros((NUM_SETS, NUM_MODELS))
    weights[:, ORDERS.index(0)] = 1
    _, shares = next(iter(mixer.shares(b"t", weights)))
    visits = len(TRAIN[0]) + len(TRAIN[1])
    distinct = len(set(TRAIN[0] + TRAIN[1]))
    count = sum(text.count(b"t") for text in TRAIN)
    assert shares[ord("t")] == pytest.approx((count + distinct / 256) / (visits + distinct))
    none = np.zeros((NUM_SETS, NUM_MODELS))
    _, shares = next(iter(mixer.shares(b"t", none)))
    assert shares == pytest.approx(np.full(256, 1 / 256))


def test_the_weights_step_down_the_gradient_of_the_code_length(
    mixer: ContextMixer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = np.full((NUM_SETS, NUM_MODELS), 0.1)
    text = b"t"

    def length(weights: np.ndarray) -> float:
        _, shares = next(iter(mixer.shares(text, weights.copy())))
        return -math.log(shares[text[0]])

    numeric = np.zeros(NUM_MODELS)
    for model in range(NUM_MODELS):
        up, down = start.copy(), start.copy()
        up[0, model] += 1e-5
        down[0, model] -= 1e-5
        numeric[model] = (length(up) - length(down)) / 2e-5
    monkeypatch.setattr(module, "RATE", 1e-3)
    stepped = start.copy()
    assert len(list(mixer.shares(text, stepped))) == 1
    assert stepped[0] == pytest.approx(start[0] - 1e-3 * numeric, abs=1e-9)
    assert (stepped[1:] == start[1:]).all()


def test_no_byte_is_told_by_what_comes_after_it_or_by_another_window(mixer: ContextMixer) -> None:
    text = b"the dog and the cat sat on the log. " * 4
    whole = mixer.nats(text, num_targets=len(text))
    assert whole[:50] == pytest.approx(mixer.nats(text[:50], num_targets=50), abs=0)
    assert whole[-20:] == pytest.approx(mixer.nats(text, num_targets=20), abs=0)
    mixer.nats(b"\x80" * 300, num_targets=300)
    assert mixer.nats(text, num_targets=len(text)) == pytest.approx(whole, abs=0)


def test_noise_costs_eight_bits_a_byte_and_next_to_nothing_when_it_comes_again(mixer: ContextMixer) -> None:
    noise = np.random.default_rng(0).integers(256, size=500, dtype=np.uint8).tobytes()
    bits = mixer.nats(noise * 2, num_targets=1000) / math.log(2)
    assert bits[:500].mean() > 7.5
    assert bits[600:].mean() < 0.5


def test_a_text_like_those_that_were_counted_is_cheap_from_the_start(mixer: ContextMixer) -> None:
    bits = mixer.nats(b"the dog sat on the mat. ", num_targets=24).mean() / math.log(2)
    assert bits < 2 < mixer.nats("και η γάτα ".encode(), num_targets=20).mean() / math.log(2)


def test_what_there_is_to_gain_is_measured_on_the_windows_of_the_task() -> None:
    rng = np.random.default_rng(1)
    words = [rng.choice(list("abcdefgh"), size=5).tobytes()[::4] for _ in range(40)]

    def document(number: int) -> Document:
        drawn = np.random.default_rng(number).integers(len(words), size=400)
        return Document(name=f"d{number}", text=b" ".join(words[i] for i in drawn))

    splits = {"train": [document(0)], "valid": [document(1)], "test": [document(n) for n in range(2, 6)]}
    corpus = make_corpus("x", splits, source="y")
    rows = list(measure_gain(corpus, contexts=(256, 512), limit=3))
    params = PerplexityParams(limit=3)
    for context_len in (256, 512):
        drawn = draw_windows(corpus, ByteTokenizer(), params, seed=0, context_len=context_len, memo={})
        found = [(row.document, row.window_start, row.num_bytes) for row in rows if row.context_len == context_len]
        assert found == [(w.document.name, w.start, 256) for w in drawn.windows]
        assert len(found) == 6
    assert all(dataclasses.asdict(row)["corpus_digest"] == corpus.digest for row in rows)
    assert all(0 < row.nats / 256 < 3 for row in rows)
