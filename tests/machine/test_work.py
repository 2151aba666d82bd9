"""Work and rates: counts and seconds worked out by hand."""

from __future__ import annotations

import pytest

from ttbench.machine.rates import Pace, Rates, fit_pace
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.latency import Latency, LatencyParams
from ttbench.tasks.memory import Memory, MemoryParams
from ttbench.tasks.needle.needle import Needle, NeedleParams
from ttbench.tasks.perplexity.perplexity import Perplexity, PerplexityParams
from ttbench.types import Cost

COST = Cost(flops_per_token=100, flops_per_context_token=2, state_bytes=0, state_bytes_per_token=0)
PACE = Pace(call_s=0.5, token_s=0.01, pair_s=0.001, step_s=0.1)
RATES = Rates(paces={1: PACE}, window=None)


def seconds(*calls: Calls) -> float:
    return RATES.seconds(Work(calls=calls), compress_s=0.0)


def test_calls_after_a_context_read_it_too() -> None:
    # 3 tokens after 10: they read 10, 11 and 12 earlier ones.
    calls = Calls(num=2, num_tokens=3, after=10, batch_size=4)
    assert calls.pairs(None) == 33
    assert calls.pairs(5) == 15
    assert calls.flops(COST) == 2 * 4 * (300 + 2 * 33)


def test_seconds_are_those_of_calls_tokens_and_pairs() -> None:
    assert seconds(Calls(num=3, num_tokens=4)) == pytest.approx(3 * (0.5 + 0.04 + 0.006))
    assert seconds(Calls(num=1, num_tokens=2, after=10, steps=True)) == pytest.approx(0.2 + 0.021)
    # One call takes 0.5 + 1.0 + 4.95 s: until two seconds have passed it is one call; a cap of 8 lets a second begin.
    one = Calls(num=1, num_tokens=100)
    assert seconds(one) == pytest.approx(6.45)
    assert seconds(Calls(num=1, num_tokens=100, least_s=20.0)) == 20.0
    assert seconds(Calls(num=10, num_tokens=100, most_s=8.0)) == pytest.approx(14.45)


def test_the_nearest_batch_size_that_was_measured_counts() -> None:
    fast = Pace(call_s=0.0, token_s=0.001, pair_s=0.0, step_s=0.0)
    rates = Rates(paces={1: PACE, 8: fast}, window=None)
    assert rates.seconds(Work(calls=(Calls(num=1, num_tokens=10, batch_size=6),)), compress_s=0.0) == pytest.approx(
        0.06
    )


def test_compressors_are_a_term_of_their_own() -> None:
    assert RATES.seconds(Work(calls=(), compressed_bytes=1000, seconds=2.0), compress_s=0.003) == pytest.approx(5.0)


def test_a_pace_is_found_again_from_the_times_that_it_gives() -> None:
    times = {size: 0.5 + 2 * size * 0.01 + 2 * size * (size - 1) / 2 * 0.001 for size in (32, 128, 512, 2048)}
    pace = fit_pace(times, batch_size=2, step_s=0.1, window=None, attention=None)
    assert (pace.call_s, pace.token_s, pace.pair_s) == pytest.approx((0.5, 0.01, 0.001))


def test_noise_never_makes_a_part_negative_and_attention_costs_what_its_flop_say() -> None:
    pace = fit_pace({32: 1.0, 128: 0.9}, batch_size=1, step_s=0.1, window=None, attention=0.01)
    assert min(pace.call_s, pace.token_s, pace.pair_s) >= 0
    # Calls too short to show attention. Of 2 FLOP for 100, a pair costs at least 0.02 / 4 of a token, u: 32 tokens and
    # 496 pairs make 34.48 u, 128 tokens and 8,128 pairs 168.64 u; 0.96 s apart, so u = 0.96 / 134.16.
    flat = fit_pace({32: 0.32, 128: 1.28}, batch_size=1, step_s=0.1, window=None, attention=0.02)
    assert flat.token_s == pytest.approx(0.96 / 134.16)
    assert flat.pair_s == pytest.approx(flat.token_s * 0.02 / 4)
    assert flat.call_s == pytest.approx(0.32 - 34.48 * flat.token_s)


