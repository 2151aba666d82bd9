from __future__ import annotations

import bz2
import dataclasses
import lzma
import math
from typing import Any

import numpy as np
import pytest
import torch
from stub_engine import CONSTANT, GROWING, PairTokenizer, StubEngine, corpus_of, run_task, scattered, uniform

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.engines.eager import EagerEngine
from ttbench.errors import TooLongError, TooShortError, UnknownNameError, UnsupportedError, UsageError
from ttbench.registry import ARCHITECTURES
from ttbench.report.statistics.stats import Estimate, estimate_ratio
from ttbench.tasks.compressors import compressed_sizes
from ttbench.tasks.perplexity.blocks import position_edges
from ttbench.tasks.perplexity.perplexity import PROTOCOLS, Perplexity, PerplexityParams
from ttbench.tasks.windows import draw_starts, draw_windows

SMALL: dict[str, Any] = {"max_context": 64, "window": 8, "windows": 10}
BLOCKS = ("packed", "stream", "position")


def text_of(size: int, *, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(32, 127, size=size).astype(np.uint8).tobytes()


CORPUS = corpus_of({f"doc{i}": text_of(size, seed=i) for i, size in enumerate((100, 150, 64, 65, 203))})
TINY = corpus_of({f"doc{i}": text_of(size, seed=i) for i, size in enumerate((21, 5, 38))})


def measure(engine: StubEngine | EagerEngine | None = None, *, corpus=CORPUS, context_len: int = 16, **options):
    return run_task(
        Perplexity(),
        engine=engine or StubEngine(uniform(257)),
        corpus=corpus,
        context_len=context_len,
        **options,
    )


def scored(sample) -> dict[str, Any]:
    return {name: value for name, value in sample.values.items() if name != "peak_rss_bytes"}


def total(samples, column: str) -> float:
    return sum(sample.values[column] or 0 for sample in samples)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_uniform_model_has_log2_of_the_vocabulary_in_bits_per_byte(protocol: str) -> None:
    samples = measure(protocol=protocol, **SMALL)
    bits = total(samples, "nats") / total(samples, "num_bytes") / math.log(2)
    assert bits == pytest.approx(math.log2(257), rel=1e-12)
    assert math.exp(total(samples, "nats") / total(samples, "num_tokens")) == pytest.approx(257, rel=1e-12)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_engine_whose_head_is_zero_has_log2_of_the_vocabulary_in_bits_per_byte(protocol: str) -> None:
    model = ARCHITECTURES.load("transformer").tiny(vocab_size=257)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    samples = measure(EagerEngine(model, device="cpu", dtype="float64"), protocol=protocol, **SMALL)
    bits = total(samples, "nats") / total(samples, "num_bytes") / math.log(2)
    assert bits == pytest.approx(math.log2(257), rel=1e-12)


@pytest.mark.parametrize("context_len", [8, 9, 15, 64])
def test_fixed_equals_the_product_of_conditionals_computed_one_by_one(context_len: int) -> None:
    rule = scattered(257)
    samples = measure(StubEngine(rule), context_len=context_len, **SMALL)
    texts = {document.name: document.text for document in CORPUS.documents("test")}
    for sample in samples:
        text, start = texts[str(sample.keys["document"])], int(sample.keys["window_start"] or 0)
        nats = 0.0
        for position in range(start, start + 8):
            # the context holds the window of 8
            history = (256, *text[start + 8 - context_len : position])
            nats -= rule(history)[text[position]]
        assert sample.values["nats"] == pytest.approx(nats, rel=1e-12)
        assert sample.evidence is not None
        assert sum(sample.evidence["token_nats"]) == pytest.approx(nats, abs=1e-4)


def test_fixed_scores_the_same_targets_at_every_context() -> None:
    targets = [
        [
            (s.keys["document"], s.keys["window_start"], s.keys["shared_context"])
            for s in measure(context_len=c, **SMALL)
        ]
        for c in (8, 16, 63, 64)
    ]
    assert targets[0] == targets[1] == targets[2] == targets[3]


def test_documents_without_room_for_the_longest_context_are_left_out_at_every_context() -> None:
    names = {s.keys["document"] for s in measure(context_len=8, **SMALL)}
    assert names == {"doc0", "doc1", "doc3", "doc4"}


def test_windows_are_dealt_evenly_end_where_the_shared_context_has_room_and_do_not_overlap() -> None:
    samples = measure(context_len=16, **SMALL)
    starts: dict[str, list[int]] = {}
    for sample in samples:
        starts.setdefault(str(sample.keys["document"]), []).append(int(sample.keys["window_start"] or 0))
    lengths = {document.name: len(document.text) for document in CORPUS.documents("test")}
    for name, found in starts.items():
        # 64 tokens end with the window, and one stands before them for tokenizers without BOS
        assert all(65 <= start + 8 <= lengths[name] for start in found)
        assert (np.diff(sorted(found)) >= 8).all()
    # doc3 has room for one window only; the others give the two or three that are dealt to them
    assert len(starts["doc3"]) == 1
    assert all(2 <= len(found) <= 3 for name, found in starts.items() if name != "doc3")


def test_more_windows_and_more_documents_keep_those_already_drawn() -> None:
    few, many = (draw_starts(500, first=64, size=8, count=n, rng=np.random.default_rng(1)) for n in (3, 9))
    assert list(few) == list(many[:3])
    few, many = ([(s.keys["document"], s.keys["window_start"]) for s in measure(limit=n, **SMALL)] for n in (2, 3))
    assert len({name for name, _ in few}) == 2
    assert few == many[: len(few)]


def test_windows_reach_from_the_first_to_the_last_token_of_the_room() -> None:
    starts = [
        int(draw_starts(93, first=64, size=8, count=1, rng=np.random.default_rng(seed))[0]) for seed in range(400)
    ]
    assert {min(starts), max(starts) + 8} == {64, 93}
    assert {target for start in starts for target in range(start, start + 8)} == set(range(64, 93))


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    def keys(**options):
        return [(s.keys["document"], s.keys["window_start"]) for s in measure(**options, **SMALL)]

    assert keys(seed=0) == keys(seed=0, batch_size=1)
    assert keys(seed=0) != keys(seed=1)
    longer = corpus_of(
        {document.name: document.text for document in CORPUS.documents("test")} | {"more": text_of(90, seed=9)}
    )
    assert set(keys(limit=2)) & set(keys(corpus=longer, limit=3))


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "stream"])
@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_numbers_do_not_depend_on_the_batch_size(protocol: str, batch_size: int) -> None:
    alone = measure(
        StubEngine(scattered(257)),
        corpus=TINY,
        context_len=8,
        protocol=protocol,
        window=4,
        max_context=16,
        batch_size=1,
    )
    engine = StubEngine(scattered(257))
    together = measure(
        engine, corpus=TINY, context_len=8, protocol=protocol, window=4, max_context=16, batch_size=batch_size
    )
    assert [s.keys for s in alone] == [s.keys for s in together]
    assert [s.values for s in alone] == [s.values for s in together]
    assert max(engine.batch_sizes) > 1


