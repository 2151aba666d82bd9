"""The latency task, on a stub engine whose times are known: by a clock that only it moves, and once by the real one."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from stub_engine import stored
from torch import nn

from ttbench.errors import TooLongError, UsageError
from ttbench.machine import ceilings, measure
from ttbench.machine.ceilings import Ceilings
from ttbench.registry import ARCHITECTURES
from ttbench.tasks.base import Bench
from ttbench.tasks.latency import Latency, LatencyParams
from ttbench.types import Cell, Checkpoint, Cost, Sample

if TYPE_CHECKING:
    from ttbench.engines.engine import Engine

# wide enough for the keys and values of a deep context to weigh more than the weights
WIDE = {
    "transformer": {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64},
    "ttt-linear": {"hidden_size": 256, "num_attention_heads": 4},
}


FREE = Cost(flops_per_token=1.0, flops_per_context_token=0.0, state_bytes=0, state_bytes_per_token=0)


class FakeClock:
    """Stands in for the module `time`: moves only when something sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 4

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class SleepyEngine:
    """Takes a known time per call and writes down what it was asked."""

    name, device, dtype = "eager", "cpu", "float32"

    def __init__(
        self,
        *,
        prefill_s: float = 0.25,
        decode_s: float = 0.125,
        slow_calls: int = 0,
        vocab_size: int = 100,
        max_context: int | None = None,
        aside_s: float = 0.0,
    ) -> None:
        self.aside_s = aside_s  # of what stands outside the clock
        self.prefill_s, self.decode_s, self.slow_calls = prefill_s, decode_s, slow_calls
        self.vocab_size, self.max_context = vocab_size, max_context
        self.num_tokens = 0
        self.prompts: list[np.ndarray] = []
        self.steps: list[np.ndarray] = []
        self.depths: list[int] = []
        self.room: list[tuple[int, int]] = []
        self.log: list[str] = []  # what was asked, in order
        self.model = nn.Linear(5, 25, bias=False)
        self.forgot = False

    def forget(self) -> None:
        self.forgot = True

    def reset(self, batch_size: int, max_len: int) -> None:
        self.room.append((batch_size, max_len))
        self.num_tokens = 0
        self.log.append("reset")

    def place(self, ids: np.ndarray) -> np.ndarray:
        measure.time.sleep(self.aside_s)
        self.log.append("place")
        return ids

    def prepare(self, *, prompt_len: int = 0, num_steps: int = 0) -> None:
        measure.time.sleep(self.aside_s)
        self.log.append(f"prepare {prompt_len} + {num_steps}")

    def prefill(self, ids: np.ndarray) -> None:
        measure.time.sleep(self.prefill_s * (3 if len(self.prompts) < self.slow_calls else 1))
        self.prompts.append(ids)
        self.log.append("prefill")
        self.num_tokens += ids.shape[1]

    def decode(self, ids: np.ndarray) -> None:
        measure.time.sleep(self.decode_s)
        self.steps.append(ids)
        self.log.append("decode")
        self.depths.append(self.num_tokens)
        self.num_tokens += 1

    def snapshot(self) -> int:
        return self.num_tokens

    def restore(self, snapshot: int) -> None:
        self.num_tokens = snapshot
        self.log.append("restore")

    def synchronize(self) -> None:
        pass


# one FLOP and no state for each token, on a machine of 8 FLOP/s and 1000 bytes/s
CEILINGS = Ceilings(
    read_bytes_per_s=1000.0, copy_bytes_per_s=900.0, matmul_flops_per_s=8.0, graph_node_s=None, busy=False
)


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "prepare_process", lambda: None)
    monkeypatch.setattr(measure, "time", FakeClock())
    monkeypatch.setattr(ceilings, "ceilings", lambda **options: CEILINGS)


