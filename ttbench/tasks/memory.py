"""Memory: how many bytes a checkpoint needs to be loaded, to read a prompt and to continue it.

Measured, for one checkpoint and one context length c, in a process of its own, here on a CPU:

    phase      what happens                          peak since                resident
    baseline   torch and ttbench are imported        the process started       before load
    load       the checkpoint is opened              the load began            after load
    prefill    a state is made, c tokens are read    the prefill began         after prefill
    decode     decode_tokens steps                   the decoding began        after decode

`peak_rss_bytes` is the kernel's own high-water mark (VmHWM), reset at the start of each phase, so no spike is missed
as it is by a sampler. `working_peak_bytes` is a phase's peak above what was resident after load: activations,
workspace and the state. State bytes are told by the engine (used, allocated) and by the architecture's formula
(analytic); on the eager engine in float32 the two must agree, or the cell is an error.

On a GPU the same phases are read from torch's allocator instead, and the host's bytes are not: what tensors hold
(allocated), what the allocator has taken from the driver (reserved), and which part of that belongs to captured graphs
(see `ttbench.machine.gpu.device_memory`). Columns of the other kind of device are null.

Not measured: memory of other processes, page cache, swap, fragmentation over hours, a second prefill (the first call
is measured, since it is the one that runs out of memory); on a GPU the CUDA context, and what libraries take from the
driver themselves.

Statistic: the peak of a round (of a whole run, the highest of its phases), then the geometric mean over rounds;
state and weights are counts, and exact. Traps: `ru_maxrss` is inherited from the parent; a forked worker inherits VmHWM
too, so the process is exec'd; resident size grows with the number of malloc arenas, so that number is fixed and
recorded; a static KV cache is allocated for its longest use, so used and allocated are both told.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from ttbench.declare import ColumnDeclaration, parameter, text, truth, whole
from ttbench.errors import TooLongError, UsageError
from ttbench.machine import measure
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench, Task
from ttbench.types import Figure, Metric, Sample

if TYPE_CHECKING:
    from ttbench.machine.gpu.device_memory import Allocator


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParams:
    """Parameters of the memory task."""

    decode_tokens: int = parameter(32, "steps of the decode phase", "tokens")
    rounds: int = parameter(3, "fresh processes for each point")


def _highest(name: str, label: str) -> Metric:
    """The peak of a whole run: the highest of its phases."""
    return Metric(
        name=name, label=label, unit="bytes", better="lower", statistic="max", numerator=name, cluster="round"
    )


def _on_gpu(name: str, label: str, phase: str) -> Metric:
    """The peak of tensors in one phase; torch's counter is always reset when the phase begins."""
    return Metric(
        name=name,
        label=label,
        unit="bytes",
        better="lower",
        statistic="median",
        numerator="peak_allocated_bytes",
        cluster="round",
        where={"phase": phase},
    )


def _peak(name: str, label: str, numerator: str, phase: str) -> Metric:
    return dataclasses.replace(
        _on_gpu(name, label, phase),
        numerator=numerator,
        valid="peak_reset",
        invalid="the peak of this phase could not be told from an earlier one: the system does not reset its counter",
    )


def _exact(name: str, label: str, phase: str) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="bytes",
        better="lower",
        statistic="count",
        numerator=name,
        cluster="round",
        where={"phase": phase},
    )