def test_stream_reads_one_sequence_at_a_time_whatever_the_batch_size() -> None:
    engine = StubEngine(scattered(257))
    measure(engine, corpus=TINY, context_len=8, protocol="stream", batch_size=8)
    assert set(engine.batch_sizes) == {1}


def test_a_batch_never_holds_more_tokens_than_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttbench.tasks.windows.MAX_BATCH_TOKENS", 60)
    engine = StubEngine(uniform(257))
    measure(engine, context_len=16, batch_size=64, **SMALL)
    assert max(engine.batch_sizes) == 3


def test_a_state_of_one_size_is_read_in_batches_as_large_as_asked_for_at_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ttbench.tasks.windows.MAX_BATCH_TOKENS", 60)
    engine = StubEngine(uniform(257))
    measure(engine, context_len=64, batch_size=4, cost=CONSTANT, **SMALL)
    assert max(engine.batch_sizes) == 4


def test_a_short_corpus_lowers_the_shared_context_to_a_power_of_two() -> None:
    samples = measure(context_len=64, window=8)
    assert {s.keys["shared_context"] for s in samples} == {128}
    assert {s.keys["document"] for s in samples} == {"doc1", "doc4"}


@pytest.mark.parametrize("context_len", [129, 4096])
def test_too_short_says_how_long_the_documents_are(context_len: int) -> None:
    with pytest.raises(TooShortError, match=r"doc4 203, doc1 150, .*at most 128 tokens"):
        measure(context_len=context_len, window=8)


