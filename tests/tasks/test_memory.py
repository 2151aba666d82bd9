"""The memory task, on engines of numpy whose bytes are known."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from stored import ok_record
from stub_engine import stored

from ttbench.errors import TooLongError, UsageError
from ttbench.machine import measure
from ttbench.registry import ARCHITECTURES
from ttbench.report.table import summarise
from ttbench.store.collected import table
from ttbench.store.rows import frame
from ttbench.tasks.base import Bench
from ttbench.tasks.memory import Memory, MemoryParams
from ttbench.types import Cell, Checkpoint, Cost, Sample

if TYPE_CHECKING:
    from ttbench.engines.engine import Engine

MIB = 1024**2
CONSTANT = Cost(flops_per_token=1, flops_per_context_token=0, state_bytes=4096, state_bytes_per_token=0)
GROWING = Cost(flops_per_token=1, flops_per_context_token=1, state_bytes=64, state_bytes_per_token=512)


class HungryEngine:
    """Holds real bytes: weights, a state as `cost` says, and a spike while it reads."""

    name, device, dtype, vocab_size = "eager", "cpu", "float32", 100

    def __init__(
        self, cost: Cost, *, weights: int = 0, spike: int = 0, wrong_bytes: int = 0, max_context: int | None = None
    ) -> None:
        self.cost, self.spike, self.wrong_bytes, self.max_context = cost, spike, wrong_bytes, max_context
        self.weights = np.ones(weights, dtype=np.uint8)
        self.weight_bytes = weights
        self.num_tokens = 0

    def reset(self, batch_size: int, max_len: int) -> None:
        self.num_tokens, self.batch_size = 0, batch_size
        self.state = np.ones(batch_size * self.cost.state_nbytes(max_len), dtype=np.uint8)

    def prefill(self, ids: np.ndarray) -> None:
        spike = np.ones(self.spike, dtype=np.uint8)
        self.num_tokens += ids.shape[1]
        del spike

    def decode(self, ids: np.ndarray) -> None:
        assert ids.shape == (self.batch_size,)
        self.num_tokens += 1

    def synchronize(self) -> None:
        pass

    @property
    def state_bytes(self) -> int:
        return self.batch_size * self.cost.state_nbytes(self.num_tokens) + self.wrong_bytes

    @property
    def state_allocated_bytes(self) -> int:
        return self.state.nbytes


def cell_of(cost: Cost, *, context_len: int, batch_size: int, dtype: str, engine: str, decode_tokens: int) -> Cell:
    checkpoint = Checkpoint(
        **dict.fromkeys(("name", "path", "architecture", "dialect", "provenance"), "stub"),
        **dict.fromkeys(("weights_digest", "config_digest"), "0"),
        **dict.fromkeys(("revision", "tokenizer_digest", "train_ctx")),
        **dict.fromkeys(("architecture_version", "vocab_size", "num_params", "weight_bytes"), 1),
        num_params_non_embedding=1,
        cost=cost,
    )
    return Cell(
        task="memory",
        task_version=1,
        checkpoint=checkpoint,
        context_len=context_len,
        params=dataclasses.asdict(MemoryParams(decode_tokens=decode_tokens)),
        corpus=None,
        corpus_digest=None,
        seed=0,
        dtype=dtype,
        device="cpu",
        engine=engine,
        attention="sdpa",
        batch_size=batch_size,
        threads=1,
    )


def samples_of(
    cost: Cost,
    *,
    context_len: int = 100,
    batch_size: int = 1,
    dtype: str = "float32",
    engine: str = "eager",
    decode_tokens: int = 8,
    engine_object: Engine | None = None,
    **holds: Any,
) -> dict[str, Sample]:
    def refuse() -> Any:
        raise AssertionError("the memory task needs neither corpus nor tokenizer")

    bench = Bench(
        cell=cell_of(
            cost,
            context_len=context_len,
            batch_size=batch_size,
            dtype=dtype,
            engine=engine,
            decode_tokens=decode_tokens,
        ),
        open_engine=lambda: engine_object or cast("Engine", HungryEngine(cost, **holds)),
        open_corpus=refuse,
        open_tokenizer=refuse,
        progress=lambda done, total: None,
    )
    return {str(s.keys["phase"]): s for s in stored(Memory(), list(Memory().measure(bench)))}


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "prepare_process", lambda: None)


def test_every_phase_is_a_row_with_the_same_columns() -> None:
    samples = samples_of(CONSTANT)
    assert list(samples) == ["baseline", "load", "prefill", "decode"]
    assert len({frozenset(s.values) for s in samples.values()}) == 1
    assert {s.keys["method"] for s in samples.values()} == {measure.peak_rss_method()}


# A fresh process each, as the runner starts it, so that nothing but the stub is in the counters.
HERE = Path(__file__).parent
IN_A_PROCESS = """
import json, sys
sys.path[:0] = {folders!r}
import test_memory
from ttbench.machine import measure
measure.prepare_process = lambda: None
samples = test_memory.samples_of(test_memory.{cost}, **{options!r})
print(json.dumps({{phase: dict(sample.values) for phase, sample in samples.items()}}))
"""


def phases_in_a_process(cost: str, **options: Any) -> dict[str, dict[str, int]]:
    code = IN_A_PROCESS.format(folders=[str(HERE), str(HERE.parent / "support")], cost=cost, options=options)
    env = {**os.environ, **measure.worker_variables(1)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="phases need VmHWM")
def test_peaks_by_phase_hold_what_each_phase_held_even_below_a_fat_parent() -> None:
    fat = np.ones(500 * MIB, dtype=np.uint8)
    seen = phases_in_a_process("GROWING", weights=60 * MIB, spike=200 * MIB, context_len=40_000, decode_tokens=8)
    # 40,008 tokens of 512 bytes
    state = 19.5 * MIB
    assert all(phase["peak_rss_bytes"] < fat.nbytes for phase in seen.values())
    assert all(seen[phase]["peak_reset"] for phase in ("load", "prefill", "decode"))
    loaded = seen["load"]["peak_rss_bytes"] - seen["baseline"]["rss_bytes"]
    assert loaded == pytest.approx(60 * MIB, abs=6 * MIB)
    assert seen["load"]["weight_bytes"] == 60 * MIB
    assert seen["prefill"]["working_peak_bytes"] == pytest.approx(200 * MIB + state, abs=6 * MIB)
    # the spike of prefill is over; the state stays
    assert seen["decode"]["working_peak_bytes"] == pytest.approx(state, abs=6 * MIB)
    assert seen["decode"]["peak_rss_bytes"] < seen["prefill"]["peak_rss_bytes"] - 190 * MIB


def test_phases_whose_peak_could_not_be_reset_have_no_number_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "reset_peak_rss", lambda: False)
    assert samples_of(GROWING)["prefill"].values["working_peak_bytes"] is None
    cell = dataclasses.replace(
        cell_of(GROWING, context_len=100, batch_size=1, dtype="float32", engine="eager", decode_tokens=8), machine="m"
    )
    record = ok_record(Memory, cell, [*samples_of(GROWING).values()])
    found = {entry["metric"]: entry for entry in summarise(frame(table([record]))).to_dict("records")}
    assert found["peak_rss_bytes"]["value"] > 0
    for name in ("load_peak_bytes", "prefill_peak_bytes", "decode_peak_bytes", "prefill_working_bytes"):
        assert (found[name]["status"], found[name]["value"]) == ("unsupported", None)
        assert "does not reset" in found[name]["reason"]
    assert found["state_bytes"]["value"] == 64 + 512 * 100


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_constant_state_stays_and_a_key_value_cache_grows_with_context(batch_size: int) -> None:
    def state(cost: Cost, context_len: int) -> int:
        prefill = samples_of(cost, context_len=context_len, batch_size=batch_size)["prefill"].values
        assert prefill["state_bytes"] == prefill["state_bytes_analytic"]
        return cast(int, prefill["state_bytes"])

    assert [state(CONSTANT, c) for c in (1, 15, 100)] == [4096 * batch_size] * 3
    assert [state(GROWING, c) for c in (1, 15, 100)] == [(64 + 512 * c) * batch_size for c in (1, 15, 100)]


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_holds_the_state_that_its_formula_says(name: str) -> None:
    from ttbench.engines.eager import EagerEngine

    model = ARCHITECTURES.load(name).tiny()
    engine = EagerEngine(model, device="cpu", dtype="float32")
    cost = type(model).cost(model.config, dtype_bytes=4)
    used = []
    for context_len in (33, 100):
        samples = samples_of(cost, engine_object=engine, context_len=context_len, batch_size=2, decode_tokens=17)
        for phase in ("prefill", "decode"):
            held = samples[phase].values
            assert held["state_bytes"] == held["state_bytes_analytic"]
            assert cast(int, held["state_allocated_bytes"]) >= cast(int, held["state_bytes"])
        used.append(samples["prefill"].values["state_bytes"])
    assert samples["load"].values["weight_bytes"] == sum(
        tensor.nbytes for tensor in (*model.parameters(), *model.buffers())
    )
    assert (used[1] > used[0]) is model.state_grows


def test_used_and_allocated_state_are_told_apart() -> None:
    samples = samples_of(GROWING, context_len=100, decode_tokens=8)
    assert samples["prefill"].values["state_bytes"] == 64 + 512 * 100
    assert samples["decode"].values["state_bytes"] == 64 + 512 * 108
    assert samples["prefill"].values["state_allocated_bytes"] == 64 + 512 * 108
    assert samples["decode"].values["state_allocated_bytes"] == 64 + 512 * 108


def test_a_state_that_is_not_what_the_formula_says_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="holds 51268 bytes, its formula says 51264"):
        samples_of(GROWING, context_len=100, wrong_bytes=4)


@pytest.mark.parametrize(("dtype", "engine"), [("bfloat16", "eager"), ("float32", "hf")])
def test_elsewhere_a_difference_is_recorded_not_refused(dtype: str, engine: str) -> None:
    prefill = samples_of(GROWING, dtype=dtype, engine=engine, wrong_bytes=4)["prefill"].values
    assert cast(int, prefill["state_bytes"]) - cast(int, prefill["state_bytes_analytic"]) == 4


def test_a_model_without_room_answers_too_long_after_its_load_was_measured() -> None:
    with pytest.raises(TooLongError, match=r"108 tokens are needed .* at most 107"):
        samples_of(CONSTANT, max_context=107)


@pytest.mark.parametrize("name", ["decode_tokens", "rounds"])
def test_parameters_below_one_are_refused(name: str) -> None:
    Memory().check(MemoryParams())
    with pytest.raises(UsageError, match=f"{name} must be at least 1; got 0"):
        Memory().check(MemoryParams(**{name: 0}))


def test_every_metric_reads_a_column_that_its_phase_fills() -> None:
    samples = samples_of(CONSTANT)
    for metric in Memory.metrics:
        rows = [s for s in samples.values() if s.keys["phase"] == metric.where.get("phase", s.keys["phase"])]
        assert rows
        # what only a GPU has is told in tests/tasks/test_memory_gpu.py
        of_a_gpu = any(word in metric.numerator for word in ("allocated_bytes", "reserved", "graph_pool"))
        kinds = type(None) if of_a_gpu and metric.numerator != "state_allocated_bytes" else int
        assert all(isinstance(row.values[metric.numerator], kinds) for row in rows)