class Memory(Task):
    """Peak bytes by phase, and bytes of state; see the module's docstring."""

    name: ClassVar[str] = "memory"
    version: ClassVar[int] = 2
    Params: ClassVar[type[Any]] = MemoryParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "phase": text("what was done: baseline, load, prefill or decode"),
        "method": text(
            "counter that the peak was read from: vmhwm; peak_wset or ru_maxrss, which cannot be reset; cuda_allocator"
        ),
        "peak_rss_bytes": whole("highest resident memory of the process during the phase; null on a GPU", "bytes"),
        "rss_bytes": whole("resident memory of the process after the phase; null on a GPU", "bytes"),
        "peak_allocated_bytes": whole("GPU: most that tensors held during the phase", "bytes"),
        "allocated_bytes": whole("GPU: what tensors hold after the phase", "bytes"),
        "peak_reserved_bytes": whole("GPU: most that torch had taken from the driver during the phase", "bytes"),
        "reserved_bytes": whole("GPU: what torch has taken from the driver after the phase", "bytes"),
        "graph_pool_bytes": whole("GPU: the part of reserved_bytes that belongs to captured graphs", "bytes"),
        "working_peak_bytes": whole(
            "peak of the phase above what was there after load: resident, or allocated", "bytes"
        ),
        "weight_bytes": whole("weights as the engine holds them; on the row of phase load", "bytes"),
        "state_bytes": whole("state in use after the phase, over the batch", "bytes"),
        "state_allocated_bytes": whole("state that is allocated after the phase, over the batch", "bytes"),
        "state_bytes_analytic": whole("state by the formula of the architecture; null without one", "bytes"),
        "peak_reset": truth("whether the system reset its peak counter when the phase began"),
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(name="state", title="State carried after the context", metric="state_bytes", log_y=True),
        Figure(
            name="working_memory",
            title="Memory to read the context, above the loaded model",
            metric="prefill_working_bytes",
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "cell"
    needs_corpus: ClassVar[bool] = False
    any_weights: ClassVar[bool] = True
    default_ctx: ClassVar[str] = "512,2k,8k"
    metrics: ClassVar[tuple[Metric, ...]] = (
        _highest("peak_rss_bytes", "peak memory"),
        _highest("peak_allocated_bytes", "peak of tensors on the GPU"),
        _highest("peak_reserved_bytes", "peak taken from the GPU's driver"),
        _peak("load_peak_bytes", "peak while loading", "peak_rss_bytes", "load"),
        _peak("prefill_peak_bytes", "peak while reading", "peak_rss_bytes", "prefill"),
        _peak("decode_peak_bytes", "peak while decoding", "peak_rss_bytes", "decode"),
        _on_gpu("load_allocated_bytes", "tensors while loading", "load"),
        _on_gpu("prefill_allocated_bytes", "tensors while reading", "prefill"),
        _on_gpu("decode_allocated_bytes", "tensors while decoding", "decode"),
        _exact("graph_pool_bytes", "kept for captured graphs", "decode"),
        _peak("prefill_working_bytes", "reading, above the loaded model", "working_peak_bytes", "prefill"),
        _exact("weight_bytes", "weights", "load"),
        _exact("state_bytes", "state in use", "prefill"),
        _exact("state_allocated_bytes", "state allocated", "prefill"),
    )

    def num_rounds(self, params: MemoryParams) -> int:
        return params.rounds

    def check(self, params: MemoryParams) -> None:
        for name in ("decode_tokens", "rounds"):
            if getattr(params, name) < 1:
                raise UsageError(f"memory {name} must be at least 1; got {getattr(params, name)}")

    def tokens(self, params: MemoryParams, context_len: int) -> int:
        return context_len + params.decode_tokens

    def work(self, params: MemoryParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        return Work(
            calls=(
                Calls(num=1, num_tokens=context_len, batch_size=batch_size),
                Calls(num=1, num_tokens=params.decode_tokens, batch_size=batch_size, after=context_len, steps=True),
            )
        )

    def measure(self, bench: Bench) -> Iterator[Sample]:
        cell = bench.cell
        params: MemoryParams = self.Params(**cell.params)
        measure.prepare_process()
        counters = _counters(cell.device)
        yield _sample("baseline", counters, reset=False)

        reset = counters.reset()
        engine = bench.engine
        gc.collect()
        yield _sample("load", counters, reset=reset, values={"weight_bytes": engine.weight_bytes})
        bench.progress(1, 3)

        num_tokens = cell.context_len + params.decode_tokens
        if engine.max_context is not None and num_tokens > engine.max_context:
            raise TooLongError(
                f"{num_tokens} tokens are needed (context and decoded tokens); "
                f"the model takes at most {engine.max_context}"
            )
        rng = np.random.default_rng([cell.seed, cell.context_len, cell.batch_size])
        ids = rng.integers(0, engine.vocab_size, size=(cell.batch_size, cell.context_len))
        steps = rng.integers(0, engine.vocab_size, size=(params.decode_tokens, cell.batch_size))
        gc.collect()

        loaded, reset = counters.held(), counters.reset()
        engine.reset(cell.batch_size, num_tokens)
        engine.prefill(ids)
        engine.synchronize()
        yield _sample("prefill", counters, reset=reset, loaded=loaded, values=_state(bench, cell.context_len))
        bench.progress(2, 3)

        reset = counters.reset()
        for step_ids in steps:
            engine.decode(step_ids)
        engine.synchronize()
        yield _sample("decode", counters, reset=reset, loaded=loaded, values=_state(bench, num_tokens))
        bench.progress(3, 3)


class _Counters(Protocol):
    """Where the bytes of a device are read."""

    method: str

    def reset(self) -> bool:
        """Let the peaks start again; whether they did."""
        ...

    def held(self) -> int:
        """Bytes that are there now, of which a phase's working peak is told above."""
        ...

    def values(self) -> dict[str, int]:
        """Columns of the device's kind."""
        ...

    def peak(self) -> int:
        """The highest of what `held` tells since the last reset."""
        ...


class _Host:
    """Resident memory of this process."""

    def __init__(self) -> None:
        self.method = measure.peak_rss_method()

    def reset(self) -> bool:
        return measure.reset_peak_rss()

    def held(self) -> int:
        return measure.rss()

    def values(self) -> dict[str, int]:
        return {"peak_rss_bytes": measure.peak_rss(), "rss_bytes": measure.rss()}

    def peak(self) -> int:
        return measure.peak_rss()


class _Device:
    """The allocator of a GPU."""

    def __init__(self, allocator: Allocator, method: str) -> None:
        self.allocator, self.method = allocator, method

    def reset(self) -> bool:
        self.allocator.reset_peaks()
        return True

    def held(self) -> int:
        return self.allocator.allocated()

    def values(self) -> dict[str, int]:
        return {
            "peak_allocated_bytes": self.allocator.peak_allocated(),
            "allocated_bytes": self.allocator.allocated(),
            "peak_reserved_bytes": self.allocator.peak_reserved(),
            "reserved_bytes": self.allocator.reserved(),
            "graph_pool_bytes": self.allocator.graph_pool(),
        }

    def peak(self) -> int:
        return self.allocator.peak_allocated()


def _counters(device: str) -> _Counters:
    if device == "cpu":
        return _Host()
    # Late: it imports torch, which the task must not do before the process is prepared.
    from ttbench.machine.gpu import device_memory

    allocator = device_memory.allocator(device)
    return _Host() if allocator is None else _Device(allocator, device_memory.METHOD)


_NOTHING: Mapping[str, int | None] = dict.fromkeys(
    (
        *("peak_rss_bytes", "rss_bytes", "peak_allocated_bytes", "allocated_bytes", "peak_reserved_bytes"),
        *("reserved_bytes", "graph_pool_bytes"),
        *("weight_bytes", "state_bytes", "state_allocated_bytes", "state_bytes_analytic"),
    )
)


def _sample(
    phase: str,
    counters: _Counters,
    *,
    reset: bool,
    loaded: int | None = None,
    values: Mapping[str, int | None] = _NOTHING,
) -> Sample:
    # Before anything else is made here: reading must not raise what is read.
    peak, told = counters.peak(), counters.values()
    return Sample(
        keys={"phase": phase, "method": counters.method},
        values={
            **_NOTHING,
            **values,
            **told,
            "peak_reset": reset,
            "working_peak_bytes": peak - loaded if reset and loaded is not None else None,
        },
    )


def _state(bench: Bench, num_tokens: int) -> dict[str, int | None]:
    """State bytes used, allocated and analytic after `num_tokens` tokens. Raises RuntimeError when they disagree."""
    engine, cell = bench.engine, bench.cell
    cost = cell.checkpoint.cost
    analytic = None if cost is None else cost.state_nbytes(num_tokens) * cell.batch_size
    exact = cell.engine == "eager" and cell.dtype == "float32"
    if exact and analytic is not None and engine.state_bytes != analytic:
        raise RuntimeError(
            f"state of {cell.checkpoint.architecture} after {num_tokens} tokens at batch size {cell.batch_size}: "
            f"the engine holds {engine.state_bytes} bytes, its formula says {analytic}; correct `cost` or the State"
        )
    return {
        "state_bytes": engine.state_bytes,
        "state_allocated_bytes": engine.state_allocated_bytes,
        "state_bytes_analytic": analytic,
    }