def cell_of(
    *,
    context_len: int = 64,
    batch_size: int = 1,
    seed: int = 3,
    round: int = 0,
    provenance: str = "stub",
    cost: Cost | None = FREE,
    **params: Any,
) -> Cell:
    checkpoint = Checkpoint(
        **dict.fromkeys(("name", "path", "architecture", "dialect"), "stub"),
        provenance=provenance,
        **dict.fromkeys(("weights_digest", "config_digest"), "0"),
        **dict.fromkeys(("revision", "tokenizer_digest", "train_ctx")),
        **dict.fromkeys(("architecture_version", "vocab_size", "num_params", "weight_bytes"), 1),
        num_params_non_embedding=1,
        cost=cost,
    )
    chosen = LatencyParams(**{"min_repeats": 3, "min_seconds": 0.0, "warm_up_s": 0.0, "decode_tokens": 4, **params})
    return Cell(
        task="latency",
        task_version=1,
        checkpoint=checkpoint,
        context_len=context_len,
        params=dataclasses.asdict(chosen),
        corpus=None,
        corpus_digest=None,
        seed=seed,
        dtype="float32",
        device="cpu",
        engine="eager",
        attention="sdpa",
        batch_size=batch_size,
        threads=1,
        round=round,
    )


def samples_of(
    engine: SleepyEngine | Engine, *, load_s: float = 0.0, progress: list[tuple[int, int]] | None = None, **options: Any
) -> list[Sample]:
    def open_engine() -> Engine:
        measure.time.sleep(load_s)
        return cast("Engine", engine)

    def refuse() -> Any:
        raise AssertionError("the latency task needs neither corpus nor tokenizer")

    seen: list[tuple[int, int]] = [] if progress is None else progress
    bench = Bench(
        cell=cell_of(**options),
        open_engine=open_engine,
        open_corpus=refuse,
        open_tokenizer=refuse,
        progress=lambda done, total: seen.append((done, total)),
    )
    return stored(Latency(), list(Latency().measure(bench)))


def values(samples: list[Sample], phase: str, column: str) -> list[float]:
    return [cast(float, s.values[column]) for s in samples if s.keys["phase"] == phase]


def test_times_are_those_of_the_calls() -> None:
    samples = samples_of(SleepyEngine(prefill_s=0.5, decode_s=0.125), decode_tokens=4, min_repeats=3)
    assert values(samples, "prefill", "wall_s") == [0.5] * 3
    assert values(samples, "prefill", "cpu_s") == [0.125] * 3
    assert values(samples, "decode", "wall_s") == [0.5] * 3
    assert values(samples, "decode", "call_s") == [0.125] * 3
    assert values(samples, "decode", "call_cpu_s") == [0.03125] * 3


def test_rows_say_what_a_call_needs_and_how_near_it_comes_to_the_ceilings() -> None:
    # 64 tokens are 64 FLOP, 8 s at 8 FLOP/s; a step is one FLOP, and 500 bytes of weights, half a second of reading
    samples = samples_of(SleepyEngine(prefill_s=16.0, decode_s=2.0), context_len=64)
    assert values(samples, "prefill", "call_flops") == [64.0] * 3
    assert values(samples, "prefill", "call_bytes") == [500.0] * 3
    assert values(samples, "prefill", "ceiling_s") == [8.0] * 3
    assert values(samples, "decode", "call_flops") == [1.0] * 3
    assert values(samples, "decode", "ceiling_s") == [0.5] * 3
    assert values(samples, "decode", "ceiling_bytes_per_s") == [1000.0] * 3
    assert values(samples, "first_call", "ceiling_s") == [None]
    rows = {name: values(samples, "decode", name) for name in ("ceiling_s", "call_s")}
    of_ceiling = next(metric for metric in Latency.metrics if metric.name == "of_ceiling")
    share = rows["ceiling_s"][0] / rows["call_s"][0] * of_ceiling.scale
    assert (share, of_ceiling.unit) == (25.0, "%")


