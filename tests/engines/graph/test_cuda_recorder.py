"""The calls of torch.cuda, in their order, against a stand-in that knows the names and arguments of the real one."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ttbench.engines.graph.cuda import CudaRecorder
from ttbench.errors import UsageError

GPU = torch.device("cuda", 1)


class FakeStream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self._log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self._log.append(f"{self.name} waits for {other.name}")


class FakeGraph:
    def __init__(self, log: list[str]) -> None:
        self._log = log

    def replay(self) -> None:
        self._log.append("replay")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the recorder asked of torch.cuda. Whatever the real one lacks cannot be replaced, and fails here."""
    calls: list[str] = []
    streams = {"current": FakeStream("current", calls)}

    def stream_of(device: Any) -> FakeStream:
        assert device == GPU
        return FakeStream("side", calls)

    @contextlib.contextmanager
    def inside(stream: FakeStream) -> Iterator[None]:
        calls.append(f"enter {stream.name}")
        yield
        calls.append(f"leave {stream.name}")

    @contextlib.contextmanager
    def capturing(graph: FakeGraph, *, pool: Any, stream: FakeStream) -> Iterator[None]:
        calls.append(f"capture on {stream.name} into {pool}")
        yield
        calls.append("captured")

    inspect.signature(torch.cuda.graph.__init__).bind(None, None, pool=None, stream=None)
    real = torch.cuda
    for name, fake in {
        "Stream": stream_of,
        "current_stream": lambda device: streams["current"],
        "stream": inside,
        "graph": capturing,
        "graph_pool_handle": lambda: (0, 7),
        "CUDAGraph": lambda: FakeGraph(calls),
        "device": lambda device: contextlib.nullcontext(),
        "memory_snapshot": lambda: [
            {"segment_pool_id": (0, 7), "total_size": 100},
            {"segment_pool_id": (0, 0), "total_size": 9999},
            {"segment_pool_id": [0, 7], "total_size": 20},
        ],
    }.items():
        monkeypatch.setattr(real, name, fake)
    return calls


def test_a_warm_up_runs_on_the_side_stream_between_two_waits(log: list[str]) -> None:
    CudaRecorder(GPU).warm_up(lambda: log.append("call"), times=2)
    assert log == [
        "side waits for current",
        "enter side",
        "call",
        "call",
        "leave side",
        "current waits for side",
    ]


def test_captures_share_the_stream_of_the_warm_up_and_one_pool(log: list[str]) -> None:
    recorder = CudaRecorder(GPU)
    graphs = [recorder.capture(lambda: log.append("call")) for _ in range(2)]
    graphs[1].replay()
    assert log == ["capture on side into (0, 7)", "call", "captured"] * 2 + ["replay"]


def test_the_pool_is_counted_apart_from_other_memory(log: list[str]) -> None:
    assert CudaRecorder(GPU).pool_bytes == 120


def test_another_device_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot run on cpu; add --device cuda, or use --engine eager"):
        CudaRecorder(torch.device("cpu"))