def test_two_lengths_are_told_apart_by_their_tokens_and_not_by_the_few_before_them() -> None:
    # A model of 135 M parameters: 0.24 s and 6.2 ms a token fit as well as
    # 0.40 s and 78 us a pair, which would make a token free.
    times = {32: 0.43348569, 128: 1.02506447}
    for attention in (None, 69120 / 269028864):
        pace = fit_pace(times, batch_size=1, step_s=0.1, window=None, attention=attention)
        assert pace.token_s == pytest.approx((1.02506447 - 0.43348569) / 96, rel=0.02)
        assert pace.call_s == pytest.approx(0.2363, rel=0.02)


def test_losses_cost_what_they_add() -> None:
    pace = Pace(call_s=0.5, token_s=0.01, pair_s=0.0, step_s=0.1, score_s=0.002)
    rates = Rates(paces={1: pace}, window=None)
    work = Work(calls=(Calls(num=1, num_tokens=100, batch_size=4, scored=50),))
    assert rates.seconds(work, compress_s=0.0) == pytest.approx(0.5 + 4.0 + 4 * 50 * 0.002)


LONG = Texts(sizes={"test": (40_000,) * 10 + (1_000,) * 90})


@pytest.mark.parametrize(
    ("limit", "tokens", "compressed"),
    # 32 windows over the 10 long documents, or those of 4 of them; a context of 1,024 tokens holds its window.
    [(None, 32 * 1024, 400_000), (4, 32 / 10 * 4 * 1024, 160_000), (50, 32 * 1024, 400_000)],
)
def test_windows_are_counted_over_the_documents_that_are_long_enough(
    limit: int | None, tokens: float, compressed: int
) -> None:
    params = PerplexityParams(limit=limit, windows=32, window=256, max_context=32_768)
    work = Perplexity().work(params, 1024, 1, texts=LONG)
    assert sum(calls.num * calls.batch_size * calls.num_tokens for calls in work.calls) == pytest.approx(tokens)
    assert work.compressed_bytes == compressed


def test_blocks_cover_the_documents_at_hand_and_a_stride_covers_them_twice() -> None:
    def read(protocol: str, token_bytes: float) -> float:
        texts = Texts(sizes=LONG.sizes, token_bytes=token_bytes)
        params = PerplexityParams(protocol=protocol, limit=None)  # type: ignore[arg-type]
        work = Perplexity().work(params, 1024, 1, texts=texts)
        return sum(calls.num * calls.batch_size * calls.num_tokens for calls in work.calls)

    assert read("packed", 1.0) == pytest.approx(490_000)
    assert read("packed", 3.5) == pytest.approx(140_000)
    assert read("hf-stride", 1.0) == pytest.approx(980_000)


def test_a_needle_reads_again_only_what_depths_do_not_share_and_writes_its_answers() -> None:
    params = NeedleParams(limit=2, depths="0,0.5", scorer="generate", answer_tokens=10)
    calls = Needle().work(params, 1000, 1, texts=Texts()).calls
    assert sum(part.num * part.num_tokens for part in calls if not part.steps) == 2 * (1000 + 1000 + 500)
    # Two depths and the control, of two haystacks.
    assert [part.num * part.num_tokens for part in calls if part.steps] == [2 * 3 * 10]


def test_a_latency_cell_takes_its_minimum_of_seconds_in_each_phase() -> None:
    params = LatencyParams(min_seconds=7.0, min_repeats=3, warm_up_s=0.0, decode_tokens=4)
    work = Latency().work(params, 100, 1, texts=Texts())
    # First call 6.45; three repeats of it 19.35; blocks of 4 steps of 0.1 + 0.1 s and 6 pairs: 3 x 0.806 < 7.
    assert RATES.seconds(work, compress_s=0.0) == pytest.approx(6.45 + 19.35 + 7.0)


def test_memory_reads_and_decodes_once() -> None:
    work = Memory().work(MemoryParams(decode_tokens=4), 100, 2, texts=Texts())
    assert work.flops(COST) == 2 * (COST.prefill_flops(104))