def test_without_a_formula_rows_hold_the_ceilings_alone() -> None:
    samples = samples_of(SleepyEngine(), cost=None)
    assert values(samples, "prefill", "call_flops") == [None] * 3
    assert values(samples, "prefill", "ceiling_flops_per_s") == [8.0] * 3


def test_the_state_is_gone_before_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seen = SleepyEngine(), []
    monkeypatch.setattr(ceilings, "ceilings", lambda **options: seen.append(engine.forgot) or CEILINGS)
    samples_of(engine)
    assert seen == [True]


def test_random_weights_have_no_load_time() -> None:
    samples = samples_of(SleepyEngine(), provenance="random")
    assert [sample.keys["phase"] for sample in samples][:2] == ["first_call", "prefill"]


def test_batch_sizes_are_an_axis_on_a_gpu() -> None:
    assert Latency().default_batch_sizes("cpu") == (1,)
    assert Latency().default_batch_sizes("cuda:1") == (1, 16, 64)


def test_a_real_sleep_is_seen_by_the_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "time", time)
    samples = samples_of(SleepyEngine(prefill_s=0.03, decode_s=0.01), min_repeats=5)
    # a sleep lasts at least as long as asked, and on a busy machine somewhat longer
    assert 0.03 <= statistics.median(values(samples, "prefill", "call_s")) < 0.06
    assert 0.01 <= statistics.median(values(samples, "decode", "call_s")) < 0.03


def test_load_and_first_call_are_numbers_of_their_own() -> None:
    samples = samples_of(SleepyEngine(prefill_s=0.5, slow_calls=1), load_s=2.0)
    assert values(samples, "load", "wall_s") == [2.0]
    assert values(samples, "first_call", "wall_s") == [1.5]
    assert values(samples, "prefill", "wall_s") == [0.5] * 3


def test_every_repeat_is_a_row_with_raw_numbers() -> None:
    samples = samples_of(SleepyEngine(), context_len=64, batch_size=2, decode_tokens=4, min_repeats=3)
    phases = [(s.keys["phase"], s.keys["repeat"]) for s in samples]
    timed = [(phase, repeat) for phase in ("prefill", "decode") for repeat in range(3)]
    assert phases == [("load", 0), ("first_call", 0), *timed]
    assert len({frozenset(s.values) for s in samples}) == 1
    assert values(samples, "prefill", "num_tokens") == [128] * 3
    assert values(samples, "decode", "num_tokens") == [8] * 3
    assert values(samples, "decode", "num_calls") == [4] * 3
    for sample in samples:
        assert sample.values["call_s"] == cast(float, sample.values["wall_s"]) / cast(int, sample.values["num_calls"])


@pytest.mark.parametrize(("prefill_s", "repeats"), [(0.25, 8), (0.75, 3), (5.0, 2)])
def test_both_minima_hold(prefill_s: float, repeats: int) -> None:
    samples = samples_of(SleepyEngine(prefill_s=prefill_s), phases="prefill", min_repeats=2, min_seconds=2.0)
    assert values(samples, "prefill", "wall_s") == [prefill_s] * repeats


def test_warm_up_goes_on_while_calls_get_faster_and_none_of_it_is_timed() -> None:
    engine = SleepyEngine(prefill_s=0.25, slow_calls=8)
    samples = samples_of(engine, phases="prefill", warm_up_s=60.0)
    # seven slow calls after the first; five fast ones must agree with five whose median is fast
    assert values(samples, "prefill", "warm_up_calls") == [15] * 3
    assert values(samples, "prefill", "steady") == [True] * 3
    assert values(samples, "prefill", "wall_s") == [0.25] * 3
    assert len(engine.prompts) == 1 + 15 + 3


def test_a_prefill_longer_than_the_warm_up_is_warmed_up_by_its_first_call_alone() -> None:
    engine = SleepyEngine(prefill_s=3.0)
    samples = samples_of(engine, phases="prefill", warm_up_s=2.0)
    assert values(samples, "prefill", "warm_up_calls") == [0] * 3
    assert values(samples, "prefill", "steady") == [False] * 3
    assert len(engine.prompts) == 1 + 3