def test_too_short_when_no_document_holds_a_window() -> None:
    with pytest.raises(TooShortError, match="give longer text"):
        measure(corpus=corpus_of({"a": b"x"}), context_len=1, window=1)


def test_a_context_that_does_not_hold_a_window_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="a context of 7 tokens does not hold a window of 8 targets"):
        measure(context_len=7, **SMALL)


def test_a_sweep_beyond_the_longest_context_raises_it_for_all() -> None:
    task = Perplexity()
    assert task.settle(PerplexityParams(), (512, 131_072)).max_context == 131_072
    assert task.settle(PerplexityParams(), (512, 1024)).max_context == 32_768
    assert task.settle(PerplexityParams(protocol="packed"), (131_072,)) == PerplexityParams(protocol="packed")


@pytest.mark.parametrize(("protocol", "context_len", "room"), [("fixed", 24, 24), ("packed", 24, 24)])
def test_too_long_for_the_checkpoint_is_an_answer_and_nothing_is_cut(
    protocol: str, context_len: int, room: int
) -> None:
    engine = StubEngine(uniform(257), max_context=room)
    measure(engine, context_len=context_len, protocol=protocol, **SMALL)
    with pytest.raises(TooLongError, match="takes at most 23"):
        measure(StubEngine(uniform(257), max_context=room - 1), context_len=context_len, protocol=protocol, **SMALL)


@pytest.mark.parametrize("protocol", [*BLOCKS, "lme-rolling"])
@pytest.mark.parametrize("context_len", [1, 7, 16, 64, 66])
def test_every_byte_of_the_text_is_scored_once(protocol: str, context_len: int) -> None:
    samples = measure(corpus=TINY, context_len=context_len, protocol=protocol)
    assert total(samples, "num_bytes") == 21 + 5 + 38
    by_name = {
        name: sum(s.values["num_bytes"] or 0 for s in samples if s.keys["document"] == name)
        for name in ("doc0", "doc1", "doc2")
    }
    assert by_name == {"doc0": 21, "doc1": 5, "doc2": 38}


@pytest.mark.parametrize("chunk", [1, 3, 15, 100])
def test_stream_equals_packed_at_the_same_length(chunk: int) -> None:
    engine = StubEngine(scattered(257))
    packed = measure(StubEngine(scattered(257)), corpus=TINY, context_len=20, protocol="packed")
    stream = measure(engine, corpus=TINY, context_len=20, protocol="stream", chunk=chunk)
    assert [s.keys for s in packed] == [s.keys for s in stream]
    assert [scored(s) for s in packed] == [scored(s) for s in stream]
    assert engine.longest_call <= chunk


def test_stream_over_the_whole_text_never_resets_within_it() -> None:
    engine = StubEngine(scattered(257))
    num_tokens = 21 + 5 + 38 + 2
    stream = measure(engine, corpus=TINY, context_len=num_tokens, protocol="stream", chunk=10)
    assert engine.batch_sizes == [1]
    assert total(stream, "nats") == pytest.approx(
        total(measure(StubEngine(scattered(257)), corpus=TINY, context_len=num_tokens, protocol="packed"), "nats")
    )
    with pytest.raises(TooShortError, match="66 tokens in all"):
        measure(corpus=TINY, context_len=num_tokens + 1, protocol="stream")


