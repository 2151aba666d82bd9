"""What a call needs at least, counted by hand, and the ceilings that it is held against."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ttbench.machine import ceilings
from ttbench.machine.ceilings import Budget, Ceilings
from ttbench.machine.roofline import decode_demand, prefill_demand
from ttbench.registry import ARCHITECTURES
from ttbench.types import Cost

# 100 FLOP a token, of which 30 are the head's; 2 for each earlier token; a state of 64 bytes, and 8 more for each token
COST = Cost(flops_per_token=100, flops_per_context_token=2, state_bytes=64, state_bytes_per_token=8, head_flops=30)
SMALL = Budget(seconds=0.0, least=2, buffer_bytes=2**16, matrix_dims=(16, 32))
SOME = Ceilings(read_bytes_per_s=100.0, copy_bytes_per_s=80.0, matmul_flops_per_s=1000.0, graph_node_s=None, busy=False)


def test_a_prefill_needs_the_head_once_and_the_weights_once() -> None:
    # tokens 0, 1, 2 read 0, 1, 2 earlier ones: 3 * 100 + 2 * 3, without the head of two of them; twice, for the batch
    found = prefill_demand(COST, context_len=3, batch_size=2, weight_bytes=1000)
    assert found.flops == 2 * (300 + 6 - 60)
    assert found.num_bytes == 1000 + 2 * (64 + 3 * 8)


def test_a_step_reads_the_cache_and_reads_and_writes_the_state() -> None:
    # after 3 and after 4 tokens: 106 and 108 FLOP; 64 read, 64 written, 24 and 32 of cache, 8 added
    found = decode_demand(COST, context_len=3, num_steps=2, batch_size=4, weight_bytes=1000)
    assert found.flops == 4 * 107
    assert found.num_bytes == 1000 + 4 * (128 + 28 + 8)


def test_a_window_bounds_what_a_step_reads() -> None:
    cost = dataclasses.replace(COST, window=2)
    assert cost.step_nbytes(100) == 128 + 2 * 8 + 8


def test_the_head_is_told_apart_by_every_architecture() -> None:
    for name in ARCHITECTURES:
        model = ARCHITECTURES.load(name)
        tiny = model.tiny()
        cost = model.cost(tiny.config, dtype_bytes=4)
        width, vocabulary = tiny.lm_head.in_features, tiny.lm_head.out_features
        assert cost.head_flops == 2 * width * vocabulary, name
        assert cost.read_flops(5) == cost.prefill_flops(5) - 4 * cost.head_flops


def test_the_least_time_is_that_of_the_tighter_bound() -> None:
    assert SOME.least_s(flops=500, num_bytes=10) == 0.5
    assert SOME.least_s(flops=10, num_bytes=300) == 3.0


class Tied(nn.Module):
    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight


@pytest.mark.parametrize(("tied", "elements"), [(False, 16 + 4 + 40), (True, 16 + 4 + 40)])
def test_a_table_is_streamed_only_where_it_is_the_head(tied: bool, elements: int) -> None:
    model = Tied(tied=tied)
    held = sum(parameter.numel() for parameter in model.parameters())
    assert held == 60 + (0 if tied else 40)
    assert ceilings.streamed_bytes(model) == 4 * elements


# Measuring


def test_ceilings_are_measured_on_a_cpu() -> None:
    found = ceilings.measured(device="cpu", dtype="float32", budget=SMALL)
    assert min(found.read_bytes_per_s, found.copy_bytes_per_s, found.matmul_flops_per_s) > 0
    assert found.graph_node_s is None


class Clock:
    """Stands for the module `time`; calls take what the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_a_ceiling_is_the_best_of_all_calls_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seconds = Clock(), iter([0.5, 3.0, 2.0, 4.0, 9.0])
    monkeypatch.setattr(ceilings, "time", clock)

    def call() -> None:
        clock.now += next(seconds)

    best = ceilings.best_seconds(call, torch.device("cpu"), Budget(seconds=8.0, least=2))
    # the first is not counted; 3 + 2 + 4 seconds are more than the eight
    assert best == 2.0
    assert next(seconds) == 9.0


def test_bandwidths_count_bytes_read_and_of_a_copy_both(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([4.0, 2.0, 8.0, 16.0])
    monkeypatch.setattr(ceilings, "best_seconds", lambda call, device, budget: next(times))
    size = 2**20
    read, copied = ceilings.bandwidths(torch.device("cpu"), Budget(buffer_bytes=size))
    assert (read, copied) == (size / 2.0, 2 * size / 16.0)


def test_a_product_of_n_by_n_is_two_n_cubed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.1, 0.1])
    monkeypatch.setattr(ceilings, "best_seconds", lambda call, device, budget: next(times))
    rate = ceilings.matmul_rate(torch.device("cpu"), torch.float32, Budget(matrix_dims=(4, 8)))
    assert rate == pytest.approx(2 * 8**3 / 0.1)


def test_a_dtype_that_is_slow_is_not_tried_in_a_larger_product(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0])
    monkeypatch.setattr(ceilings, "best_seconds", lambda call, device, budget: next(times))
    rate = ceilings.matmul_rate(torch.device("cpu"), torch.float16, Budget(matrix_dims=(4, 8)))
    assert rate == pytest.approx(2 * 4**3 / 5.0)


# Keeping


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An empty cache, a machine as busy as the test says, and measurements that are counted."""
    said: dict[str, Any] = {"calls": 0, "busy": False, "found": SOME}

    def measured(**options: Any) -> Ceilings:
        said["calls"] += 1
        return dataclasses.replace(said["found"], busy=said["busy"])

    monkeypatch.setattr(ceilings, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ceilings, "measured", measured)
    monkeypatch.setattr(ceilings, "is_busy", lambda device: said["busy"])
    return said


def known(**changed: Any) -> Ceilings:
    return ceilings.ceilings(**{"device": "cpu", "dtype": "float32", "threads": 1, **changed})


def test_ceilings_are_measured_once_for_a_machine(counted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert known() == known() == SOME
    assert counted["calls"] == 1
    for number, changed in enumerate(({"dtype": "bfloat16"}, {"threads": 2}), start=2):
        known(**changed)
        assert counted["calls"] == number
    monkeypatch.setattr(ceilings.measure, "machine_fingerprint", lambda: "another")
    known()
    assert counted["calls"] == 4


def test_what_a_busy_machine_gave_is_taken_again_in_a_quieter_time_and_the_higher_stays(
    counted: dict[str, Any],
) -> None:
    counted["busy"] = True
    assert known().busy
    known()
    assert counted["calls"] == 1
    counted["busy"] = False
    counted["found"] = dataclasses.replace(SOME, read_bytes_per_s=300.0, matmul_flops_per_s=10.0)
    found = known()
    assert counted["calls"] == 2
    assert (found.read_bytes_per_s, found.matmul_flops_per_s, found.busy) == (300.0, 1000.0, False)
    known()
    assert counted["calls"] == 2


def test_a_damaged_note_is_measured_again(counted: dict[str, Any], tmp_path: Path) -> None:
    known()
    (note,) = (tmp_path / "ceilings").iterdir()
    note.write_text(note.read_text()[:-9])
    assert known() == SOME
    assert counted["calls"] == 2


def test_without_a_cache_they_are_measured_each_time(counted: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise ceilings.CacheError("no home")

    monkeypatch.setattr(ceilings, "cache_folder", none)
    assert known() == known() == SOME
    assert counted["calls"] == 2