def test_every_prefill_starts_from_an_empty_state_with_fresh_ids() -> None:
    engine = SleepyEngine()
    samples_of(engine, phases="prefill", context_len=64, batch_size=2, decode_tokens=4)
    assert engine.room == [(2, 68)] * len(engine.prompts)
    assert all(p.shape == (2, 64) and p.dtype == np.int64 for p in engine.prompts)
    assert len({p.tobytes() for p in engine.prompts}) == len(engine.prompts)
    assert all(p.min() >= 0 and p.max() < engine.vocab_size for p in engine.prompts)


def test_decode_steps_stay_within_a_block_of_the_depth_asked_for() -> None:
    engine = SleepyEngine()
    samples_of(engine, context_len=64, batch_size=3, decode_tokens=4)
    assert engine.depths == [64, 65, 66, 67] * 3
    assert all(step.shape == (3,) for step in engine.steps)


def test_ids_are_placed_and_graphs_are_made_before_the_clock() -> None:
    engine = SleepyEngine(aside_s=10.0)
    samples = samples_of(engine, context_len=64, decode_tokens=2, min_repeats=1)
    assert values(samples, "prefill", "wall_s") == [0.25]
    assert values(samples, "decode", "wall_s") == [0.25]
    # the first call is what a first call costs: nothing is made for it
    first = ["place", "reset", "prefill"]
    prefill = ["place", "reset", "prepare 64 + 0", "prefill"]
    assert engine.log == [*first, *prefill, "place", "restore", "prepare 0 + 2", "decode", "decode"]


def test_decode_alone_reads_the_context_once() -> None:
    engine = SleepyEngine()
    samples = samples_of(engine, phases="decode", context_len=64)
    assert len(engine.prompts) == 1
    assert not values(samples, "prefill", "wall_s")
    assert len(values(samples, "decode", "wall_s")) == 3


def test_timed_ids_are_the_same_for_every_checkpoint_and_round_however_long_it_warmed_up() -> None:
    plain, warmed = SleepyEngine(), SleepyEngine(slow_calls=5)
    samples_of(plain, phases="prefill", round=0)
    samples_of(warmed, phases="prefill", round=4, warm_up_s=60.0)
    assert len(warmed.prompts) > len(plain.prompts)
    assert np.array_equal(plain.prompts[-3:], warmed.prompts[-3:])
    other_seed = SleepyEngine()
    samples_of(other_seed, phases="prefill", seed=4)
    assert not np.array_equal(plain.prompts[-1], other_seed.prompts[-1])


def test_ids_are_drawn_by_seed_context_batch_stream_and_call() -> None:
    engine = SleepyEngine(vocab_size=100)
    samples_of(engine, context_len=64, batch_size=2, seed=3, min_repeats=2)
    # the first call, and two timed prefills
    for prompt, (stream, call) in zip(engine.prompts, [(0, 0), (2, 0), (2, 1)], strict=True):
        shares = np.random.default_rng([3, 64, 2, stream, call]).random((2, 64))
        assert np.array_equal(prompt, np.floor(100 * shares))