def test_packed_equals_the_blocks_scored_by_hand_with_bos_between_documents() -> None:
    rule = scattered(257)
    samples = measure(StubEngine(rule), corpus=TINY, context_len=20, protocol="packed")
    names = list(
        dict.fromkeys(str(s.keys["document"]) for s in measure(corpus=TINY, context_len=20, protocol="packed"))
    )
    texts = {document.name: document.text for document in TINY.documents("test")}
    flat: list[int] = []
    owner: list[str | None] = []
    for name in names:
        if flat:
            flat, owner = [*flat, 256], [*owner, None]
        flat, owner = [*flat, *texts[name]], [*owner, *[name] * len(texts[name])]
    nats = dict.fromkeys(names, 0.0)
    for position, (token, name) in enumerate(zip(flat, owner, strict=True)):
        if name is not None:
            nats[name] -= rule((256, *flat[position - position % 20 : position]))[token]
    assert {s.keys["document"]: s.values["nats"] for s in samples} == pytest.approx(nats, rel=1e-12)


def test_position_buckets_sum_to_the_packed_total() -> None:
    packed = measure(StubEngine(scattered(257)), corpus=TINY, context_len=20, protocol="packed")
    position = measure(StubEngine(scattered(257)), corpus=TINY, context_len=20, protocol="position")
    for column in ("nats", "num_bytes", "num_tokens", "document_bytes", "bzip2_bytes", "xz_bytes"):
        assert total(position, column) == pytest.approx(total(packed, column), rel=1e-12)
    buckets = {(s.keys["position"], s.keys["position_end"]) for s in position}
    assert buckets == {(0, 1), (1, 2), (2, 4), (4, 8), (8, 16), (16, 20)}
    first = [s for s in position if s.keys["position"] == 0]
    # 66 tokens in blocks of 20: four first positions, one of which may be a BOS
    assert 3 <= total(first, "num_tokens") <= 4


@pytest.mark.parametrize(
    ("context_len", "edges"), [(1, (0, 1)), (2, (0, 1, 2)), (5, (0, 1, 2, 4, 5)), (8, (0, 1, 2, 4, 8))]
)
def test_positions_are_bucketed_by_doubling(context_len: int, edges: tuple[int, ...]) -> None:
    assert position_edges(context_len) == edges


def test_tokens_are_counted_in_tokens_and_bytes_in_bytes_and_without_bos_the_first_token_is_read_only() -> None:
    engine, tokenizer = StubEngine(uniform(10), vocab_size=10), PairTokenizer()
    engine.rule = lambda history: np.full(tokenizer.vocab_size, -1.0)
    packed = measure(engine, corpus=TINY, context_len=10, protocol="packed", tokenizer=tokenizer)
    # 11 + 3 + 19 tokens in four blocks, whose first tokens are not scored
    assert total(packed, "num_tokens") == 33 - 4
    assert 64 - 8 <= total(packed, "num_bytes") <= 64 - 4
    fixed = measure(engine, context_len=10, tokenizer=tokenizer, window=6, max_context=16)
    assert {s.values["num_tokens"] for s in fixed} == {6}
    assert {s.values["num_bytes"] for s in fixed} <= {11, 12}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_compressors_stand_once_per_document_over_the_whole_document(protocol: str) -> None:
    samples = measure(protocol=protocol, **SMALL)
    texts = {document.name: document.text for document in CORPUS.documents("test")}
    scored = {str(s.keys["document"]) for s in samples}
    told = [s for s in samples if s.values["document_bytes"] is not None]
    assert [s.keys["document"] for s in told] == list(dict.fromkeys(s.keys["document"] for s in samples))
    assert {str(s.keys["document"]) for s in told} == scored
    for sample in told:
        assert sample.values["bzip2_bytes"] == len(bz2.compress(texts[str(sample.keys["document"])], 9))


