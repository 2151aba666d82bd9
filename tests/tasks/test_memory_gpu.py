"""The memory task on a GPU whose allocator is a fake: what each phase holds is known, and the host has no say."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from stored import ok_record
from test_memory import CONSTANT, cell_of

from ttbench.engines.engine import Engine
from ttbench.errors import UsageError
from ttbench.machine import measure
from ttbench.machine.gpu import device_memory
from ttbench.machine.gpu.device_memory import private_bytes
from ttbench.report.table import summarise
from ttbench.store.collected import table
from ttbench.store.rows import frame
from ttbench.tasks.base import Bench, declared_columns
from ttbench.tasks.memory import Memory
from ttbench.types import Sample

MIB = 1024**2
PEAK, POOL = 50 * MIB, 24 * MIB


class FakeAllocator:
    """Blocks are kept once they were taken, as torch's allocator keeps them."""

    def __init__(self) -> None:
        self.live = self.kept = self.most_live = self.most_kept = self.pool = 0

    def take(self, num_bytes: int) -> None:
        self.live += num_bytes
        self.kept = max(self.kept, self.live + self.pool)
        self.most_live, self.most_kept = max(self.most_live, self.live), max(self.most_kept, self.kept)

    def give(self, num_bytes: int) -> None:
        self.live -= num_bytes

    def allocated(self) -> int:
        return self.live

    def reserved(self) -> int:
        return self.kept

    def peak_allocated(self) -> int:
        return self.most_live

    def peak_reserved(self) -> int:
        return self.most_kept

    def graph_pool(self) -> int:
        return self.pool

    def reset_peaks(self) -> None:
        self.most_live, self.most_kept = self.live, self.kept


class EngineOnAGpu:
    """Weights of 100 MiB that pass through a copy of 30; a prompt needs 50 for a moment, a step makes graphs."""

    name, device, dtype, vocab_size, max_context = "eager", "cuda", "float32", 100, None
    weight_bytes = 100 * MIB
    state_bytes = state_allocated_bytes = 4096

    def __init__(self, allocator: FakeAllocator) -> None:
        self.allocator = allocator
        allocator.take(130 * MIB)
        allocator.give(30 * MIB)

    def reset(self, batch_size: int, max_len: int) -> None:
        self.allocator.take(4096)

    def prefill(self, ids: np.ndarray) -> None:
        self.allocator.take(PEAK)
        self.allocator.give(PEAK)

    def decode(self, ids: np.ndarray) -> None:
        if not self.allocator.pool:
            self.allocator.pool = POOL
            self.allocator.take(0)

    def synchronize(self) -> None: ...


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> dict[str, Sample]:
    found = FakeAllocator()
    monkeypatch.setattr(device_memory, "allocator", lambda device: found)
    monkeypatch.setattr(measure, "prepare_process", lambda: None)
    for host in ("rss", "peak_rss", "reset_peak_rss"):
        monkeypatch.setattr(measure, host, lambda: pytest.fail("the host's bytes are not the GPU's"))
    bench = Bench(
        cell=cell(),
        open_engine=lambda: cast(Engine, EngineOnAGpu(found)),
        open_corpus=lambda: pytest.fail("no corpus"),
        open_tokenizer=lambda: pytest.fail("no tokenizer"),
        progress=lambda done, total: None,
    )
    return {str(sample.keys["phase"]): sample for sample in Memory().measure(bench)}


def cell() -> Any:
    found = cell_of(CONSTANT, context_len=16, batch_size=1, dtype="float32", engine="eager", decode_tokens=4)
    return dataclasses.replace(found, device="cuda", machine="m")


def column(samples: dict[str, Sample], name: str) -> list[Any]:
    return [sample.values[name] for sample in samples.values()]


def test_peaks_by_phase_are_the_allocators(samples: dict[str, Sample]) -> None:
    assert list(samples) == ["baseline", "load", "prefill", "decode"]
    held = 100 * MIB + 4096
    assert column(samples, "peak_allocated_bytes") == [0, 130 * MIB, held + PEAK, held]
    assert column(samples, "allocated_bytes") == [0, 100 * MIB, held, held]
    assert column(samples, "peak_reserved_bytes") == [0, 130 * MIB, held + PEAK, held + PEAK]
    assert column(samples, "working_peak_bytes") == [None, None, PEAK + 4096, 4096]


def test_what_graphs_keep_stands_apart(samples: dict[str, Sample]) -> None:
    assert column(samples, "graph_pool_bytes") == [0, 0, 0, POOL]


def test_no_byte_of_the_host_is_in_a_row(samples: dict[str, Sample]) -> None:
    for name in ("rss_bytes", "peak_rss_bytes"):
        assert column(samples, name) == [None] * 4
    assert {sample.keys["method"] for sample in samples.values()} == {"cuda_allocator"}


def test_the_table_has_the_gpus_peaks_and_none_of_the_hosts(samples: dict[str, Sample]) -> None:
    record = ok_record(Memory, cell(), [*samples.values()], columns=declared_columns(Memory))
    entries = summarise(frame(table([record]))).to_dict("records")
    found = {entry["metric"]: entry["value"] for entry in entries}
    assert found["peak_allocated_bytes"] == pytest.approx(150 * MIB + 4096)
    assert found["prefill_allocated_bytes"] == pytest.approx(150 * MIB + 4096)
    assert found["graph_pool_bytes"] == POOL
    assert not {name for name in found if name in ("peak_rss_bytes", "load_peak_bytes", "decode_peak_bytes")}


def test_a_pool_of_graphs_is_every_segment_that_is_not_the_shared_one() -> None:
    segments = [
        {"device": 0, "total_size": 2 * MIB, "segment_pool_id": (0, 0)},
        {"device": 0, "total_size": 20 * MIB, "segment_pool_id": (0, 1)},
        {"device": 0, "total_size": 3 * MIB, "segment_pool_id": (2, 0)},
        {"device": 1, "total_size": 7 * MIB, "segment_pool_id": (0, 1)},
    ]
    assert private_bytes(segments, 0) == 23 * MIB
    assert private_bytes(segments, 1) == 7 * MIB


def test_a_cpu_has_no_allocator_to_ask_and_a_gpu_that_is_not_there_is_said() -> None:
    assert device_memory.allocator("cpu") is None
    with pytest.raises(UsageError, match="device 'cuda:9' is not there"):
        device_memory.allocator("cuda:9")