def test_another_vocabulary_gets_the_same_places_in_it() -> None:
    small, large = SleepyEngine(vocab_size=100), SleepyEngine(vocab_size=1000)
    samples_of(small, phases="prefill")
    samples_of(large, phases="prefill")
    assert np.array_equal(small.prompts[-1], large.prompts[-1] // 10)


@pytest.fixture
def tiny_engine(request: pytest.FixtureRequest) -> Engine:
    from ttbench.engines.eager import EagerEngine

    return EagerEngine(ARCHITECTURES.load(request.param).tiny(), device="cpu", dtype="float32")


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("tiny_engine", list(ARCHITECTURES), indirect=True)
def test_every_architecture_is_timed(tiny_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "time", time)
    depths, forget = list[int](), tiny_engine.forget
    monkeypatch.setattr(tiny_engine, "forget", lambda: (depths.append(tiny_engine.num_tokens), forget()))
    samples = samples_of(tiny_engine, context_len=33, batch_size=2, decode_tokens=17, min_repeats=2, warm_up_s=0.01)
    assert [s.keys["phase"] for s in samples] == ["load", "first_call", "prefill", "prefill", "decode", "decode"]
    assert all(cast(float, s.values["wall_s"]) > 0 for s in samples if s.keys["phase"] != "load")
    # every block of steps began at the depth asked for
    assert depths == [33 + 17]


@pytest.fixture
def _one_thread() -> Iterator[None]:
    # more threads than idle cores wait for each other in every small operation

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def decode_cpu_s(engine: Engine, context_len: int) -> float:
    samples = samples_of(
        engine, phases="decode", context_len=context_len, decode_tokens=16, min_repeats=12, warm_up_s=0.05
    )
    # the least, in processor time: other work on the machine can only add
    return min(values(samples, "decode", "call_cpu_s"))


@pytest.mark.usefixtures("_one_thread")
def test_a_deep_context_makes_decoding_slower_with_attention_and_not_with_ttt(monkeypatch: pytest.MonkeyPatch) -> None:
    from ttbench.engines.eager import EagerEngine

    monkeypatch.setattr(measure, "time", time)
    ratio = {}
    for name in ("transformer", "ttt-linear"):
        model = ARCHITECTURES.load(name).tiny(**WIDE[name])
        engine = EagerEngine(model, device="cpu", dtype="float32")
        ratio[name] = decode_cpu_s(engine, 16384) / decode_cpu_s(engine, 64)
    # other work adds noise to both alike
    assert ratio["transformer"] > 1.5 * ratio["ttt-linear"], ratio
    assert ratio["ttt-linear"] < 2, ratio


def test_progress_reaches_its_total_and_never_falls() -> None:
    seen: list[tuple[int, int]] = []
    samples_of(SleepyEngine(), progress=seen, min_repeats=2, min_seconds=2.0)
    assert seen == sorted(seen)
    assert seen[-1] == (4, 4)


def test_a_model_without_room_for_context_and_decoded_tokens_answers_too_long() -> None:
    with pytest.raises(TooLongError, match=r"68 tokens are needed .* at most 67"):
        samples_of(SleepyEngine(max_context=67), context_len=64, decode_tokens=4)
    assert samples_of(SleepyEngine(max_context=68), context_len=64, decode_tokens=4)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"phases": "prefil"}, "phases must be among prefill, decode"),
        ({"phases": ""}, "phases must be among"),
        ({"decode_tokens": 0}, "decode_tokens must be at least 1; got 0"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"min_seconds": -1.0}, "min_seconds must be 0 or more"),
        ({"warm_up_s": float("inf")}, "warm_up_s must be 0 or more"),
    ],
)
def test_parameters_without_a_meaning_are_refused(params: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Latency().check(LatencyParams(**params))


def test_the_defaults_are_accepted_and_make_five_rounds() -> None:
    params = LatencyParams()
    Latency().check(params)
    assert Latency().num_rounds(params) == 5
    assert params.decode_tokens % 16 == 0
    page = (Path(__file__).parents[2] / "docs" / "methodology.md").read_text()
    assert f"after `warm_up_s` = {params.warm_up_s:g} s" in page


def test_every_metric_reads_columns_that_samples_have_and_counts_rounds() -> None:
    samples = samples_of(SleepyEngine())
    for metric in Latency.metrics:
        rows = [s for s in samples if s.keys["phase"] == metric.where.get("phase", "decode")]
        columns = {metric.numerator, metric.denominator or metric.numerator}
        assert rows
        assert all(isinstance(row.values[column], int | float) for row in rows for column in columns)
        assert metric.cluster == "round"