@pytest.mark.parametrize("name", ["code", "kjv"])
def test_xz_with_a_small_dictionary_is_as_long_as_xz_9(name: str) -> None:
    documents = sorted(open_corpus(name).documents("test"), key=lambda document: len(document.text))
    for document in (documents[0], documents[len(documents) // 2], documents[-len(documents) // 4]):
        assert compressed_sizes(document.text)["xz_bytes"] == len(lzma.compress(document.text, preset=9))


def test_the_default_sweep_scores_one_window_or_more_in_each_long_document_of_code() -> None:
    corpus = open_corpus("code")
    options: dict[str, Any] = {"seed": 0, "memo": {}}
    every = PerplexityParams(limit=None, window=256, windows=12, max_context=32_768)
    limited = dataclasses.replace(every, limit=PerplexityParams().limit)
    short = draw_windows(corpus, ByteTokenizer(), every, context_len=512, **options).windows
    drawn = draw_windows(corpus, ByteTokenizer(), every, context_len=32_768, **options)
    long = drawn.windows
    assert drawn.num_documents == len({window.document.name for window in long}) >= 40
    dozen = draw_windows(corpus, ByteTokenizer(), limited, context_len=32_768, **options)
    assert [(w.document.name, w.start) for w in dozen.windows] == [(w.document.name, w.start) for w in long[:12]]
    assert len({window.document.name for window in dozen.windows}) == 12
    assert dozen.num_documents == drawn.num_documents
    assert [(w.document.name, w.start) for w in short] == [(w.document.name, w.start) for w in long]
    for a, b in zip(short, long, strict=True):
        assert np.array_equal(a.ids, b.ids[-len(a.ids) :])
        assert bytes(a.ids[-256:].astype(np.uint8)) == a.document.text[a.start : a.start + 256]


@pytest.mark.parametrize("field", ["window", "windows", "max_context", "chunk", "limit", "stride"])
def test_counts_must_be_positive(field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is 0"):
        Perplexity().check(dataclasses.replace(PerplexityParams(), **{field: 0}))


def test_an_unknown_protocol_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'packed'"):
        Perplexity().check(PerplexityParams(protocol="pack"))  # pyright: ignore[reportArgumentType]


def test_progress_ends_at_the_total() -> None:
    for protocol in PROTOCOLS:
        seen: list[tuple[int, int]] = []
        measure(protocol=protocol, progress=lambda done, of, seen=seen: seen.append((done, of)), **SMALL)
        assert seen[-1][0] == seen[-1][1]
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_plan_estimates_tokens_from_above() -> None:
    engine = StubEngine(uniform(257))
    measure(engine, context_len=16, limit=4, **SMALL)
    assert engine.num_read <= Perplexity().tokens(PerplexityParams(limit=4, **SMALL), 16)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_has_the_same_columns_and_metrics_name_them(protocol: str) -> None:
    samples = measure(protocol=protocol, **SMALL)
    for metric in Perplexity.metrics:
        columns = {metric.numerator, metric.denominator, metric.cluster, *metric.axes} - {"context_len", "round", None}
        assert columns <= {*samples[0].keys, *samples[0].values}
    first = measure(protocol="fixed", **SMALL)[0]
    assert (list(samples[0].keys), list(samples[0].values)) == (list(first.keys), list(first.values))
    assert samples[0].keys["bos"] in ("window", "block and document", "document", "none")


def test_the_peak_of_a_stream_stands_on_its_first_row_and_nowhere_else() -> None:
    peaks = [s.values["peak_rss_bytes"] for s in measure(corpus=TINY, context_len=20, protocol="stream")]
    assert (peaks[0] or 0) > 2**20
    assert peaks[1:] == [None] * (len(peaks) - 1)
    assert {s.values["peak_rss_bytes"] for s in measure(corpus=TINY, context_len=20, protocol="packed")} == {None}


@pytest.mark.parametrize("protocol", ["lme-rolling", "packed"])
def test_a_text_that_stands_twice_in_a_corpus_is_one_document_to_an_interval(protocol: str) -> None:
    texts = {f"doc{i:02}": text_of(24, seed=i) for i in range(12)}
    engine = StubEngine(scattered(257))
    options: dict[str, Any] = {"context_len": 25, "protocol": protocol, "limit": None}
    once = measure(engine, corpus=corpus_of(texts), **options)
    twice = measure(
        engine, corpus=corpus_of(texts | {f"{name}-again": text for name, text in texts.items()}), **options
    )
    one, two = interval(once), interval(twice)
    assert total(twice, "num_bytes") == 2 * total(once, "num_bytes")
    assert one.num_clusters == two.num_clusters == 12
    assert set(document(twice)) == set(texts)
    assert total(twice, "document_bytes") == total(once, "document_bytes")
    assert (two.low, two.high) == pytest.approx((one.low, one.high), rel=1e-9)


def interval(samples) -> Estimate:
    nats, num_bytes = ([float(s.values[name] or 0) for s in samples] for name in ("nats", "num_bytes"))
    return estimate_ratio(nats, num_bytes, clusters=document(samples))


def document(samples) -> list[str]:
    return [str(sample.keys["document"]) for sample in samples]


def test_the_plan_asks_for_the_state_of_as_many_sequences_as_are_read_at_once() -> None:
    task = Perplexity()
    packed, stream = (PerplexityParams(protocol=protocol) for protocol in ("packed", "stream"))
    assert [task.sequences(stream, 512, 8, cost=cost) for cost in (GROWING, CONSTANT, None)] == [1, 1, 1]
    for cost in (GROWING, None):
        assert [task.sequences(packed, length, 8, cost=cost) for length in (512, 32_768, 2**21)] == [8, 2, 1]
    assert [task.sequences(packed, length, 8, cost=CONSTANT) for length in (512, 2**21)] == [8, 8]
    assert task.tokens(PerplexityParams(protocol="hf-stride", limit=1), 1024) == 2 * task.tokens(
        PerplexityParams(protocol="packed", limit=1), 1024
    )


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_model_s_numbers_are_those_of_its_stateless_logits_and_do_not_depend_on_the_batch(architecture: str) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES.load(architecture).tiny(vocab_size=257)
    engine = EagerEngine(model, device="cpu", dtype="float64")
    samples = measure(engine, context_len=50, batch_size=1, **SMALL)
    together = measure(engine, context_len=50, batch_size=4, **SMALL)
    texts = {document.name: document.text for document in CORPUS.documents("test")}
    for sample, other in zip(samples, together, strict=True):
        text, start = texts[str(sample.keys["document"])], int(sample.keys["window_start"] or 0)
        ids = np.array([[256, *text[start - 42 : start + 8]]])
        log_probs = torch.log_softmax(engine.logits(ids)[0, -9:-1], dim=-1)
        nats = -log_probs[torch.arange(8), torch.as_tensor(ids[0, -8:])].sum().item()
        assert sample.values["nats"] == pytest.approx(nats, rel=1e-9)
        assert other.values["nats"] == pytest.approx(nats, rel=1e-9)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_model_s_stream_is_its_packed(architecture: str) -> None:
    torch.manual_seed(0)
    engine = EagerEngine(ARCHITECTURES.load(architecture).tiny(vocab_size=257), device="cpu", dtype="float64")
    packed, stream, position = (
        measure(engine, corpus=TINY, context_len=30, protocol=protocol, chunk=7) for protocol in BLOCKS
    )
    assert [s.values["nats"] for s in stream] == pytest.approx([s.values["nats"] for s in packed], rel=1e-9)
    assert total(position, "nats") == pytest.approx(total(packed, "nats"), rel=1e-9)
