"""CUDA graphs themselves. These run by themselves where there is a GPU; docs/graphs.md says whether they ever did."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ttbench.engines import eager
from ttbench.engines.eager import EagerEngine
from ttbench.engines.graph.graph_check import addresses, replay
from ttbench.engines.graph.graph_engine import GraphEngine
from ttbench.kernels import attention
from ttbench.models.base import SequenceModel
from ttbench.registry import ARCHITECTURES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DTYPES = ("float32", "bfloat16")


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def engines(name: str, dtype: str) -> tuple[GraphEngine, EagerEngine]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: SequenceModel = ARCHITECTURES.load(name).tiny().eval()
    graph = GraphEngine(model, device="cuda", dtype=dtype)
    return graph, EagerEngine(model, device="cuda", dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_replays_equal_eager_over_two_mini_batches(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "CHUNK_LEN", 64)
    graph, plain = engines(name, dtype)
    found = replay(plain, graph)
    assert found.passed, found
    assert addresses(graph).passed


@pytest.fixture
def no_sync() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_sync")
def test_a_replayed_step_waits_for_nothing(name: str) -> None:
    graph, _ = engines(name, "float32")
    ids = graph.place(torch.randint(0, 257, (40, 2)))
    graph.reset(2, 40)
    graph.prepare(num_steps=40)
    graph.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for row in ids:
        graph.decode(row)
    torch.cuda.set_sync_debug_mode("default")
    graph.synchronize()


@pytest.mark.usefixtures("no_sync")
@pytest.mark.parametrize("name", ["mamba", "mamba2", "reformer", "s4d", "ttt-linear", "ttt-mlp", "titans-lmm"])
def test_a_replayed_chunk_waits_for_nothing(name: str) -> None:
    graph, _ = engines(name, "float32")
    graph.reset(2, 64)
    graph.prepare(prompt_len=64)
    (captured,) = graph._graphs.values()
    ids = graph.place(torch.randint(0, 257, (2, 64)))
    graph.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    with torch.inference_mode():
        captured(ids)
    torch.cuda.set_sync_debug_mode("default")


def test_the_pool_is_told() -> None:
    graph, _ = engines("ttt-linear", "float32")
    graph.reset(2, 64)
    graph.prepare(num_steps=40)
    assert graph.pool_bytes > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 34, 128])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 63), (15, 15), (15, 100), (63, 64), (100, 301)])
def test_attention_on_a_gpu_follows_the_formula(
    num_queries: int, num_keys: int, groups: int, dim: int, dtype: torch.dtype
) -> None:
    draw = torch.Generator().manual_seed(num_keys)
    shapes = ((2, 4, num_queries, dim), (2, groups, num_keys, dim), (2, groups, num_keys, dim))
    q, k, v = (torch.randn(shape, generator=draw, dtype=torch.float64).to("cuda", dtype) for shape in shapes)
    wide = [x.double().repeat_interleave(4 // x.shape[1], dim=1) for x in (q, k, v)]
    wanted = attention.reference(*wide)
    seen = torch.ones(1, 1, 1, num_keys, dtype=torch.bool, device="cuda")
    with torch.no_grad():
        results = [attention.chunked(q, k, v)]
        if num_queries == 1:
            results.append(attention.step(q, k, v, seen))
    limit = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.02}[dtype]
    for found in results:
        assert _error(found, wanted) < limit


def _error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())
